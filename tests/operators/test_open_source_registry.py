"""Operators and the sensor on an open-source Unity Catalog server, through Airflow's task runner."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from support.open_source import flavour
from support.proxy import Proxy

from airflow_uc_models.exceptions import ConnectionConfigError
from airflow_uc_models.hooks.model_registry import UnityCatalogHook
from airflow_uc_models.operators import (
    BatchInferenceOperator,
    CopyModelVersionOperator,
    CreateRegisteredModelOperator,
    DeleteModelVersionOperator,
    DeleteRegisteredModelAliasOperator,
    DeleteRegisteredModelOperator,
    DeleteRegisteredModelTagsOperator,
    GetModelVersionOperator,
    GetRegisteredModelOperator,
    RegisterModelOperator,
    RenameRegisteredModelOperator,
    RollbackRegisteredModelAliasOperator,
    SearchModelVersionsOperator,
    SearchRegisteredModelsOperator,
    SetModelVersionTagsOperator,
    SetRegisteredModelAliasOperator,
    SetRegisteredModelTagsOperator,
    UpdateModelVersionOperator,
    UpdateRegisteredModelOperator,
)
from airflow_uc_models.sensors import ModelVersionSensor

RETRY = {"retries": 1, "retry_delay": timedelta(0)}


@pytest.fixture
def name(open_source):
    return open_source.new_name()


def test_the_life_of_a_model(dag_runner, open_source_connection, open_source, name):
    conn = {"registry_conn_id": open_source_connection}

    def define():
        create = CreateRegisteredModelOperator(task_id="create", model_name=name, description="first", **conn)
        update = UpdateRegisteredModelOperator(
            task_id="update", model_name=create.output["name"], description="second", **conn
        )
        get = GetRegisteredModelOperator(task_id="get", model_name=name, **conn)
        rename = RenameRegisteredModelOperator(task_id="rename", model_name=name, new_name=f"{name}_2", **conn)
        delete = DeleteRegisteredModelOperator(task_id="delete", model_name=f"{name}_2", **conn)
        gone = GetRegisteredModelOperator(task_id="gone", model_name=name, missing_ok=True, **conn)
        error = GetRegisteredModelOperator(task_id="error", model_name=name, **conn)
        create >> update >> get >> rename >> delete >> gone >> error

    result = dag_runner.run(define)
    assert result.xcom("create")["name"] == name
    assert result.xcom("get")["description"].splitlines()[0] == "second"
    assert result.xcom("rename")["name"] == f"{name}_2"
    assert result.xcom("delete") == {"name": f"{name}_2", "deleted": True}
    assert result.task_state("gone") == "success"
    assert result.xcom("gone") is None
    assert result.task_state("error") == "failed"
    assert f"404 NOT_FOUND: Registered model not found: {name}" in result.output


def test_a_description_is_replaced_and_the_key_stays(dag_runner, open_source_connection, open_source, name):
    open_source.make(name, ("first\nairflow_task_key: 0123",))
    conn = {"registry_conn_id": open_source_connection, "model_name": name}

    def define():
        UpdateModelVersionOperator(task_id="update", version=1, description="second", **conn)

    assert dag_runner.run(define).xcom("update")["description"] == "second\nairflow_task_key: 0123"
    assert open_source.versions(name)[0]["comment"] == "second\nairflow_task_key: 0123"


def test_a_created_model_keeps_its_key_for_a_task_that_is_cleared(
    dag_runner, open_source_connection, open_source, name
):
    conn = {"registry_conn_id": open_source_connection, "model_name": name}

    def define():
        create = CreateRegisteredModelOperator(task_id="create", if_exists="fail", **conn)
        update = UpdateRegisteredModelOperator(task_id="update", description="second", **conn)
        other = CreateRegisteredModelOperator(task_id="other", if_exists="fail", **conn)
        create >> update >> other

    result = dag_runner.run(define)
    assert [result.task_state(t) for t in ("create", "update", "other")] == ["success", "success", "failed"]
    text, line = result.xcom("update")["description"].split("\n")
    assert (text, line) == ("second", result.xcom("create")["description"])
    assert line.startswith("airflow_task_key: ")


def test_create_knows_its_own_model_when_the_answer_is_lost(dag_runner, open_source, monkeypatch, name):
    with Proxy(open_source.url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_LOST", open_source.connection_json(proxy.url))
        fault = proxy.fail("/models", "POST", after=True, reset=True)
        result = dag_runner.run(
            lambda: CreateRegisteredModelOperator(
                task_id="create", model_name=name, if_exists="fail", registry_conn_id="lost"
            )
        )
    assert fault.seen.is_set()
    assert result.task_state("create") == "success"


def test_versions_are_read_searched_and_deleted(dag_runner, open_source_connection, open_source, name):
    open_source.make(name, ("one", "two", "three"))
    open_source.add(name, "four", ready=False)
    conn = {"registry_conn_id": open_source_connection, "model_name": name}

    def define():
        get = GetModelVersionOperator(task_id="get", version=2, **conn)
        search = SearchModelVersionsOperator(task_id="search", status="READY", **conn)
        delete = DeleteModelVersionOperator(task_id="delete", version=2, **conn)
        keep = DeleteModelVersionOperator(task_id="keep", keep_last=1, **conn)
        missing = GetModelVersionOperator(task_id="missing", version=9, **conn)
        get >> search >> delete >> keep >> missing

    result = dag_runner.run(define)
    assert (result.xcom("get")["description"], result.xcom("get")["status"]) == ("two", "READY")
    assert [v["version"] for v in result.xcom("search")] == [3, 2, 1]
    assert result.xcom("delete")["deleted"] == [2]
    assert result.xcom("keep")["deleted"] == [1]
    assert [v["version"] for v in open_source.versions(name)] == [3, 4]
    assert result.task_state("missing") == "failed"


def test_models_are_searched_by_schema(dag_runner, open_source_connection, open_source, name):
    catalog, _, short = name.split(".")
    for schema in (short, f"{short}x"):
        open_source.call("POST", "/schemas", {"name": schema, "catalog_name": catalog})
    for full_name in (f"{catalog}.{short}.b", f"{catalog}.{short}.a", f"{catalog}.{short}x.c"):
        open_source.make(full_name)

    def define():
        SearchRegisteredModelsOperator(
            task_id="schema", schema=f"{catalog}.{short}", registry_conn_id=open_source_connection
        )
        SearchRegisteredModelsOperator(
            task_id="filter", filter_string="tags.a = 'b'", registry_conn_id=open_source_connection
        )

    result = dag_runner.run(define)
    assert [m["name"] for m in result.xcom("schema")] == [f"{catalog}.{short}.a", f"{catalog}.{short}.b"]
    assert result.task_state("filter") == "failed"


def test_aliases_and_tags_fail_once_and_before_any_call(dag_runner, open_source, monkeypatch, name):
    open_source.make(name, ("one",))

    def define():
        conn = {"registry_conn_id": "watched", "model_name": name}
        alias, tags = {"alias": "Champion", **conn}, {"tags": {"a": "b"}, **conn}
        GetModelVersionOperator(task_id="get_by_alias", **alias)
        SetRegisteredModelAliasOperator(task_id="set_alias", version=1, **alias)
        RollbackRegisteredModelAliasOperator(task_id="roll_back", **alias)
        DeleteRegisteredModelAliasOperator(task_id="delete_alias", missing_ok=True, **alias)
        CreateRegisteredModelOperator(task_id="create_tagged", **tags)
        SetRegisteredModelTagsOperator(task_id="set_model_tags", **tags)
        DeleteRegisteredModelTagsOperator(task_id="delete_model_tags", keys=["a"], **conn)
        SetModelVersionTagsOperator(task_id="set_tags", version=1, **tags)
        SearchModelVersionsOperator(task_id="search_tagged", **tags)
        ModelVersionSensor(task_id="wait_tagged", after_version=0, **tags)
        ModelVersionSensor(task_id="wait_alias", after_version=0, **alias)
        RegisterModelOperator(task_id="register_tagged", model_uri="models:/m-0123", **tags)
        CopyModelVersionOperator(
            task_id="copy_tags",
            model_uri=f"models:/{name}/1",
            destination_model_name=name,
            copy_tags=["a"],
            registry_conn_id="watched",
        )
        CopyModelVersionOperator(
            task_id="copy_by_alias",
            model_uri=f"models:/{name}@champion",
            destination_model_name=name,
            registry_conn_id="watched",
        )
        for engine in ("databricks", "ai_query"):
            BatchInferenceOperator(
                task_id=engine,
                model_uri=f"models:/{name}/1",
                input="a.b.c",
                output="a.b.d",
                engine=engine,
                engine_options={"endpoint": "e", "warehouse_id": "w"} if engine == "ai_query" else {},
                registry_conn_id="watched",
            )

    with Proxy(open_source.url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_WATCHED", open_source.connection_json(proxy.url))
        result = dag_runner.run(define, default_args=RETRY)
        assert proxy.take() == []
    tasks = result.dag_run.get_task_instances()
    assert len(tasks) == 16
    assert {(ti.task_id, str(ti.state), ti.try_number) for ti in tasks} == {(t.task_id, "failed", 1) for t in tasks}
    refused = "open-source Unity Catalog server does not support"
    assert result.output.count(f"{refused} aliases. Name versions by their number") >= 5
    assert result.output.count(f"{refused} tags. Put what has to stay") >= 5
    assert result.output.count(f"{refused} tags. Leave out") >= 3
    assert result.output.count("it reaches the open-source Unity Catalog server at") >= 2


def test_texts_that_are_too_long_fail_once_and_before_any_call(dag_runner, open_source, monkeypatch, name, tmp_path):
    """The server answers them with a 500, which would be tried again and again."""
    open_source.make(name, ("one",))
    (tmp_path / ("f" * 200) / ("f" * 200)).mkdir(parents=True)

    def define():
        conn = {"registry_conn_id": "watched", "model_name": name}
        long = {"description": "d" * 65_536, **conn}
        CreateRegisteredModelOperator(task_id="create", **long)
        UpdateRegisteredModelOperator(task_id="update", **long)
        UpdateModelVersionOperator(task_id="update_version", version=1, **long)
        RegisterModelOperator(task_id="register", model_uri="models:/m-0123", **long)
        # Too long with the line of the task key only
        RegisterModelOperator(task_id="key", model_uri="models:/m-0123", **conn, description="d" * 65_500)
        RegisterModelOperator(task_id="source", model_uri=str(tmp_path / ("f" * 200) / ("f" * 200)), **conn)

    with Proxy(open_source.url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_WATCHED", open_source.connection_json(proxy.url))
        result = dag_runner.run(define, default_args=RETRY)
        assert proxy.take() == []
    tasks = result.dag_run.get_task_instances()
    assert {(ti.task_id, str(ti.state), ti.try_number) for ti in tasks} == {(t.task_id, "failed", 1) for t in tasks}
    assert result.output.count("open-source Unity Catalog server takes 65,535") >= 5
    assert "open-source Unity Catalog server takes 255" in result.output


def test_a_rename_that_leaves_a_second_model_of_the_name_fails(dag_runner, tmp_path, monkeypatch):
    with flavour(tmp_path) as server:
        monkeypatch.setenv("AIRFLOW_CONN_TWINS", server.connection_json())
        name = server.make(server.new_name())
        models = server.app.state.store.models
        models.append({**models[0], "id": "other"})
        conn = {"registry_conn_id": "twins", "model_name": name}
        result = dag_runner.run(
            lambda: RenameRegisteredModelOperator(task_id="rename", new_name=f"{name}_2", **conn), default_args=RETRY
        )
        assert result.task_state("rename") == "failed"
        assert f"there is a model named {name} all the same" in result.output
        done = dag_runner.run(lambda: DeleteRegisteredModelOperator(task_id="delete", **conn))
        assert done.xcom("delete")["deleted"] is True
        assert [m["full_name"] for m in models] == [f"{name}_2"]


@pytest.mark.parametrize("options", [{}, {"deferrable": True}], ids=["poke", "deferred"])
def test_the_sensor_waits_for_a_finished_version(dag_runner, open_source_connection, open_source, name, options):
    open_source.make(name, ("one",))
    open_source.add(name, ready=False)
    conn = {"registry_conn_id": open_source_connection, "model_name": name, "poke_interval": 0.1, **options}

    def define():
        ModelVersionSensor(task_id="found", after_version=0, **conn)
        ModelVersionSensor(task_id="pending", after_version=1, timeout=0, **conn)
        ModelVersionSensor(task_id="no_model", **{**conn, "model_name": f"{name}_no"})

    result = dag_runner.run(define)
    assert result.xcom("found")["version"] == 1
    assert result.task_state("pending") == "failed"
    assert result.task_state("no_model") == "failed"


def test_links_are_there_where_the_connection_names_the_pages(dag_runner, open_source, monkeypatch, name):
    open_source.make(name, ("one",))
    monkeypatch.setenv("AIRFLOW_CONN_PLAIN", open_source.connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_PAGES", open_source.connection_json(web_url="http://uc.example.com:3000/"))

    def define():
        for conn in ("plain", "pages"):
            GetModelVersionOperator(task_id=conn, model_name=name, version=1, registry_conn_id=conn)

    result = dag_runner.run(define)
    assert result.xcom("plain", "model_version_url") == ""
    assert "XCom not found" not in result.output
    page = f"http://uc.example.com:3000/models/{name.replace('.', '/')}/versions/1"
    assert result.xcom("pages", "model_version_url") == page


def test_the_connection_is_tested(open_source, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_FINE", open_source.connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_WHOLE", open_source.connection_json(f"{open_source.url}/api/2.1/unity-catalog/"))
    for conn in ("fine", "whole"):
        fine, text = UnityCatalogHook(conn).test_connection()
        assert fine
        assert text.startswith(f"open-source Unity Catalog server at {open_source.url} answers")


def test_two_tokens_or_a_login_are_a_mistake(monkeypatch):
    for conn in ('{"login": "me"}', '{"password": "a", "extra": {"token": "b"}}', '{"password": "a b"}'):
        settings = {"conn_type": "unity_catalog", "host": "http://127.0.0.1:9", **json.loads(conn)}
        monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps(settings))
        with pytest.raises(ConnectionConfigError, match="token"):
            _ = UnityCatalogHook("wrong").endpoint
