"""docs/validation.md says what the code says."""

from __future__ import annotations

import json
import re
from dataclasses import fields

from support.guides import DOCS, blocks

from airflow_uc_models.evaluation import Evaluation
from airflow_uc_models.policies import MetricRule, PromotionPolicy
from airflow_uc_models.rules_metrics import slice_metric_name

GUIDE = (DOCS / "validation.md").read_text()


def block(language):
    [found] = blocks(GUIDE, language)
    return found


def rows(header):
    """The names in the first column of a table."""
    table = GUIDE.partition(f"| {header} |")[2].partition("\n\n")[0]
    return [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]


def names(of):
    return [field.name for field in fields(of)]


def test_the_tables_have_every_rule():
    trials = ["evaluation", "env_manager"]
    assert rows("Field of `PromotionPolicy`") == [name for name in names(PromotionPolicy) if name not in trials]
    assert sorted(rows("Field of `MetricRule`")) == sorted(set(names(MetricRule)) - {"name"})


def test_the_example_is_a_policy():
    names_of_example = {}
    exec(block("python"), names_of_example)
    assert len(names_of_example["policy"].rules) == 11
    assert isinstance(names_of_example["policy"].evaluation, Evaluation)


def test_the_json_is_a_policy():
    rendered = block("json").replace("{{ params.floor }}", "0.9")
    assert PromotionPolicy.of(rendered).metric_rules[0] == MetricRule("roc_auc", min=0.9, min_gain=0)
    assert set(json.loads(rendered)) <= set(names(PromotionPolicy))


def test_the_names_of_slices():
    assert f"`{slice_metric_name('accuracy', 'country=DE')}`" in GUIDE
