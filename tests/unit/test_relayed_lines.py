"""What a task logs of the lines that a model's process prints. Pure."""

from __future__ import annotations

import logging

import pytest

from airflow_uc_models.environments import process

WARNED = "2026/11/27 14:29:{:02} WARNING mlflow.models.evaluation: the model type looks like None"
CODE = "/site-packages/mlflow/utils.py:440: UserWarning: Hint: Inferred schema contains integers"


@pytest.fixture
def relayed(monkeypatch, caplog):
    """Relay lines and return what was logged of them at INFO and above."""
    monkeypatch.setattr(process, "_relayed", set())

    def relayed(*lines):
        with caplog.at_level(logging.DEBUG):
            for line in lines:
                process.relay(line)
        return [(r.levelname, r.getMessage()) for r in caplog.records if r.levelno >= logging.INFO]

    return relayed


def test_each_warning_is_told_once(relayed):
    lines = [WARNED.format(1), CODE, "  warnings.warn(", WARNED.format(2), CODE, "  warnings.warn("]
    assert relayed(*lines) == [("WARNING", WARNED.format(1)), ("WARNING", CODE)]


def test_two_warnings_are_two(relayed):
    other = WARNED.format(1).replace("None", "something else")
    assert len(relayed(WARNED.format(1), other)) == 2


def test_what_mlflow_does_is_no_news_and_what_a_model_prints_is_shown_each_time(relayed):
    printed = ["  halfway", "done", "done"]
    assert relayed("2026/11/27 14:29:02 INFO mlflow.models.evaluation: Testing metrics on first row...", *printed) == [
        ("INFO", line) for line in printed
    ]
