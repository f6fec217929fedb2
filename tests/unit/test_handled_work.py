"""Which versions count as handled, from the states of the tasks that worked on them."""

from __future__ import annotations

import pytest

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.operators.pending import MarkModelVersionsHandledOperator

OK, BAD = "success", "failed"


def succeeded(states, skipped_ok=False):
    mark = MarkModelVersionsHandledOperator(task_id="mark", pending=None, skipped_ok=skipped_ok)
    return mark._succeeded("work", states, 2)


@pytest.mark.parametrize(
    ("states", "done"),
    [
        ({"work_0": OK, "work_1": OK}, {0, 1}),
        ({"work_0": BAD, "work_1": OK}, {1}),
        ({"work_0": "upstream_failed", "work_1": None}, set()),
        ({"work_0": "skipped", "work_1": OK}, {1}),
        # a run that is cleared may map fewer tasks than before
        ({"work_0": OK, "work_1": OK, "work_2": "removed"}, {0, 1}),
        # not mapped, or what comes before it failed before it was
        ({"work": OK}, {0, 1}),
        ({"work": BAD}, set()),
        ({"work": "upstream_failed"}, set()),
        ({"work": "skipped"}, set()),
        ({}, set()),
        ({"work": OK, "work_a_0": BAD}, {0, 1}),
    ],
)
def test_what_counts_as_handled(states, done):
    assert succeeded(states) == done


def test_skipped_work_that_is_accepted():
    assert succeeded({"work_0": "skipped", "work_1": BAD}, skipped_ok=True) == {0}
    assert succeeded({"work": "skipped"}, skipped_ok=True) == {0, 1}


@pytest.mark.parametrize("states", [{"work_0": OK}, {"work_0": OK, "work_1": OK, "work_2": OK}, {"work_5": OK}])
def test_work_on_something_else(states):
    with pytest.raises(InvalidArgumentError, match="Map it over the pending versions alone"):
        succeeded(states)
