"""The script that counts how often the demo succeeds says why it has not."""

from __future__ import annotations

import pytest

from scripts.demo_under_load import _reason

FAILED_RUN = """
1. The first model becomes Champion
  FAILED validate                   6.3 s

Stopping MLflow and Airflow ...

Run demo_1_first of example is failed.
The end of the log of task validate, try 1:
  Task failed with exception
  AirflowFailException: there is no such run
  NotFoundError: the cause

The demo failed. Logs are in /x.
"""


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (FAILED_RUN, "Run demo_1_first of example is failed. AirflowFailException: there is no such run"),
        ("\nAnother demo is running.\n", "Another demo is running."),
        ("", ""),
    ],
)
def test_the_reason_is_what_the_demo_says(output, reason):
    assert _reason(output) == reason
