"""From what a task did to a model to the Dag that its asset starts, through Airflow's scheduler and task runner."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk import Asset, AssetAlias
from support.asset_runs import Listening, told
from support.models import log_model
from support.registry import aliases, make_versions

from airflow_uc_models.assets import model_asset
from airflow_uc_models.operators import (
    CopyModelVersionOperator,
    CreateRegisteredModelOperator,
    DeleteModelVersionOperator,
    DeleteModelVersionTagsOperator,
    DeleteRegisteredModelAliasOperator,
    DeleteRegisteredModelOperator,
    DeleteRegisteredModelTagsOperator,
    GetModelVersionOperator,
    RegisterModelOperator,
    RenameRegisteredModelOperator,
    RollbackRegisteredModelAliasOperator,
    SetModelVersionTagsOperator,
    SetRegisteredModelAliasOperator,
    SetRegisteredModelTagsOperator,
)
from airflow_uc_models.operators.outlets import emit

RETRY = {"retries": 1, "retry_delay": timedelta(0)}
CREATED, DELETED = "model_version_alias.created", "model_version_alias.deleted"


@pytest.fixture
def model(mlflow_server, model_name):
    """A model of three versions, with an alias and tags; returns its client."""
    client = make_versions(mlflow_server, model_name, 3)
    client.set_registered_model_alias(model_name, "Champion", "2")
    client.set_registered_model_tag(model_name, "team", "fraud")
    client.set_model_version_tag(model_name, "1", "stage", "test")
    return client


@pytest.fixture
def emitted(dag_runner, connection, model_name):
    """Run an operator whose outlet is the model's asset, and return what the Dag heard that the asset started."""

    def run(operator, *, outlet=None, schedule=None, retries=None, **options):
        outlet = outlet or model_asset(model_name, connection)
        listening = Listening(dag_runner, [schedule or outlet], told)
        options = {"model_name": model_name, "registry_conn_id": connection, **options}
        result = dag_runner.run(
            lambda: operator(task_id="change", outlets=[outlet], **options), default_args=retries or {}
        )
        assert result.state == "success"
        run.output = result.output
        return listening.run().xcom("told")

    return run


def without_keys(events):
    for event in events:
        assert event.pop("key")
        assert event.pop("uri")
    return events


def extras(asset):
    """What the asset's events carry."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        return [event.extra for event in session.query(AssetEvent) if event.asset.uri == asset.uri]


CASES = {
    "alias set": (
        SetRegisteredModelAliasOperator,
        {"alias": "New", "version": 3},
        [{"kind": CREATED, "alias": "New", "version": 3}],
    ),
    "alias moved": (
        SetRegisteredModelAliasOperator,
        {"alias": "Champion", "version": "3"},
        [{"kind": CREATED, "alias": "Champion", "version": 3, "from_version": 2}],
    ),
    "alias left": (SetRegisteredModelAliasOperator, {"alias": "Champion", "version": 2}, []),
    "alias deleted": (
        DeleteRegisteredModelAliasOperator,
        {"alias": "Champion"},
        [{"kind": DELETED, "alias": "Champion"}],
    ),
    "alias not there": (DeleteRegisteredModelAliasOperator, {"alias": "Nobody", "missing_ok": True}, []),
    "tags of the model": (
        SetRegisteredModelTagsOperator,
        {"tags": {"team": "risk", "owner": "ann", "tier": "1"}},
        [
            {"kind": "registered_model_tag.set", "tag_key": "team", "tag_value": "risk", "from_value": "fraud"},
            {"kind": "registered_model_tag.set", "tag_key": "owner", "tag_value": "ann"},
            {"kind": "registered_model_tag.set", "tag_key": "tier", "tag_value": "1"},
        ],
    ),
    "tags that are there": (SetRegisteredModelTagsOperator, {"tags": {"team": "fraud"}}, []),
    "tags of the model deleted": (
        DeleteRegisteredModelTagsOperator,
        {"keys": ["team", "never there"]},
        [{"kind": "registered_model_tag.deleted", "tag_key": "team", "from_value": "fraud"}],
    ),
    "tags of a version": (
        SetModelVersionTagsOperator,
        {"version": 1, "tags": {"stage": "prod", "ok": "yes"}},
        [
            {
                "kind": "model_version_tag.set",
                "version": 1,
                "tag_key": "stage",
                "tag_value": "prod",
                "from_value": "test",
            },
            {"kind": "model_version_tag.set", "version": 1, "tag_key": "ok", "tag_value": "yes"},
        ],
    ),
    "tags of a version that are there": (SetModelVersionTagsOperator, {"version": 1, "tags": {"stage": "test"}}, []),
    "tags of a version deleted": (
        DeleteModelVersionTagsOperator,
        {"version": 1, "keys": ["stage", "never there"]},
        [{"kind": "model_version_tag.deleted", "version": 1, "tag_key": "stage", "from_value": "test"}],
    ),
    "version deleted": (
        DeleteModelVersionOperator,
        {"version": 3},
        [{"kind": "model_version.deleted", "version": 3}],
    ),
    "versions deleted": (
        DeleteModelVersionOperator,
        {"keep_last": 1},
        [{"kind": "model_version.deleted", "version": 1}],
    ),
    "no version deleted": (DeleteModelVersionOperator, {"keep_last": 5}, []),
    "model deleted": (DeleteRegisteredModelOperator, {}, [{"kind": "registered_model.deleted"}]),
    "model found": (CreateRegisteredModelOperator, {}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_reaches_the_dag_that_waits_for_the_model(emitted, model, model_name, case):
    operator, options, events = CASES[case]
    assert without_keys(emitted(operator, **options)) == [{"model_name": model_name, **event} for event in events]


def test_a_rollback(emitted, model, dag_runner, connection, model_name):
    common = {"model_name": model_name, "alias": "Champion", "registry_conn_id": connection}
    dag_runner.run(lambda: SetRegisteredModelAliasOperator(task_id="set", version=3, **common))
    [event] = without_keys(emitted(RollbackRegisteredModelAliasOperator, alias="Champion"))
    assert event == {"kind": CREATED, "model_name": model_name, "alias": "Champion", "version": 2, "from_version": 3}


def test_a_new_model(emitted, model_name):
    [event] = emitted(CreateRegisteredModelOperator)
    assert (event["kind"], event["model_name"]) == ("registered_model.created", model_name)
    assert event["created_at"] > 0


def test_a_rename(emitted, model, connection, model_name):
    new_name = f"{model_name}_new"
    schema = model_asset("dev.tests", connection)
    events = without_keys(emitted(RenameRegisteredModelOperator, new_name=new_name, outlet=schema))
    assert [(event["kind"], event["model_name"]) for event in events] == [
        ("registered_model.deleted", model_name),
        ("registered_model.created", new_name),
    ]


def test_a_version_registered_and_copied(emitted, dag_runner, mlflow_server, connection, model_name, monkeypatch):
    """The copy is told to the connection it was made over."""
    monkeypatch.setenv("AIRFLOW_CONN_DESTINATION", mlflow_server.connection_json())
    logged = log_model(mlflow_server)
    [event] = without_keys(emitted(RegisterModelOperator, model_uri=f"runs:/{logged.run_id}/model"))
    assert event == {"kind": "model_version.ready", "model_name": model_name, "version": 1}
    target = f"{model_name}_copy"
    [event] = without_keys(
        emitted(
            CopyModelVersionOperator,
            version=1,
            destination_model_name=target,
            destination_conn_id="destination",
            outlet=model_asset(target, "destination"),
        )
    )
    assert event == {"kind": "model_version.ready", "model_name": target, "version": 1}


def test_unity_catalogs_lower_case(dag_runner, databricks):
    """The asset may be written as people write the model."""
    asset = model_asset("dev.ml_team.Fraud", databricks)
    listening = Listening(dag_runner, [asset], told)
    result = dag_runner.run(
        lambda: CreateRegisteredModelOperator(
            task_id="change", model_name="Dev.ML_team.Fraud", registry_conn_id=databricks, outlets=[asset]
        )
    )
    assert result.state == "success"
    [event] = listening.run().xcom("told")
    assert event["model_name"] == "dev.ml_team.fraud"


# -- which outlets


def test_an_outlet_that_is_the_schema(emitted, model, connection):
    # other tests have this asset, too; a new Dag hears of what they did before Airflow 3.3
    *_, event = emitted(
        SetRegisteredModelAliasOperator, alias="New", version=1, outlet=model_asset("dev.tests", connection)
    )
    assert event["alias"] == "New"


@pytest.mark.parametrize("ref", [lambda uri: Asset.ref(uri=uri), lambda uri: Asset.ref(name=uri)], ids=["uri", "name"])
def test_an_outlet_that_refers_to_the_asset(emitted, model, connection, model_name, ref):
    asset = model_asset(model_name, connection)
    outlet = ref(asset.uri)
    [event] = emitted(SetRegisteredModelAliasOperator, alias="New", version=1, outlet=outlet, schedule=asset)
    assert event["alias"] == "New"


def test_an_asset_alias_gets_the_asset_of_a_templated_model(emitted, model, connection, model_name):
    schema, _, name = model_name.rpartition(".")
    [event] = emitted(
        SetRegisteredModelAliasOperator,
        model_name=schema + ".{{ '" + name + "' }}",
        alias="New",
        version=1,
        outlet=AssetAlias(model_name),
        schedule=model_asset(model_name, connection),
    )
    assert (event["model_name"], event["alias"]) == (model_name, "New")


def test_an_asset_alias_starts_nothing_where_nothing_was_changed(dag_runner, model, connection, model_name):
    listening = Listening(dag_runner, [model_asset(model_name, connection)], told)
    result = dag_runner.run(
        lambda: SetRegisteredModelAliasOperator(
            task_id="change",
            model_name=model_name,
            alias="Champion",
            version=2,
            registry_conn_id=connection,
            outlets=[AssetAlias(model_name)],
        )
    )
    assert result.state == "success"
    assert listening.scheduled() == []


@pytest.mark.parametrize("other", ["model", "connection"])
def test_an_outlet_of_something_else_is_told_in_the_log(emitted, model, connection, model_name, other):
    outlet = model_asset("dev.tests.another", connection) if other == "model" else model_asset(model_name, "another")
    assert emitted(SetRegisteredModelAliasOperator, alias="New", version=1, outlet=outlet) == []
    assert f"Outlet {outlet.uri} is not of the model and connection that this task changed" in emitted.output


def test_other_outlets_are_left_alone(emitted, model, model_name):
    assert emitted(SetRegisteredModelAliasOperator, alias="New", version=1, outlet=Asset(f"x-other-{model_name}")) == []
    assert "Outlet" not in emitted.output


def test_an_operator_that_reads_tells_nothing(emitted, model, connection, model_name):
    """What it carries is no list, not even an empty one: nobody shall be skipped for it."""
    assert emitted(GetModelVersionOperator, version=1) == []
    assert extras(model_asset(model_name, connection)) == [{}]


def test_a_wrong_outlet_is_found_before_the_work(dag_runner, model, connection, model_name):
    result = dag_runner.run(
        lambda: SetRegisteredModelAliasOperator(
            task_id="change",
            model_name=model_name,
            alias="New",
            version=1,
            registry_conn_id=connection,
            outlets=[Asset.ref(name="uc-model://only/one")],
        )
    )
    assert result.state == "failed"
    assert aliases(model, model_name) == {"Champion": 2}


# -- retries and failures

AGAIN = {
    "alias set": (SetRegisteredModelAliasOperator, {"alias": "Champion", "version": 3}, 1),
    "alias deleted": (DeleteRegisteredModelAliasOperator, {"alias": "Champion"}, 1),
    "tags of the model": (SetRegisteredModelTagsOperator, {"tags": {"a": "1", "team": "risk"}}, 2),
    "tags of the model deleted": (DeleteRegisteredModelTagsOperator, {"keys": ["team"]}, 1),
    "tags of a version": (SetModelVersionTagsOperator, {"version": 1, "tags": {"a": "1"}}, 1),
    "tags of a version deleted": (DeleteModelVersionTagsOperator, {"version": 1, "keys": ["stage"]}, 1),
    "version deleted": (DeleteModelVersionOperator, {"version": 3}, 1),
    "model deleted": (DeleteRegisteredModelOperator, {}, 1),
}


@pytest.mark.parametrize("case", AGAIN)
def test_a_retry_tells_what_its_earlier_try_did(emitted, model, case, monkeypatch):
    """The first try does the work and dies before Airflow hears of it."""
    operator, options, count = AGAIN[case]
    tries, keys = [], []

    def recorded(context, outlets, told):
        keys.append([event.key for event, _, _ in told])
        return emit(context, outlets, told)

    monkeypatch.setattr("airflow_uc_models.operators.outlets.emit", recorded)

    def die_once(context, result):
        tries.append(result)
        if len(tries) == 1:
            raise RuntimeError("killed")

    events = emitted(operator, post_execute=die_once, retries=RETRY, **options)
    assert len(tries) == 2
    assert len(events) == count
    assert keys[0] == keys[1] == [event["key"] for event in events]


def test_a_failed_task_tells_nothing(dag_runner, model, connection, model_name):
    asset = model_asset(model_name, connection)
    listening = Listening(dag_runner, [asset], told)
    result = dag_runner.run(
        lambda: SetRegisteredModelAliasOperator(
            task_id="change",
            model_name=model_name,
            alias="New",
            version=99,
            registry_conn_id=connection,
            outlets=[asset],
        )
    )
    assert result.state == "failed"
    assert listening.scheduled() == []


def test_mapped_tasks_have_keys_of_their_own(dag_runner, model, connection, model_name):
    asset = model_asset(model_name, connection)
    listening = Listening(dag_runner, [asset], told)
    result = dag_runner.run(
        lambda: SetRegisteredModelTagsOperator.partial(
            task_id="change", model_name=model_name, registry_conn_id=connection, outlets=[asset]
        ).expand(tags=[{"a": "1"}, {"a": "1"}, {"b": "1"}])
    )
    assert result.state == "success"
    found = extras(asset)
    keys = [event["key"] for extra in found for event in extra["model_events"]]
    assert len(found) == 3
    assert len(keys) == len(set(keys)) >= 2
    assert listening.run().state == "success"


def test_no_outlets_no_further_calls(dag_runner, proxy, monkeypatch, model, model_name):
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", proxy.connection_json())

    def calls(**options):
        result = dag_runner.run(
            lambda: SetRegisteredModelTagsOperator(
                task_id="put", model_name=model_name, registry_conn_id="watched", tags={"a": "1"}, **options
            )
        )
        assert result.state == "success"
        return len(proxy.take())

    plain = calls()
    assert calls(outlets=[Asset("x-other-thing")]) == plain
    assert calls(outlets=[model_asset(model_name, "watched")]) == plain + 1
