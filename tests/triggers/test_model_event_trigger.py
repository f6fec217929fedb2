"""ModelEventTrigger on real registries, driven by Airflow's own shared streams."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from support.triggerer import Store, Triggerer, act, add, began, needs_shared_streams

from airflow_uc_models import events
from airflow_uc_models.exceptions import InvalidArgumentError, InvalidNameError
from airflow_uc_models.registry import poll
from airflow_uc_models.triggers import ModelEventTrigger

READY, CREATED = "ready 1", "created 1"


def run(scenario):
    asyncio.run(scenario())


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])
def test_a_new_version_is_told_once_and_what_was_there_before_is_not(watched, shared):
    name = watched.model()
    watched.version(name)

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store := Store(), model_name=name, registry_conn_id="watched", shared=shared)
            await triggerer.until(began(store))
            await add(watched, name, 2)
            await triggerer.until(lambda: len(triggerer.events[watcher]) >= 2)
            await add(watched, name)
            await triggerer.until(lambda: len(triggerer.events[watcher]) >= 3)
            assert triggerer.told(watcher) == ["ready 2", "ready 3", "ready 4"]
            event = triggerer.events[watcher][0]
            assert (event.model_name, event.version, event.uri) == (name, 2, f"models:/{name}/2")

    run(scenario)


def test_replay_tells_what_is_there_first(watched):
    name = watched.model()
    watched.version(name)
    watched.version(name)

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(Store(), model_name=name, registry_conn_id="watched", replay=True)
            await triggerer.until(lambda: triggerer.told(watcher) == ["ready 1", "ready 2"])

    run(scenario)


def test_every_kind_of_event_of_a_schema(watched):
    name = watched.name()

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(
                store := Store(), model_name=f"{watched.schema}.*", kinds=events.KINDS, registry_conn_id="watched"
            )
            told = []

            async def expect(*expected):
                await triggerer.until(lambda: len(triggerer.told(watcher)) >= len(told) + len(expected))
                assert triggerer.told(watcher)[len(told) :] == list(expected)
                told.extend(expected)

            await triggerer.until(began(store))
            await act(watched, lambda r: r.create_registered_model(name))
            await expect("model created")
            await add(watched, name)
            await triggerer.until(lambda: len(triggerer.told(watcher)) >= 3)
            await expect("created 1", "ready 1")
            await act(watched, lambda r: r.set_registered_model_alias(name, "Champion", 1))
            await expect("alias.created Champion None->1")
            await act(watched, lambda r: r.set_model_version_tag(name, 1, "validation_status", "approved"))
            await expect("tag.set 1 validation_status=approved")
            await act(watched, lambda r: r.delete_model_version_tag(name, 1, "validation_status"))
            await expect("tag.deleted 1 validation_status=None")
            await act(watched, lambda r: r.set_registered_model_tag(name, "team", "x"))
            await expect("tag.set  team=x")
            await act(watched, lambda r: r.delete_registered_model_tag(name, "team"))
            await expect("tag.deleted  team=None")
            await act(watched, lambda r: r.delete_registered_model_alias(name, "Champion"))
            await expect("alias.deleted Champion 1->None")
            await act(watched, lambda r: r.delete_model_version(name, 1))
            await triggerer.until(lambda: "deleted 1" in triggerer.told(watcher))
            await act(watched, lambda r: r.delete_registered_model(name))
            await triggerer.until(lambda: "model deleted" in triggerer.told(watcher))
            assert triggerer.told(watcher)[len(told) :] == ["deleted 1", "model deleted"]

    run(scenario)


def test_a_moved_alias_says_from_where(watched):
    name = watched.model()
    for _ in range(2):
        watched.version(name)
    for alias in ("Champion", "Canary"):
        watched(lambda r, alias=alias: r.set_registered_model_alias(name, alias, 1))

    async def scenario():
        async with Triggerer() as triggerer:
            options = {"kinds": events.ALIAS_KINDS, "registry_conn_id": "watched", "model_name": name}
            every = triggerer.start(store := Store(), **options)
            one = triggerer.start(other := Store(), aliases="Champion", **options)
            await triggerer.until(lambda: began(store)() and began(other)())
            await act(watched, lambda r: r.set_registered_model_alias(name, "Canary", 2))
            await triggerer.until(lambda: triggerer.events[every])
            await act(watched, lambda r: r.set_registered_model_alias(name, "Champion", 2))
            await triggerer.until(lambda: triggerer.events[one] and len(triggerer.events[every]) == 2)
            assert triggerer.told(one) == ["alias.created Champion 1->2"]
            assert triggerer.told(every) == ["alias.created Canary 1->2", "alias.created Champion 1->2"]
            assert triggerer.events[every][1].key == triggerer.events[one][0].key or not store.values

    run(scenario)


def test_versions_are_filtered_by_their_tags_and_tags_by_key_and_value(watched):
    name = watched.model()
    options = {"model_name": name, "registry_conn_id": "watched"}

    async def scenario():
        async with Triggerer() as triggerer:
            stores = Store(), Store(), Store()
            tagged = triggerer.start(stores[0], tags={"team": ["x", "y"], "stage": None}, **options)
            approved = triggerer.start(
                stores[1], kinds=events.MODEL_VERSION_TAG_SET, tags={"validation_status": "approved"}, **options
            )
            whole = triggerer.start(stores[2], **options)
            await triggerer.until(lambda: all(began(store)() for store in stores))
            await add(watched, name, tags={"team": "z", "stage": "1"})
            await add(watched, name, tags={"team": "y"})
            await add(watched, name, tags={"team": "y", "stage": ""})
            await triggerer.until(lambda: len(triggerer.events[whole]) == 3 and triggerer.events[tagged])
            for value in ("rejected", "approved"):
                await act(watched, lambda r, v=value: r.set_model_version_tag(name, 2, "validation_status", v))
                await asyncio.sleep(0.5 if value == "rejected" else 0)
            await triggerer.until(lambda: triggerer.events[approved])
            assert triggerer.told(tagged) == ["ready 3"]
            assert triggerer.told(approved) == ["tag.set 2 validation_status=approved"]
            assert triggerer.events[approved][0].from_value == "rejected"

    run(scenario)


def test_a_watcher_goes_on_where_a_killed_triggerer_was(watched):
    name = watched.model()
    watched.version(name)
    store, options = Store(), {"model_name": f"{watched.schema}.*", "registry_conn_id": "watched"}

    async def scenario():
        async with Triggerer() as triggerer:
            triggerer.start(store, **options)
            await triggerer.until(began(store))
        await add(watched, name)
        other = await asyncio.to_thread(watched.model)
        await add(watched, other, 2)
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store, **options)
            await triggerer.until(lambda: len(triggerer.events[watcher]) >= 3)
            assert {(e.model_name, e.version) for e in triggerer.events[watcher]} == {(name, 2), (other, 1), (other, 2)}
            await triggerer.until(lambda: other in str(store.values) or "1-2" in str(store.values))
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store, **options)
            await add(watched, name)
            await triggerer.until(lambda: triggerer.events[watcher])
            assert triggerer.told(watcher) == ["ready 3"]

    run(scenario)


@needs_shared_streams
def test_events_that_airflow_has_not_stored_are_told_again_under_the_same_keys(watched):
    name = watched.model()
    watched.version(name)
    store = Store()
    options = {"model_name": name, "registry_conn_id": "watched", "kinds": events.KINDS}

    async def scenario():
        told = []
        for _ in range(2):
            async with Triggerer(stores=False) as triggerer:
                watcher = triggerer.start(store, **options)
                await triggerer.until(began(store))
                if not told:
                    await add(watched, name)
                    await act(watched, lambda r: r.set_registered_model_alias(name, "Champion", 2))
                await triggerer.until(lambda w=watcher, t=triggerer: len(t.events[w]) >= 3)
                told.append([event.key for event in triggerer.events[watcher]])
                await asyncio.sleep(0.5)  # several polls later they are still not saved
        assert set(told[0]) == set(told[1])
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store, **options)
            await triggerer.until(lambda: len(triggerer.events[watcher]) >= 3)
            before = store.values.copy()
            await triggerer.until(lambda: store.values != before)
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store, **options)
            await act(watched, lambda r: r.set_registered_model_alias(name, "Champion", 1))
            await triggerer.until(lambda: triggerer.events[watcher])
            assert triggerer.told(watcher) == ["alias.created Champion 2->1"]

    run(scenario)


def test_what_cannot_be_saved_now_is_saved_later(watched, caplog):
    name = watched.model()
    store = Store()

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store, model_name=name, registry_conn_id="watched")
            await triggerer.until(began(store))
            store.failures = 3
            await add(watched, name)
            await triggerer.until(lambda: '"READY": "1"' in str(store.values))
            assert triggerer.told(watcher) == [READY]

    run(scenario)


def test_who_comes_late_is_told_everything_from_then_on(watched):
    name = watched.model()

    async def scenario():
        async with Triggerer() as triggerer:
            options = {"model_name": name, "registry_conn_id": "watched", "poll_interval": 0.3}
            early = triggerer.start(store := Store(), **options)
            await triggerer.until(began(store))
            await add(watched, name)
            await triggerer.until(lambda: triggerer.events[early])
            late = triggerer.start(store := Store(), name="late", **options)
            await triggerer.until(began(store))
            await add(watched, name)
            await triggerer.until(lambda: triggerer.told(early)[-1:] == ["ready 2"] == triggerer.told(late))

    run(scenario)


@needs_shared_streams
def test_all_watchers_of_a_schema_share_one_poll(watched):
    names = [watched.model() for _ in range(5)]
    for name in names:
        watched.version(name)

    def asked_by(watchers):
        async def scenario():
            async with Triggerer() as triggerer:
                stores = [Store() for _ in range(watchers)]
                numbers = [
                    triggerer.start(store, model_name=names[i % 5], name=str(i), registry_conn_id="watched")
                    for i, store in enumerate(stores)
                ]
                await triggerer.until(lambda: all(began(store)() for store in stores))
                watched.sent()
                await asyncio.sleep(1.5)
                asked = len(watched.sent())
                await add(watched, names[0])
                of_first = numbers[::5]
                await triggerer.until(lambda: all(len(triggerer.events[n]) == 1 for n in of_first))
                assert not any(triggerer.events[n] for n in numbers if n not in of_first)
                return asked

        return asyncio.run(scenario())

    few, many = asked_by(5), asked_by(40)
    assert 0 < many <= few * 3, (few, many)  # eight times as many, if each polled for itself


def test_a_large_model_is_never_listed_by_a_poll(on_databricks, workspace):
    name = on_databricks.model()
    for _ in range(40):
        on_databricks.version(name)

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store := Store(), model_name=name, registry_conn_id="watched")
            await triggerer.until(began(store))
            on_databricks.sent()
            await add(on_databricks, name, 3)
            await triggerer.until(lambda: len(triggerer.events[watcher]) == 3)
            paths = [request.path for request in on_databricks.sent() if request.method == "GET"]
            assert paths
            assert not [path for path in paths if path.endswith(("/search", "/versions"))]

    run(scenario)


def test_a_number_that_came_and_went_hides_nothing(on_databricks):
    name = on_databricks.model()
    for _ in range(12):
        on_databricks.version(name)

    async def scenario():
        async with Triggerer() as triggerer:
            options = {"model_name": name, "registry_conn_id": "watched"}
            watcher = triggerer.start(store := Store(), reconcile_interval=2, **options)
            await triggerer.until(began(store))
            # between two polls, one version comes and goes and another one stays
            await asyncio.to_thread(_come_and_go, on_databricks, name)
            await triggerer.until(lambda: triggerer.events[watcher])
            assert "ready 14" in triggerer.told(watcher)

    run(scenario)


def _come_and_go(tested, name):
    """Let a version number go by so fast that no poll sees it: the emulator's own lock keeps them out."""
    tested(lambda r: r.create_model_version(name, "s3://bucket/model"))
    tested(lambda r: r.delete_model_version(name, 13))
    tested.version(name)


def test_pending_versions_are_told_when_they_become_ready(on_databricks):
    name = on_databricks.model()
    for _ in range(12):
        on_databricks.version(name)

    async def scenario():
        async with Triggerer() as triggerer:
            kinds = [events.MODEL_VERSION_CREATED, events.MODEL_VERSION_READY, events.MODEL_VERSION_DELETED]
            watcher = triggerer.start(store := Store(), model_name=name, kinds=kinds, registry_conn_id="watched")
            await triggerer.until(began(store))
            for _ in range(2):
                await act(on_databricks, lambda r: r.create_model_version(name, "s3://bucket/model"))
            await triggerer.until(lambda: len(triggerer.events[watcher]) == 2)
            await act(on_databricks, lambda r: r.finalize_model_version(name, 14))
            await triggerer.until(lambda: len(triggerer.events[watcher]) == 3)
            await act(on_databricks, lambda r: r.delete_model_version(name, 13))
            await triggerer.until(lambda: len(triggerer.events[watcher]) == 4)
            assert triggerer.told(watcher) == ["created 13", "created 14", "ready 14", "deleted 13"]

    run(scenario)


def test_tags_of_old_versions_are_read_in_turn(watched, monkeypatch):
    monkeypatch.setattr(poll, "_TAGGED_VERSIONS", 2)
    monkeypatch.setattr(poll, "_TURN", 3)
    name = watched.model()
    for _ in range(8):
        watched.version(name)
    monkeypatch.setattr(poll, "FEW_VERSIONS", 1)

    async def scenario():
        async with Triggerer() as triggerer:
            kinds = events.VERSION_TAG_KINDS
            watcher = triggerer.start(store := Store(), model_name=name, kinds=kinds, registry_conn_id="watched")
            await triggerer.until(lambda: str(store.values).count("{}") >= 8)  # the tags of all are known
            await act(watched, lambda r: r.set_model_version_tag(name, 1, "checked", "yes"))
            await triggerer.until(lambda: triggerer.told(watcher) == ["tag.set 1 checked=yes"])

    run(scenario)


def test_a_model_that_is_not_there_yet(watched):
    name = watched.name()

    async def scenario():
        async with Triggerer() as triggerer:
            watcher = triggerer.start(store := Store(), model_name=name, registry_conn_id="watched")
            await triggerer.until(began(store))
            await act(watched, lambda r: r.create_registered_model(name))
            await add(watched, name)
            await triggerer.until(lambda: triggerer.told(watcher) == [READY])

    run(scenario)


def test_a_model_made_again_under_its_name_is_told_anew(watched):
    name = watched.model()
    watched.version(name)

    async def scenario():
        async with Triggerer() as triggerer:
            kinds = ["registered_model.created", "registered_model.deleted", "model_version.ready"]
            watcher = triggerer.start(
                store := Store(), model_name=name, kinds=kinds, registry_conn_id="watched", reconcile_interval=1
            )
            await triggerer.until(began(store))
            await act(watched, lambda r: r.delete_model_version(name, 1))
            await act(watched, lambda r: r.delete_registered_model(name))
            await act(watched, lambda r: r.create_registered_model(name))
            await add(watched, name)
            await triggerer.until(lambda: triggerer.told(watcher)[-1:] == [READY])
            assert triggerer.told(watcher) == ["model deleted", "model created", READY]

    run(scenario)


def test_without_aliases_and_tags_versions_are_still_watched(on_open_source):
    name = on_open_source.model()

    async def scenario():
        async with Triggerer() as triggerer:
            options = {"model_name": name, "registry_conn_id": "watched"}
            versions = triggerer.start(store := Store(), **options)
            aliases = triggerer.start(broken := Store(), kinds=events.ALIAS_KINDS, **options)
            kinds = [*events.ALIAS_KINDS, events.REGISTERED_MODEL_TAG_SET, "model_version.ready"]
            some = triggerer.start(partial := Store(), kinds=kinds, **options)
            filtered = triggerer.start(Store(), kinds="model_version.ready", tags={"ok": "1"}, **options)
            await triggerer.until(began(store))
            await add(on_open_source, name)
            await triggerer.until(lambda: triggerer.told(versions) == triggerer.told(some) == [READY])
            await triggerer.until(lambda: broken.status.get("status") == "failing")
            assert "does not support aliases" in broken.status["error"]
            assert not triggerer.events[aliases]
            assert not triggerer.events[filtered]
            assert partial.status["status"] == "partial"
            for kind in set(kinds) - {"model_version.ready"}:
                assert kind in partial.status["error"]

    run(scenario)


def test_a_trigger_survives_its_journey_through_the_database():
    trigger = ModelEventTrigger(
        model_name="prod.ml_team.*",
        kinds={"model_version_tag.set", "model_version.ready"},
        tags={"validation_status": ["approved", "accepted"], "team": None},
        aliases=["Champion"],
        registry_conn_id="conn",
        poll_interval=timedelta(minutes=2),
        replay=True,
        name="mine",
    )
    classpath, kwargs = trigger.serialize()
    assert classpath == "airflow_uc_models.triggers.model_events.ModelEventTrigger"
    again = ModelEventTrigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (classpath, kwargs)
    assert (again.watch, again.poll_interval, again.replay) == (trigger.watch, 120.0, True)
    assert kwargs["kinds"] == ["model_version.ready", "model_version_tag.set"]


def test_two_watchers_that_differ_are_two_triggers_and_those_of_one_schema_share_a_poll():
    def made(**arguments):
        return ModelEventTrigger(**{"model_name": "a.b.c", "registry_conn_id": "conn"} | arguments)

    def hash_of(trigger):
        return ModelEventTrigger.hash(*trigger.serialize())

    others = [{"model_name": "a.b.d"}, {"kinds": "model_version.created"}, {"name": "x"}, {"aliases": "Champion"}]
    assert len({hash_of(made(**other)) for other in [{}, *others]}) == 5
    assert {made(**other).shared_stream_key() for other in [*others, {"model_name": "a.b.*"}]} == {
        made().shared_stream_key()
    }
    for other in ({"registry_conn_id": "x"}, {"poll_interval": 7}, {"model_name": "a.x.c"}):
        assert made(**other).shared_stream_key() != made().shared_stream_key()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model_name": "fraud"}, "three"),
        ({"model_name": "prod.*"}, "A schema is named"),
        ({"kinds": "model_version.approved"}, "not 'model_version.approved'"),
        ({"kinds": []}, "Kinds of events are"),
        ({"aliases": "latest"}, "reserved"),
        ({"tags": {"team": []}}, "a list of values"),
        ({"poll_interval": 0}, "poll_interval"),
    ],
)
def test_bad_arguments_are_refused_where_the_dag_is_written(arguments, said):
    with pytest.raises((InvalidArgumentError, InvalidNameError), match=said):
        ModelEventTrigger(**{"model_name": "prod.ml_team.fraud"} | arguments)
