"""ModelEventTrigger where the registry fails, refuses, or is not there."""

from __future__ import annotations

import asyncio
import json

import pytest
from support.databricks import connection_json
from support.triggerer import Store, Triggerer, add, began, needs_shared_streams

from airflow_uc_models import events
from airflow_uc_models.emulator import Emulator
from airflow_uc_models.triggers import schema_poll


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(schema_poll, "_LEAST_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(schema_poll, "_MAX_BACKOFF_SECONDS", 0.3)


def failing(store):
    return lambda: store.status.get("status") == "failing"


def fine(store):
    return lambda: store.status.get("status") == "ok"


def said(caplog, text):
    return [record for record in caplog.records if text in record.getMessage() and "listener" in record.name]


@pytest.mark.parametrize("model", ["{name}", "{schema}.*"], ids=["a model", "a schema"])
def test_a_registry_that_is_down_is_told_once_and_caught_up_with(on_databricks, workspace, model, caplog):
    name = on_databricks.model()
    on_databricks.version(name)
    watching = model.format(name=name, schema=on_databricks.schema)

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store := Store(), model_name=watching, registry_conn_id="watched")
            await triggerer.until(began(store))
            workspace.faults.add(count=None, status=503)
            await triggerer.until(failing(store))
            assert "503" in store.status["error"]
            assert store.status["watching"] == watching
            await asyncio.sleep(1)  # several polls fail meanwhile
            workspace.faults.clear()
            await add(on_databricks, name, 2)
            await triggerer.until(lambda: len(triggerer.events[watcher]) == 2)
            await triggerer.until(fine(store))
            assert triggerer.told(watcher) == ["ready 2", "ready 3"]
            assert "error" not in store.status

    asyncio.run(scenario())
    assert len(said(caplog, "Cannot watch")) == 1
    assert len(said(caplog, "again")) <= 1


def test_down_at_the_first_start_it_begins_when_the_registry_is_there(on_databricks, workspace):
    name = on_databricks.model()
    on_databricks.version(name)
    workspace.faults.add(count=None, status=500)

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store := Store(), model_name=name, registry_conn_id="watched")
            await triggerer.until(failing(store))
            assert not began(store)()
            workspace.faults.clear()
            await triggerer.until(began(store))
            await add(on_databricks, name)
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 2"])

    asyncio.run(scenario())


def test_one_request_in_ten_that_fails_loses_nothing(on_databricks, workspace):
    names = [on_databricks.model() for _ in range(3)]

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(
                store := Store(), model_name=f"{on_databricks.schema}.*", registry_conn_id="watched"
            )
            await triggerer.until(began(store))
            for fault in ({"status": 429, "retry_after": 0}, {"status": 500}, {"reset": True}):
                workspace.faults.add(method="GET", count=None, probability=0.033, **fault)
            for name in names:
                await add(on_databricks, name, 5)
            await triggerer.until(lambda: len(triggerer.events[watcher]) >= 15)
            found = [(event.model_name, event.version) for event in triggerer.events[watcher]]
            assert sorted(found) == sorted((name, number) for name in names for number in range(1, 6))

    asyncio.run(scenario())


@pytest.mark.parametrize("withdrawn", ["EXECUTE", "USE SCHEMA"])
@pytest.mark.parametrize("model", ["{name}", "{schema}.*"], ids=["a model", "a schema"])
def test_a_privilege_that_is_withdrawn_is_no_deletion(on_databricks, workspace, monkeypatch, withdrawn, model):
    name, other = on_databricks.model(), on_databricks.model()
    on_databricks.version(name)
    ann = workspace.add_principal("ann")
    schema = on_databricks.schema
    on = {"EXECUTE": name, "USE SCHEMA": schema}
    workspace.grant(ann, "USE CATALOG", schema.partition(".")[0])
    for privilege, securable in [*on.items(), ("EXECUTE", other)]:
        workspace.grant(ann, privilege, securable)
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED_BY_ANN", connection_json(workspace, ann.token))

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(
                store := Store(),
                model_name=model.format(name=name, schema=schema),
                kinds=events.MODEL_KINDS | {events.MODEL_VERSION_READY, events.MODEL_VERSION_DELETED},
                registry_conn_id="watched_by_ann",
            )
            await triggerer.until(began(store))
            workspace.revoke(ann, withdrawn, on[withdrawn])
            await triggerer.until(failing(store))
            assert withdrawn in store.status["error"]
            await add(on_databricks, name)
            workspace.grant(ann, withdrawn, on[withdrawn])
            await triggerer.until(fine(store))
            await triggerer.until(lambda: triggerer.events[watcher])
            assert triggerer.told(watcher) == ["ready 2"]

    asyncio.run(scenario())


def test_a_token_that_expires_is_renewed_unnoticed(monkeypatch, caplog):
    from airflow_uc_models.emulator import Settings

    with Emulator(Settings(token_seconds=1)) as workspace:
        workspace.add_principal("robot", client_id="robot-id", client_secret="secret", is_admin=True)
        connection = json.loads(connection_json(workspace, "secret"))
        connection |= {"login": "robot-id", "extra": {"service_principal_oauth": True}}
        monkeypatch.setenv("AIRFLOW_CONN_BY_CLIENT", json.dumps(connection))

        async def scenario():
            async with Triggerer() as triggerer:
                watcher = triggerer.start(
                    store := Store(), model_name="dev.ml_team.*", registry_conn_id="by_client", replay=True
                )
                await triggerer.until(began(store))
                await asyncio.sleep(2.5)
                name = await asyncio.to_thread(make_version, workspace)
                await triggerer.until(lambda: triggerer.events[watcher])
                assert triggerer.events[watcher][0].model_name == name
                assert not store.status

        asyncio.run(scenario())
    assert not said(caplog, "Cannot watch")


def make_version(workspace):
    from support.registries import EMULATED, Subject

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_ADMIN", connection_json(workspace))
        subject = Subject("admin", "dev.ml_team", EMULATED)
        subject.version(name := subject.model())
    return name


def test_a_connection_that_is_made_or_mended_later_is_read_again(on_databricks, workspace, monkeypatch):
    name = on_databricks.model()
    options = {"model_name": name, "registry_conn_id": "later"}

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store := Store(), **options)
            await triggerer.until(failing(store))
            assert "later" in store.status["error"]
            monkeypatch.setenv("AIRFLOW_CONN_LATER", connection_json(workspace, "nobodys-token"))
            await triggerer.until(lambda: "token" in store.status["error"])
            monkeypatch.setenv("AIRFLOW_CONN_LATER", connection_json(workspace))
            await triggerer.until(began(store))
            await add(on_databricks, name)
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 1"])

    asyncio.run(scenario())


@needs_shared_streams
def test_two_assets_that_share_a_trigger_are_told_of_and_watched_all_the_same(on_databricks, caplog):
    from airflow.sdk import Asset
    from airflow.sdk.execution_time.context import AssetStateStoreAccessors

    name = on_databricks.model()
    both = AssetStateStoreAccessors(inlets=[Asset(name="a", uri="x-a://a"), Asset(name="b", uri="x-b://b")])

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(both, model_name=name, registry_conn_id="watched", replay=True)
            await add(on_databricks, name)
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 1"])

    asyncio.run(scenario())
    assert "different names" in caplog.text


def test_a_principal_without_the_privilege_can_be_replaced_by_another(on_databricks, workspace, monkeypatch):
    name, other = on_databricks.model(), on_databricks.model()
    ann = workspace.add_principal("ann")
    for privilege, securable in (("USE CATALOG", "dev"), ("USE SCHEMA", "dev.ml_team"), ("EXECUTE", other)):
        workspace.grant(ann, privilege, securable)
    monkeypatch.setenv("AIRFLOW_CONN_REPLACED", connection_json(workspace, ann.token))

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store := Store(), model_name=name, registry_conn_id="replaced")
            served = triggerer.start(Store(), model_name=other, registry_conn_id="replaced", replay=True)
            await triggerer.until(failing(store))
            await add(on_databricks, other)
            await triggerer.until(lambda: triggerer.told(served) == ["ready 1"])
            monkeypatch.setenv("AIRFLOW_CONN_REPLACED", connection_json(workspace))
            await triggerer.until(began(store))
            await add(on_databricks, name)
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 1"])

    asyncio.run(scenario())
