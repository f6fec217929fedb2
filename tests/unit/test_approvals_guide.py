"""docs/approvals.md says what the code says, and its samples run."""

from __future__ import annotations

import re

import pytest
from airflow.sdk import DAG
from support.guides import DOCS, blocks

GUIDE = (DOCS / "approvals.md").read_text()


@pytest.fixture(scope="module")
def dag():
    """All samples, one after the other, in one Dag; a name that none of them makes is an error."""
    samples = blocks(GUIDE, "python")
    assert len(samples) == 6
    with DAG("guide", schedule=None) as made:
        names = {}
        for sample in samples:
            exec(sample, names)
    return made


def test_the_samples_make_tasks(dag):
    assert {"approve", "wait_for_approval", "approve_deployment_job", "promote_model.finish"} <= set(dag.task_ids)


def test_the_table_has_every_step_of_a_promotion():
    from airflow_uc_models.operators.promotion import promote_model

    with DAG("steps", schedule=None) as made:
        promote_model(model_name="a.b.c", destination_catalog="d", policy={}, approval=True)
    rows = GUIDE.partition("| Task |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)
    assert [f"promote_model.{name}" for name in told] == [task.task_id for task in made.topological_sort()]
