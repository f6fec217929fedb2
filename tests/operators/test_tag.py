"""Tag operators on a real MLflow server, through Airflow's task runner."""

from __future__ import annotations

import pytest
from support.registry import make_versions

from airflow_uc_models.operators import (
    DeleteModelVersionTagsOperator,
    DeleteRegisteredModelTagsOperator,
    SetModelVersionTagsOperator,
    SetRegisteredModelTagsOperator,
)


def test_tags_of_a_model(dag_runner, connection, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 0)
    common = {"model_name": model_name, "registry_conn_id": connection}

    def define():
        put = SetRegisteredModelTagsOperator(task_id="put", tags={"a": 1, "b": "{{ 1 + 1 }}", "c": "x"}, **common)
        drop = DeleteRegisteredModelTagsOperator(task_id="drop", keys=["a", "never there"], **common)
        put >> drop

    result = dag_runner.run(define)
    assert result.xcom("put")["tags"] == {"a": "1", "b": "2", "c": "x"}
    assert result.xcom("drop")["tags"] == {"b": "2", "c": "x"}
    assert client.get_registered_model(model_name).tags == {"b": "2", "c": "x"}


def test_tags_of_a_version_by_number_and_by_alias(dag_runner, connection, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    client.set_registered_model_alias(model_name, "Champion", "2")
    common = {"model_name": model_name, "registry_conn_id": connection}

    def define():
        put = SetModelVersionTagsOperator(task_id="put", version="1", tags={"a": "1"}, **common)
        by_alias = SetModelVersionTagsOperator(task_id="by_alias", alias="Champion", tags={"b": "2"}, **common)
        drop = DeleteModelVersionTagsOperator(task_id="drop", version=1, keys=["a"], **common)
        put >> by_alias >> drop

    result = dag_runner.run(define)
    assert result.state == "success"
    assert result.xcom("by_alias")["version"] == 2
    assert result.xcom("by_alias")["tags"] == {"b": "2"}
    assert client.get_model_version(model_name, "1").tags == {}
    assert result.xcom("by_alias", key="model_version_url").endswith("/versions/2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 1, "alias": "Champion", "tags": {"a": "1"}}, "not both"),
        ({"tags": {"a": "1"}}, "either version or alias"),
        ({"version": 1, "tags": {}}, "tags is empty"),
        ({"version": 1, "tags": {"ok": "1", "bad!": "2"}}, "bad!"),
        ({"version": 1, "tags": {"ok": "1", "none": None}}, "no value"),
        ({"version": 1, "tags": {"k" * 251: "1"}}, "250 are allowed"),
        ({"version": "latest", "tags": {"a": "1"}}, "use an alias"),
    ],
)
def test_bad_input_is_refused_before_any_call(dag_runner, proxy, monkeypatch, model_name, options, message):
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", proxy.connection_json())
    result = dag_runner.run(
        lambda: SetModelVersionTagsOperator(task_id="put", model_name=model_name, registry_conn_id="watched", **options)
    )
    assert result.task_state("put") == "failed"
    assert message in result.output
    assert proxy.take() == []


def test_unknown_alias_names_those_that_exist(dag_runner, connection, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 1)
    client.set_registered_model_alias(model_name, "Champion", "1")
    result = dag_runner.run(
        lambda: SetModelVersionTagsOperator(
            task_id="put", model_name=model_name, alias="champion", tags={"a": "1"}, registry_conn_id=connection
        )
    )
    assert result.task_state("put") == "failed"
    assert "has no alias 'champion' (existing: Champion)" in result.output


def test_text_of_mapped_tasks_stays_text_where_templates_render_as_native_objects(
    dag_runner, connection, mlflow_server, model_name
):
    client = make_versions(mlflow_server, model_name, 1)
    common = {"model_name": model_name, "version": "{{ params.version }}", "registry_conn_id": connection}

    def define():
        put = SetModelVersionTagsOperator.partial(task_id="put", **common)
        put.expand(tags=[{"2024": "1e5"}, {"b": "{{ params.text }}"}])

    native = {"render_template_as_native_obj": True, "params": {"version": "1", "text": "1_000"}}
    assert dag_runner.run(define, **native).state == "success"
    assert client.get_model_version(model_name, "1").tags == {"2024": "1e5", "b": "1_000"}
