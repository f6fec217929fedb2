"""Reports of verdicts: pure text."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from airflow_uc_models.policies import Facts, MetricRule, PromotionPolicy
from airflow_uc_models.validation_report import folder, markdown, svg, texts

SVG = "{http://www.w3.org/2000/svg}"


def verdict(candidate, champion=None, **rules):
    rules = {"require_signature": False, "compatible_signature": False} | rules
    sides = (Facts(**candidate), None if champion is None else Facts(**champion))
    return {
        "name": "dev.ml.fraud",
        "version": 3,
        "champion": champion and {"name": "prod.ml.fraud", "version": 2},
        **PromotionPolicy(**rules).judge(*sides).to_xcom(),
    }


def bars(chart):
    """Widths of the bars by their order: candidate and champion of one metric after the other."""
    drawn = [r for r in ET.fromstring(chart).iter(f"{SVG}rect") if r.get("height") == "13"]
    return [float(r.get("width")) for r in drawn]


def test_the_report_shows_each_check_with_both_numbers():
    rules = [MetricRule("accuracy", min=0.9, min_gain=0)]
    text = markdown(verdict({"metrics": {"accuracy": 0.8}}, {"metrics": {"accuracy": 0.85}}, metrics=rules))
    assert text.startswith("# dev.ml.fraud/3: rejected\n\nChampion: prod.ml.fraud/2\n")
    assert "| **FAILED** | accuracy \\>= 0.9 | 0.8 | 0.9 | accuracy 0.8, required \\>= 0.9 |" in text
    assert "| **FAILED** | accuracy gain \\>= 0 | 0.8 | 0.85 | " in text
    assert "![Metrics of candidate and champion](chart.svg)" in text


def test_the_same_verdict_gives_the_same_report():
    given = verdict({"metrics": {"a": 1}}, metrics=[MetricRule("a", min=0)])
    assert texts(given) == texts(given)
    assert folder(given) == "validation/dev.ml.fraud-v3"


def test_what_people_wrote_is_no_markup():
    text = markdown(verdict({"tags": {"note": "a|b\n# <b>x</b> `y`"}}, required_tags=["note"]))
    assert "a\\|b \\# \\<b\\>x\\</b\\> \\`y\\`" in text
    assert [line.count(" | ") for line in text.splitlines() if line.startswith("| passed")] == [4]


def test_bars_are_as_long_as_their_values():
    metrics = [MetricRule("a", min=0), MetricRule("b", min=0)]
    chart = svg(verdict({"metrics": {"a": 0.5, "b": -3}}, {"metrics": {"a": 1.0, "b": 1}}, metrics=metrics))
    assert bars(chart) == [180.0, 360.0, 270.0, 90.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_number_has_no_bar(value):
    known = {} if value is None else {"a": value}
    chart = svg(verdict({"metrics": known}, {"metrics": {"a": 1.0}}, metrics=[MetricRule("a", min=0)]))
    assert bars(chart) == [360.0]
    assert f">{'none' if value is None else value}</text>" in chart


@pytest.mark.parametrize("value", [0.0, 1.7e308, -1.7e308, 5e-324])
def test_numbers_of_any_size_are_drawn(value):
    sides = {"metrics": {"a": value}}, {"metrics": {"a": -value}}
    chart = svg(verdict(*sides, metrics=[MetricRule("a", min=0)]))
    assert all(0 <= width <= 360 for width in bars(chart))


def test_names_are_escaped_and_cut():
    chart = svg(verdict({}, metrics=[MetricRule("<&>" + "x" * 50, min=0)]))
    assert "&lt;&amp;&gt;xxx" in chart
    assert "xxx...</text>" in chart


def test_without_metrics_there_is_no_chart():
    given = verdict({}, required_tags=["a"])
    assert list(texts(given)) == ["report.md"]
    assert "chart" not in texts(given)["report.md"]
