"""docs/inference.md says what the code says."""

from __future__ import annotations

import re

import pytest
from support.guides import DOCS, blocks

from airflow_uc_models.engines import ai_query, databricks, engine_of
from airflow_uc_models.engines.local import LocalEngine
from airflow_uc_models.environments import cache
from airflow_uc_models.environments.build import _OF_THE_TASK

GUIDE = (DOCS / "inference.md").read_text()


def section(title):
    return GUIDE.partition(f"\n## Engine `{title}`\n")[2].partition("\n## ")[0]


def test_the_examples_are_operators_whose_engines_take_them(monkeypatch):
    monkeypatch.setattr(LocalEngine, "check", lambda self, job: None)  # asks the worker for a provider of s3
    names, engines = {}, []
    for example in blocks(GUIDE, "python"):
        exec(example.replace("BatchInferenceOperator(", "operator = BatchInferenceOperator("), names)
        operator = names["operator"]
        operator.task_key = lambda context, source: "key"
        engine, job = engine_of(operator.engine), operator._job({}, None)
        engine.capabilities.check(job)
        engine.check(job)
        engines.append(operator.engine)
    assert engines == ["local", "spark", "databricks", "ai_query"]


@pytest.mark.parametrize("name", ["local", "spark", "databricks", "ai_query"])
def test_every_engine_is_told_with_its_options(name):
    told = section(name)
    assert told
    for option in engine_of(name).capabilities.options:
        assert f"`{option}`" in told or f'"{option}"' in told, option


@pytest.mark.parametrize("name", ["databricks", "ai_query"])
def test_refusals_of_the_guide_are_refusals(name):
    words = " ".join(section(name).split())
    [told] = re.findall(r"((?:`\w+`(?:, | and )?)+) are (?:not its choice and are )?refused", words)
    able = engine_of(name).capabilities
    can = {"partition_by": able.partition_by, "env_manager": able.env_managers, "batch_size": able.batch_size}
    assert re.findall(r"`(\w+)`", told) == [field for field in can if not can[field]]


@pytest.mark.parametrize(
    ("engine", "option", "value"),
    [
        ("databricks", "poll_interval", f"{databricks._POLL_SECONDS:g} by default"),
        ("ai_query", "poll_interval", f"{ai_query._POLL_SECONDS:g} by default"),
        ("ai_query", "timeout_seconds", {24 * 3600.0: "one day by default"}[ai_query._TIMEOUT_SECONDS]),
    ],
)
def test_defaults(engine, option, value):
    [line] = [line for line in section(engine).splitlines() if line.startswith(f"| `{option}` |")]
    assert value in line


def test_the_configuration_and_the_cleaned_variables():
    assert f"`[{cache.SECTION}]`" in GUIDE
    for option in (cache.FOLDER_OPTION, cache.SIZE_OPTION):
        assert f"| `{option}` |" in GUIDE
    assert f"; {cache._DEFAULT_GB:g} by default" in GUIDE
    assert {"AIRFLOW", "MLFLOW_", "DATABRICKS_"} <= set(_OF_THE_TASK)
