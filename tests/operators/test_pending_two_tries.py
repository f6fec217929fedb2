"""Two tries of the listing or the marking task of one Dag run, one after another or at once."""

from __future__ import annotations

import pytest
from airflow.sdk import Asset
from support.pending import MARK, Consumer
from support.registry import make_versions
from support.sensing import add_version

LISTED = "pending_listed"


@pytest.fixture
def consume(dag_runner, connection, model_name):
    return Consumer(dag_runner, {"scope": model_name, "registry_conn_id": connection})


@pytest.fixture(params=["xcom", "asset"])
def options(request, model_name):
    """Both forms; before Airflow 3.3 an asset has no state store, and both are XCom."""
    asset = Asset(name=model_name, uri=f"x-models://{model_name}")
    return {"asset": asset} if request.param == "asset" else {}


def test_what_a_run_marked_does_not_count_for_the_run_itself(consume, mlflow_server, model_name, options):
    client = make_versions(mlflow_server, model_name, 1)
    assert consume.took(consume(**options)) == [1]
    add_version(client, model_name)
    add_version(client, model_name)
    consume.failing = {(model_name, 3)}
    second = consume(**options)
    assert consume.took(second) == [2, 3]
    add_version(client, model_name)
    assert consume.list_again(second, **options) == [2, 3, 4]
    assert consume.took(consume(**options)) == [3, 4]  # but it counts for others


def test_the_later_of_two_listing_tries_returns_the_list_of_the_earlier_one(
    consume, mlflow_server, model_name, options
):
    client = make_versions(mlflow_server, model_name, 3)
    client.delete_model_version(model_name, "1")
    earlier = []

    def other_try(context):
        earlier.extend(context["task"].execute(context))
        add_version(client, model_name)
        client.delete_model_version(model_name, "2")

    result = consume(pre_execute=other_try, **options)
    assert consume.took(result) == [version["version"] for version in earlier] == [2, 3]
    assert result.xcom(MARK) == [f"models:/{model_name}/{number}" for number in (2, 3)]
    assert "Another try of this task has listed 2 versions already" in result.output
    assert consume.took(consume(**options)) == [4]


def test_lists_that_differ_are_not_marked(consume, mlflow_server, model_name):
    """One try's list can be left beside the other's result, over which the work was mapped."""
    make_versions(mlflow_server, model_name, 2)

    def another_list(context, result=None):
        ti = context["ti"]
        listed = ti.xcom_pull(key=LISTED, map_indexes=-1)
        ti.xcom_push(LISTED, {**listed, "versions": [*reversed(listed["versions"])]})

    result = consume(post_execute=another_list, mark={"retries": 3})
    assert result.task_state(MARK) == "failed"
    assert "listed different versions" in result.output
    assert consume.took(consume()) == [1, 2]
