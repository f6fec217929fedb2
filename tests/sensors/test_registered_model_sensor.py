"""RegisteredModelSensor: a model by its name, and one model of a schema after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.databricks import connection_json
from support.proxy import Proxy
from support.sensing import MODEL, MODELS, RETRIES, Sense, after_look

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.sensors import RegisteredModelSensor


@pytest.fixture
def schema(name):
    return name.rpartition(".")[0]


@pytest.fixture
def any_model(sense_with, schema):
    return sense_with(RegisteredModelSensor, schema=schema)


@pytest.fixture
def add(site, schema):
    """Make models, one after the other: a millisecond tells them apart."""

    def add(*models):
        for model in models:
            site.make(f"{schema}.{model}")
            assert site.do("get_registered_model", f"{schema}.{model}").created_at

    return add


def taken(result):
    return result.xcom("sensor")["name"].rpartition(".")[2]


def test_each_run_takes_the_next_model(any_model, add, mode):
    add("b", "c", "a")
    assert taken(any_model(**mode)) == "a"  # the first run takes the present state, not the history
    assert any_model(timeout=0, soft_fail=True, **mode).task_state("sensor") == "skipped"
    add("z", "d")
    assert taken(any_model(**mode)) == "z"
    assert taken(any_model(**mode)) == "d"
    assert any_model(timeout=0, soft_fail=True, **mode).task_state("sensor") == "skipped"


def test_what_comes_while_it_waits(any_model, site, add, main_mode):
    add("b")
    assert taken(any_model(**main_mode)) == "b"
    site.proxy.take()
    with after_look(site.proxy, lambda: add("a"), path=MODELS, looks=2):
        assert taken(any_model(**main_mode)) == "a"


def test_only_that_schema_counts(any_model, site, schema, add):
    site.make(f"{schema}x.a")
    site.make(f"{schema[:-1]}_.a")
    assert any_model(timeout=0).task_state("sensor") == "failed"
    add("a")
    assert taken(any_model()) == "a"


def test_a_model_has_its_aliases_and_tags(any_model, site, name, add):
    site.make(name, 1)
    site.set_alias(name, "Champion", 1)
    site.do("set_registered_model_tag", name, "team", "fraud")
    found = any_model().xcom("sensor")
    assert (found["aliases"], found["tags"]) == ({"Champion": 1}, {"team": "fraud"})


def test_a_model_made_again_is_new(any_model, site, name, add):
    add("fraud")
    assert taken(any_model()) == "fraud"
    site.do("delete_registered_model", name)
    assert any_model(timeout=0).task_state("sensor") == "failed"
    add("fraud")
    assert taken(any_model()) == "fraud"


def test_a_model_deleted_in_the_midst_of_a_look_is_no_error(any_model, site, name, add):
    add("a", "fraud")
    with after_look(site.proxy, lambda: site.do("delete_registered_model", name), path=MODELS):
        assert taken(any_model()) == "a"


def test_names_and_schemas_are_told_apart(any_model, site, name, add):
    add("a", "fraud")
    assert taken(any_model()) == "fraud"
    assert any_model(schema=None, model_name=f"{name[:-5]}a").state == "success"
    assert any_model(timeout=0).task_state("sensor") == "failed"


@pytest.mark.parametrize("site", ["databricks"], indirect=True)
def test_a_workspace_stores_names_in_lower_case(any_model, schema, add):
    add("a")
    assert taken(any_model()) == "a"
    assert any_model(schema=schema.upper(), timeout=0).task_state("sensor") == "failed"
    add("b")
    assert taken(any_model(schema=schema.upper())) == "b"


@pytest.mark.parametrize("site", ["mlflow"], indirect=True)
def test_a_run_made_anew_gives_its_model_again(any_model, add):
    days = [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3)]
    for day, model in zip(days, "cba", strict=True):
        add(model)
        assert taken(any_model.at(day)) == model
    assert taken(any_model.at(days[1])) == "b"
    later = any_model.at(None, run_after=days[2] + timedelta(days=1), timeout=0, soft_fail=True)
    assert later.task_state("sensor") == "skipped"


# -- where there is no such schema


@pytest.fixture
def strict(monkeypatch):
    """The proxy before a workspace that makes no schemas of its own accord."""
    with Emulator(Settings(auto_create_schemas=False)) as workspace, Proxy(workspace.url) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        monkeypatch.setenv("AIRFLOW_CONN_STRICT", connection_json(workspace, port=port))
        workspace.proxy = proxy
        yield workspace


@pytest.fixture
def strict_model(dag_runner, strict, name):
    defaults = {"registry_conn_id": "strict", "model_name": name, "poll_interval": 0.05, "timeout": 60}
    return Sense(dag_runner, defaults, RegisteredModelSensor)


def test_a_missing_schema_fails_at_once(strict_model, strict, schema, main_mode):
    result = strict_model(**RETRIES, **main_mode)
    assert (result.task_state("sensor"), result.ti("sensor").try_number) == ("failed", 1)
    assert f"There is no schema {schema}, or the connection's principal may not see it." in str(strict_model.errors[0])
    assert len(strict.proxy.requests) == 1


def test_a_missing_schema_is_waited_for_where_that_is_ok(strict_model, strict, schema, name, main_mode):
    def appear():
        strict.add_schema(schema)
        strict.workspace.catalog.create_model(strict.workspace.admin, name)

    with after_look(strict.proxy, appear, path=MODEL, looks=2):
        assert taken(strict_model(missing_ok=True, **main_mode)) == "fraud"


# -- on an open-source server


@pytest.fixture
def open_model(dag_runner, open_source, open_source_connection):
    defaults = {"registry_conn_id": open_source_connection, "poll_interval": 0.05, "timeout": 60}
    return Sense(dag_runner, defaults, RegisteredModelSensor)


def test_models_of_an_open_source_server(open_model, open_source, main_mode):
    name = open_source.new_name()
    by_name, by_schema = {"model_name": name, **main_mode}, {"schema": open_source.schema, **main_mode}
    assert open_model(timeout=0.2, **by_name).task_state("sensor") == "failed"
    open_source.make(name)
    assert open_model(**by_name).xcom("sensor")["name"] == name
    assert open_model(**by_schema).xcom("sensor")["name"] == name
    assert open_model(timeout=0, **by_schema).task_state("sensor") == "failed"
    another = open_source.make(open_source.new_name())
    assert open_model(**by_schema).xcom("sensor")["name"] == another


@pytest.mark.parametrize("what", ["schema", "model_name"])
def test_a_missing_schema_of_an_open_source_server(open_model, open_source, main_mode, what):
    missing = f"{open_source.catalog}.missing"
    options = {what: missing + (".fraud" if what == "model_name" else ""), **main_mode}
    result = open_model(**options, **RETRIES)
    assert (result.task_state("sensor"), result.ti("sensor").try_number) == ("failed", 1)
    assert f"There is no schema {missing}, or " in str(open_model.errors[0])
    assert open_model(missing_ok=True, timeout=0.2, **options).task_state("sensor") == "failed"
    assert "The timeout" in str(open_model.errors[-1]) or "timed out" in str(open_model.errors[-1])
