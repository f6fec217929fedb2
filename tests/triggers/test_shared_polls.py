"""Polls that watchers share: who comes and goes, fails, or wants more than was read so far."""

from __future__ import annotations

import asyncio

import pytest
from support.triggerer import Store, Triggerer, act, add, began, needs_shared_streams

from airflow_uc_models import events
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import RegistryUnavailableError
from airflow_uc_models.registry.poll import Poll
from airflow_uc_models.registry.sweep import Sweep
from airflow_uc_models.triggers import schema_poll


def options(model_name, **more):
    return {"model_name": model_name, "registry_conn_id": "watched", **more}


@pytest.mark.parametrize("count", [2, 12], ids=["few versions", "many versions"])
def test_tags_that_nobody_had_asked_for_before_are_read_for_who_comes_back(watched, count):
    name = watched.model()
    for _ in range(count):
        watched.version(name)
    store, tags = Store(), {"ok": "1"}

    async def scenario():
        async with Triggerer() as triggerer:
            triggerer.start(store, **options(name, tags=tags))
            await triggerer.until(began(store))
        await add(watched, name, tags=tags)
        async with Triggerer() as triggerer:
            triggerer.start(other := Store(), **options(name))  # whose poll learns of it without tags
            await triggerer.until(began(other))
            back = triggerer.start(store, **options(name, tags=tags))
            await triggerer.until(lambda: triggerer.told(back) == [f"ready {count + 1}"])

    asyncio.run(scenario())


def test_tags_count_that_a_version_has_when_it_becomes_ready(on_databricks):
    name = on_databricks.model()

    async def scenario():
        async with Triggerer() as triggerer:
            kinds = [events.MODEL_VERSION_READY, events.MODEL_VERSION_CREATED]
            watcher = triggerer.start(store := Store(), **options(name, tags={"ok": "1"}))
            pending = triggerer.start(Store(), **options(name, kinds=kinds))
            await triggerer.until(began(store))
            await act(on_databricks, lambda r: r.create_model_version(name, "s3://bucket/model"))
            await triggerer.until(lambda: triggerer.told(pending) == ["created 1"])
            await act(on_databricks, lambda r: r.set_model_version_tag(name, 1, "ok", "1"))
            await act(on_databricks, lambda r: r.finalize_model_version(name, 1))
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 1"])

    asyncio.run(scenario())


@needs_shared_streams
def test_a_watcher_that_is_changed_keeps_the_poll_of_its_schema(watched):
    """Airflow may start the changed trigger before it ends the old one, or just after."""
    name = watched.model()

    async def scenario():
        async with Triggerer() as triggerer:
            first = triggerer.start(old := Store(), **options(name))
            await triggerer.until(began(old))
            slow = Store()
            slow.delay = 0.5
            second = triggerer.start(slow, **options(name, name="changed"))
            await asyncio.sleep(0.1)  # it reads what it was told before
            await triggerer.end(first)
            await triggerer.until(began(slow))
            await add(watched, name)
            await triggerer.until(lambda: '"READY": "1"' in str(slow.values))  # so its events count as stored
            third = triggerer.start(new := Store(), **options(name, name="third"))
            await triggerer.until(began(new))
            await add(watched, name)
            await triggerer.until(lambda: triggerer.told(third) == ["ready 2"] == triggerer.told(second)[1:])

    asyncio.run(scenario())


@needs_shared_streams
def test_what_was_not_sent_is_not_saved_as_told(watched):
    """A watcher can be cancelled between two events of one snapshot, or before the first is sent."""
    name = watched.model()
    store = Store()

    async def scenario():
        async with Triggerer() as triggerer:
            triggerer.start(store, **options(name))
            await triggerer.until(began(store))
        async with Triggerer() as triggerer:
            triggerer.hold = True
            held = triggerer.start(store, **options(name))
            triggerer.start(Store(), **options(name, name="other"))  # so that the poll goes on
            await add(watched, name)
            await triggerer.until(lambda: triggerer.held)
            await triggerer.end(held)
            await asyncio.sleep(0.5)  # the next polls come and go
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store, **options(name))
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 1"])

    asyncio.run(scenario())


def test_a_model_that_cannot_be_read_at_the_beginning_is_not_told_as_new(on_databricks, workspace):
    names = sorted(on_databricks.model() for _ in range(3))
    for name in names:
        on_databricks.version(name)

    async def scenario():
        async with Triggerer() as triggerer:
            ann = workspace.add_principal("ann")
            for privilege, securable in (("USE CATALOG", "dev"), ("USE SCHEMA", "dev.ml_team")):
                workspace.grant(ann, privilege, securable)
            for name in names[1:]:
                workspace.grant(ann, "EXECUTE", name)
            kinds = events.MODEL_KINDS | events.VERSION_KINDS
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AIRFLOW_CONN_ANN", workspace.connection_json(ann))
                watcher = triggerer.start(
                    store := Store(), model_name="dev.ml_team.*", kinds=kinds, registry_conn_id="ann"
                )
                await triggerer.until(began(store))
                await add(on_databricks, names[1])
                await triggerer.until(lambda: len(triggerer.events[watcher]) == 2)
                assert triggerer.told(watcher) == ["created 2", "ready 2"]

    asyncio.run(scenario())


def test_one_model_that_fails_does_not_stop_the_others(on_databricks, monkeypatch):
    monkeypatch.setattr(schema_poll, "_LEAST_RETRY_SECONDS", 0.2)
    names = [on_databricks.model() for _ in range(4)]
    look = Poll.look

    def look_at(self, name, now):
        if name == names[0]:
            raise RegistryUnavailableError("500")
        return (yield from look(self, name, now))

    monkeypatch.setattr(Poll, "look", look_at)

    async def scenario():
        async with Triggerer() as triggerer:
            watchers = {
                name: triggerer.start(Store(), **options(name, replay=True), poll_interval=0.2) for name in names
            }
            for name in names[1:]:
                await add(on_databricks, name)
            await triggerer.until(lambda: all(triggerer.told(watchers[name]) == ["ready 1"] for name in names[1:]))

    asyncio.run(scenario())


def test_a_registry_that_is_down_is_not_asked_for_every_model(on_databricks, workspace, monkeypatch):
    monkeypatch.setattr(schema_poll, "_LEAST_RETRY_SECONDS", 0.01)
    names = [on_databricks.model() for _ in range(40)]

    async def scenario():
        async with Triggerer() as triggerer:
            stores = [Store() for _ in names]
            for name, store in zip(names, stores, strict=True):
                triggerer.start(store, **options(name), poll_interval=0.5)
            await triggerer.until(lambda: all(began(store)() for store in stores))
            workspace.faults.add(count=None, status=503)
            on_databricks.sent()
            await triggerer.until(lambda: all(store.status.get("status") == "failing" for store in stores))
            assert len(on_databricks.sent()) < 120  # some tries of a few models, not of each

    asyncio.run(scenario())


def test_a_model_whose_name_has_another_form_stops_nothing(on_mlflow, mlflow_server):
    name = on_mlflow.model()
    client = mlflow_server.client()
    client.create_registered_model(f"{on_mlflow.schema}.fraud.v2")
    client.create_model_version(f"{on_mlflow.schema}.fraud.v2", "s3://bucket/model")

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(
                store := Store(), **options(f"{on_mlflow.schema}.*", kinds=["model_version.ready", *events.MODEL_KINDS])
            )
            await triggerer.until(began(store))
            await add(on_mlflow, name)
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 1"])
            assert store.status.get("status") != "failing"

    asyncio.run(scenario())


class Search:
    """What a search for versions, newest first, returns; and how much was asked for."""

    def __init__(self, times: list[int]) -> None:
        self.times, self.asked = times, []

    def search_model_versions(self, *, filter_string, order_by, max_results):
        self.asked.append(max_results)
        found = sorted(self.times, reverse=True)[:max_results]
        yield from ()
        return [ModelVersion("a.b.c", 1, updated_at=time) for time in found]


def swept(sweep, search, now):
    search.asked.clear()
    call = sweep.changed(search, now)
    with pytest.raises(StopIteration) as done:
        next(call)
    return sum(map(len, done.value.value.values())), list(search.asked)


def test_a_sweep_reads_on_to_what_it_has_seen_and_no_further():
    search, sweep = Search(list(range(1_000, 6_000, 10))), Sweep("a.b")
    assert swept(sweep, search, 0.0) == (50, [50])
    sweep.finish(0.0)
    assert swept(sweep, search, 10.0)[1] == [50, 200, 800]  # they may not all have been there
    search.times += range(10_000, 10_100)
    assert swept(sweep, search, 100.0) == (200, [50, 200])
    assert swept(sweep, search, 110.0) == (200, [50, 200])  # until a round has taken them all
    sweep.finish(110.0)
    assert swept(sweep, search, 180.0) == (50, [50])
