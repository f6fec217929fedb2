"""The example Dags for approvals; in test_approval_in_browser.py people click in the first one."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from support.approvals import answering
from support.dag_runs import Result
from support.models import add_version, log_model

FILE = Path(__file__).parents[2] / "dags" / "example_manual_approval.py"
ASK, BY_TAG, JOB = (f"example_manual_approval{suffix}" for suffix in ("", "_by_tag", "_deployment_job"))
GROUP = ["validate", "copy", "set_alias", "set_tags", "finish"]


@pytest.fixture(scope="module")
def dags(load_dags):
    loaded = load_dags(FILE)
    assert loaded.import_errors == {}
    return loaded.dags


@pytest.fixture
def schema(mlflow_server):
    """A schema with one version of the model fraud."""
    schema = f"s{uuid.uuid4().hex[:8]}"
    add_version(mlflow_server, f"dev.{schema}.fraud", log_model(mlflow_server, metrics={"roc_auc": 0.9}))
    return schema


@pytest.fixture
def run(dags, dag_runner, connection, schema):
    def run(dag_id, **params):
        dag_runner.sync(dags[dag_id])
        conf = {"registry_conn_id": connection, "schema": schema, "model": "fraud", **params}
        return Result(dags[dag_id].test(run_conf=conf))

    return run


def test_shape(dags):
    assert set(dags) == {ASK, BY_TAG, JOB}
    for dag in dags.values():
        assert dag.doc_md
        assert dag.description
        assert "registry_conn_id" in dag.params
    in_row = [task.task_id.rpartition(".")[2] for task in dags[ASK].topological_sort()]
    assert in_row == [GROUP[0], "approve", *GROUP[1:]]
    assert [task.task_id.rpartition(".")[2] for task in dags[BY_TAG].topological_sort()] == [
        "wait_for_approval",
        *GROUP,
    ]
    assert dags[JOB].get_task("ask").downstream_task_ids == {"approve_deployment_job"}


def test_an_approval_in_airflow_becomes_the_tag_for_which_the_other_waits(run, mlflow_server, schema):
    with answering("Approve"):
        asked = run(JOB, version=1)
    promoted = run(BY_TAG, version=1)
    assert (asked.state, promoted.state) == ("success", "success")
    champion = mlflow_server.client().get_model_version_by_alias(f"prod.{schema}.fraud", "Champion")
    assert champion.tags["approved_by"] == "ann"
    assert champion.tags["approval_check"] == "Approved"
    assert champion.tags["promoted_by"] == BY_TAG


def test_without_approval_nothing_is_promoted(run, mlflow_server, schema):
    client = mlflow_server.client()
    client.set_model_version_tag(f"dev.{schema}.fraud", "1", "approval_check", "Rejected")
    result = run(BY_TAG, version=1)
    assert (result.state, result.task_state("wait_for_approval")) == ("failed", "failed")
    with answering("Reject"):
        assert run(JOB, version=1).state == "failed"
    assert client.search_registered_models(f"name='prod.{schema}.fraud'") == []
