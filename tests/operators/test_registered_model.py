"""Registered-model operators on a real MLflow server, through Airflow's task runner."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.registry import make_versions

from airflow_uc_models.operators import (
    CreateRegisteredModelOperator,
    DeleteRegisteredModelOperator,
    GetRegisteredModelOperator,
    RenameRegisteredModelOperator,
    SearchRegisteredModelsOperator,
    UpdateRegisteredModelOperator,
)

RETRY = {"retries": 1, "retry_delay": timedelta(0)}


def test_the_life_of_a_model(dag_runner, connection, mlflow_server, model_name):
    conn = {"registry_conn_id": connection}

    def define():
        create = CreateRegisteredModelOperator(
            task_id="create", model_name=model_name, description="first", tags={"team": "fraud", "n": 3}, **conn
        )
        update = UpdateRegisteredModelOperator(
            task_id="update", model_name=create.output["name"], description="second", **conn
        )
        get = GetRegisteredModelOperator(task_id="get", model_name=model_name, **conn)
        rename = RenameRegisteredModelOperator(
            task_id="rename", model_name=model_name, new_name=f"{model_name}_2", **conn
        )
        delete = DeleteRegisteredModelOperator(task_id="delete", model_name=f"{model_name}_2", **conn)
        gone = GetRegisteredModelOperator(task_id="gone", model_name=model_name, missing_ok=True, **conn)
        error = GetRegisteredModelOperator(task_id="error", model_name=model_name, **conn)
        create >> update >> get >> rename >> delete >> gone >> error

    result = dag_runner.run(define)
    assert result.xcom("create")["tags"]["n"] == "3"
    assert result.xcom("get")["description"] == "second"
    assert result.xcom("rename")["name"] == f"{model_name}_2"
    assert result.xcom("delete") == {"name": f"{model_name}_2", "deleted": True}
    assert result.task_state("gone") == "success"
    assert result.xcom("gone") is None
    assert result.task_state("error") == "failed"
    assert "404 RESOURCE_DOES_NOT_EXIST" in result.output


def test_create_ignores_or_fails_on_an_existing_model(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 0)

    def define():
        for if_exists in ("ignore", "fail", "perhaps"):
            CreateRegisteredModelOperator(
                task_id=if_exists, model_name=model_name, if_exists=if_exists, registry_conn_id=connection
            )

    result = dag_runner.run(define)
    assert [result.task_state(t) for t in ("ignore", "fail", "perhaps")] == ["success", "failed", "failed"]
    assert "exists already" in result.output


def test_create_knows_its_own_model_when_the_answer_is_lost(dag_runner, proxy, monkeypatch, model_name):
    monkeypatch.setenv("AIRFLOW_CONN_LOST", proxy.connection_json())
    fault = proxy.fail("registered-models/create", after=True, reset=True)
    result = dag_runner.run(
        lambda: CreateRegisteredModelOperator(
            task_id="create", model_name=model_name, if_exists="fail", registry_conn_id="lost"
        )
    )
    assert fault.seen.is_set()
    assert result.task_state("create") == "success"


def test_rename_whose_answer_is_lost(dag_runner, proxy, monkeypatch, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 1)
    monkeypatch.setenv("AIRFLOW_CONN_LOST", proxy.connection_json())
    proxy.fail("registered-models/rename", after=True, reset=True)
    result = dag_runner.run(
        lambda: RenameRegisteredModelOperator(
            task_id="rename", model_name=model_name, new_name=f"{model_name}_2", registry_conn_id="lost"
        )
    )
    assert result.task_state("rename") == "success"
    assert client.get_registered_model(f"{model_name}_2").name == f"{model_name}_2"


def test_delete_of_a_missing_model(dag_runner, connection, model_name):
    def define():
        DeleteRegisteredModelOperator(task_id="ok", model_name=model_name, missing_ok=True, registry_conn_id=connection)
        DeleteRegisteredModelOperator(task_id="error", model_name=model_name, registry_conn_id=connection)

    result = dag_runner.run(define)
    assert result.xcom("ok") == {"name": model_name, "deleted": False}
    assert result.task_state("error") == "failed"


def test_search_by_schema_and_filter(dag_runner, connection, mlflow_server, model_name):
    schema = f"dev.{model_name.rpartition('.')[2]}"
    client = mlflow_server.client()
    for name in (f"{schema}.b", f"{schema}.a", f"{schema}x.c"):
        client.create_registered_model(name, tags={"team": name[-1]})

    def define():
        SearchRegisteredModelsOperator(task_id="schema", schema=schema, registry_conn_id=connection)
        SearchRegisteredModelsOperator(
            task_id="filtered", schema=schema, filter_string="tags.team = 'a'", registry_conn_id=connection
        )
        SearchRegisteredModelsOperator(task_id="bad", schema="only_one_level", registry_conn_id=connection)

    result = dag_runner.run(define)
    assert [m["name"] for m in result.xcom("schema")] == [f"{schema}.a", f"{schema}.b"]
    assert [m["name"] for m in result.xcom("filtered")] == [f"{schema}.a"]
    assert result.task_state("bad") == "failed"


@pytest.mark.parametrize("name", ["two.levels", "a.b.c.d", "a..c", "a.b.c d", "a.b.c/d", "", "a.b." + "x" * 256])
def test_illegal_names_fail_once_and_before_any_call(dag_runner, proxy, monkeypatch, name):
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", proxy.connection_json())
    result = dag_runner.run(
        lambda: CreateRegisteredModelOperator(task_id="create", model_name=name, registry_conn_id="watched"),
        default_args=RETRY,
    )
    assert result.task_state("create") == "failed"
    assert result.ti("create").try_number == 1
    assert proxy.take() == []
