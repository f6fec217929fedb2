"""Reports of verdicts: one page of HTML, pure."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from airflow_uc_models.policies import Facts, MetricRule, PromotionPolicy
from airflow_uc_models.validation_report import Report, report_path, unfinished

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """What a browser shows of a page, and what it would load."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.loaded, self.cells, self._texts = [], [], [], []
        self._is_cell = False
        self.feed(page)
        self.text = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for key, value in attributes if key in ("src", "srcset", "data", "action")]
        self.loaded += [value for key, value in attributes if tag == "link" or key.startswith("on")]
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag):
        self._is_cell = self._is_cell and tag != "td"

    def handle_data(self, data):
        if self.tags[-1:] == ["style"]:
            return
        self._texts.append(data)
        if self._is_cell and data.strip():
            self.cells[-1][-1] = f"{self.cells[-1][-1]} {data.strip()}".strip()


def verdict(candidate, champion=None, **rules):
    rules = {"require_signature": False, "compatible_signature": False} | rules
    sides = (Facts(**candidate), None if champion is None else Facts(**champion))
    return {
        "name": "dev.ml.fraud",
        "version": 3,
        "champion": champion and {"name": "prod.ml.fraud", "version": 2},
        **PromotionPolicy(**rules).judge(*sides).to_xcom(),
    }


def shown(*sides, **rules):
    return Page(Report(verdict(*sides, **rules)).html())


def chart(*sides, **rules):
    """The chart of a report."""
    return re.search(r"<svg.*</svg>", Report(verdict(*sides, **rules)).html(), re.DOTALL)[0]


def bars(svg):
    """Widths of the bars by their order: candidate and champion of one metric after the other."""
    return [float(r.get("width")) for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("class") == "bar"]


def test_the_report_shows_each_rule_with_both_sides_and_what_was_required():
    rules = [MetricRule("accuracy", min=0.9, min_gain=0)]
    page = shown(
        {"metrics": {"accuracy": 0.89996}}, {"metrics": {"accuracy": 0.91}}, metrics=rules, require_champion=True
    )
    assert page.text.startswith("dev.ml.fraud/3: rejected dev.ml.fraud version 3 rejected 2 of 3 rules failed.")
    assert "Champion prod.ml.fraud version 2" in page.text
    assert page.cells[1:] == [
        ["✗ failed", "accuracy accuracy 0.89996, required >= 0.9", "0.89996", "0.91", ">= 0.9"],
        ["✗ failed", "accuracy accuracy 0.9, champion 0.91: gain -0.01004, required >= 0", "0.9", "0.91", "gain >= 0"],
        ["✓ passed", "champion there is a champion", "", "", "present"],
    ]


def test_it_says_where_it_comes_from_and_spells_its_links_out():
    given = verdict({"metrics": {"a": 1}}, metrics=[MetricRule("a", min=0)])
    links = {"Run": "https://mlflow.example/#/runs/1", "Champion": "", "Evil": "javascript:alert(1)"}
    page = Page(Report(given, {"Dag run": "manual__1"}, links).html())
    assert "Dag run manual__1" in page.text
    assert page.text.endswith("Links Run https://mlflow.example/#/runs/1")


def test_it_loads_nothing_and_runs_nothing():
    page = shown({"metrics": {"a": 1}}, {"metrics": {"a": 2}}, metrics=[MetricRule("a", min=0)])
    assert page.loaded == []
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert page.tags.count("svg") == 1


def test_the_same_verdict_gives_the_same_report():
    given = verdict({"metrics": {"a": 1}}, metrics=[MetricRule("a", min=0)])
    assert Report(given).html() == Report(given).html()
    assert report_path("dev.ml.fraud", 3, "k1") == "validation/dev.ml.fraud-v3/k1.html"


def test_until_there_is_a_verdict_the_page_says_so():
    page = Page(unfinished({"name": "dev.ml.fraud", "version": 3}, {"Task": "validate"}))
    assert "dev.ml.fraud version 3 running The validation has not finished yet" in page.text
    assert "Task validate" in page.text


def test_what_people_wrote_is_no_markup():
    note = "<b>x</b> <script>alert(1)</script> &amp; \"'"
    page = shown({"tags": {"note": note}}, required_tags=["note"])
    assert page.cells[1][2] == note
    assert not {"b", "script"} & set(page.tags)


def test_bars_are_as_long_as_their_values():
    metrics = [MetricRule("a", min=0), MetricRule("b", min=0)]
    svg = chart({"metrics": {"a": 0.5, "b": -3}}, {"metrics": {"a": 1.0, "b": 1}}, metrics=metrics)
    assert bars(svg) == [260.0, 520.0, 390.0, 130.0]


def test_thresholds_are_drawn_where_they_are():
    svg = chart(
        {"metrics": {"a": 0.5}}, None, metrics=[MetricRule("a", min=0.25, max=1, min_gain=0, higher_is_better=True)]
    )
    lines = [(line.get("x1"), line.get("x2")) for line in ET.fromstring(svg).iter(f"{SVG}line")]
    assert lines == [("360.0", "360.0"), ("750.0", "750.0")]
    assert svg.count("required ") == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_number_has_no_bar(value):
    known = {} if value is None else {"a": value}
    svg = chart({"metrics": known}, {"metrics": {"a": 1.0}}, metrics=[MetricRule("a", min=0)])
    assert bars(svg) == [520.0]
    assert f">{'none' if value is None else value}</text>" in svg


@pytest.mark.parametrize("value", [0.0, 1.7e308, -1.7e308, 5e-324])
def test_numbers_of_any_size_are_drawn(value):
    sides = {"metrics": {"a": value}}, {"metrics": {"a": -value}}
    assert all(0 <= width <= 520 for width in bars(chart(*sides, metrics=[MetricRule("a", min=0)])))


def test_names_are_escaped_and_cut():
    svg = chart({}, metrics=[MetricRule("<&>" + "x" * 50, min=0)])
    assert "&lt;&amp;&gt;xxx" in svg
    assert "xxx…</text>" in svg


def test_of_very_many_metrics_the_chart_shows_some():
    page = shown({}, metrics=[MetricRule(f"m{i}", min=0) for i in range(50)])
    assert "10 more metrics are in the table above." in page.text
    assert len(page.cells) == 51


def test_without_metrics_there_is_no_chart():
    assert "svg" not in shown({}, required_tags=["a"]).tags
