"""ConditionTrigger by itself: an event loop, a real MLflow server, no triggerer."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from support.registry import make_versions

from airflow_uc_models.conditions import NewModelVersion, NewRegisteredModel
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.triggers import ConditionTrigger

MODEL = "registered-models/get"


@pytest.fixture(autouse=True)
def _database(airflow_home):
    """Connections that are in no variable are looked up in the metadata database."""


def trigger_on(conn_id, model_name, *, after_version=0, **options):
    condition = NewModelVersion(model_name, after_version=after_version, missing_ok=options.pop("missing_ok", False))
    options = {"poll_interval": 0.02, "deadline": time.time() + 60} | options
    return ConditionTrigger(condition=condition.to_json(), registry_conn_id=conn_id, **options)


async def events_of(trigger):
    """All that the trigger ever sends: it must end by itself."""
    return [event.payload async for event in trigger.run()]


def test_rebuilt_from_what_it_serializes():
    trigger = trigger_on("conn", "a.b.c", deadline=123.5, poll_interval=7, max_poll_interval=70)
    classpath, kwargs = trigger.serialize()
    assert classpath == "airflow_uc_models.triggers.condition.ConditionTrigger"
    again = ConditionTrigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (classpath, kwargs)
    assert kwargs["deadline"] == 123.5


def test_arguments_of_an_earlier_release_are_enough():
    trigger = ConditionTrigger(condition={"kind": "new_model_version", "model_name": "a.b.c"}, registry_conn_id="conn")
    assert trigger.serialize()[1]["poll_interval"] == 60


def test_met_sends_one_event_and_ends(connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)
    (event,) = asyncio.run(events_of(trigger_on(connection, model_name, after_version=1)))
    assert event["outcome"] == "met"
    assert (event["version"]["name"], event["version"]["version"]) == (model_name, 2)
    assert json.loads(json.dumps(event)) == event


def test_a_model_that_is_there_is_sent_as_one(connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 0)
    condition = NewRegisteredModel(model_name=model_name)
    trigger = ConditionTrigger(condition=condition.to_json(), registry_conn_id=connection, deadline=time.time() + 60)
    (event,) = asyncio.run(events_of(trigger))
    assert (event["outcome"], event["model"]["name"], "version" in event) == ("met", model_name, False)
    assert json.loads(json.dumps(event)) == event


def test_failed_sends_one_event_and_ends(connection, model_name):
    (event,) = asyncio.run(events_of(trigger_on(connection, model_name)))
    assert (event["outcome"], event["version"]) == ("failed", None)
    assert model_name in event["message"]


def test_a_refusal_is_a_failure(through_proxy, proxy, model_name):
    proxy.fail(MODEL, times=None, status=403, body='{"error_code": "PERMISSION_DENIED", "message": "go away"}')
    (event,) = asyncio.run(events_of(trigger_on(through_proxy, model_name)))
    assert event["outcome"] == "failed"
    assert "go away" in event["message"]
    assert len(proxy.requests) == 1


def test_a_connection_of_another_type_is_a_failure(monkeypatch, model_name):
    monkeypatch.setenv("AIRFLOW_CONN_FTP_TEST", "ftp://host")
    (event,) = asyncio.run(events_of(trigger_on("ftp_test", model_name)))
    assert event["outcome"] == "failed"
    assert "'ftp'" in event["message"]


def test_an_unknown_error_propagates(model_name):
    trigger = trigger_on("no_such_conn", model_name)
    trigger.condition["kind"] = "of a later release"
    with pytest.raises(InvalidArgumentError, match="of a later release"):
        asyncio.run(events_of(trigger))


def test_timeout_says_what_was_waited_for_and_what_was_seen(connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1)
    began = time.time()
    (event,) = asyncio.run(events_of(trigger_on(connection, model_name, after_version=1, deadline=began + 0.4)))
    assert event["outcome"] == "timeout"
    assert f"a READY version of {model_name} newer than 1" in event["message"]
    assert 0.4 <= time.time() - began < 10


def test_a_deadline_in_the_past_leaves_one_look(through_proxy, proxy, mlflow_server, model_name):
    # A triggerer that was down for hours must not call a timeout on what came in meanwhile.
    make_versions(mlflow_server, model_name, 1)
    (event,) = asyncio.run(events_of(trigger_on(through_proxy, model_name, deadline=1.0)))
    assert event["outcome"] == "met"
    proxy.take()
    (event,) = asyncio.run(events_of(trigger_on(through_proxy, model_name, after_version=1, deadline=1.0)))
    assert event["outcome"] == "timeout"
    assert len([r for r in proxy.requests if r.path.endswith(MODEL)]) == 1


def test_the_timeout_of_a_silent_registry_says_so(through_proxy, proxy, model_name):
    proxy.fail(MODEL, times=None, status=503)
    (event,) = asyncio.run(events_of(trigger_on(through_proxy, model_name, deadline=time.time() + 0.2)))
    assert event["outcome"] == "timeout"
    assert "503" in event["message"]


def test_a_silent_registry_is_ridden_out(through_proxy, proxy, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1)
    fault = proxy.fail(MODEL, times=3, reset=True)
    (event,) = asyncio.run(events_of(trigger_on(through_proxy, model_name)))
    assert (event["outcome"], fault.times) == ("met", 0)


@pytest.mark.parametrize(("max_poll_interval", "seconds", "looks"), [(None, 3, range(9, 152)), (0.32, 1, range(3, 9))])
def test_the_interval_doubles_where_asked(through_proxy, proxy, model_name, max_poll_interval, seconds, looks):
    trigger = trigger_on(
        through_proxy,
        model_name,
        missing_ok=True,
        max_poll_interval=max_poll_interval,
        deadline=time.time() + seconds,
    )
    asyncio.run(events_of(trigger))
    assert len(proxy.requests) in looks


def test_the_event_loop_is_never_blocked(through_proxy, proxy, mlflow_server, model_name):
    """A registry that takes its time must not hold up other triggers of the same triggerer."""
    make_versions(mlflow_server, model_name, 1)
    slow = proxy.fail(MODEL, times=None, after=True, hold=threading.Event())
    gaps = []

    async def tick():
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - began)

    async def both():
        ticking = asyncio.create_task(tick())
        events = await asyncio.gather(*(events_of(trigger_on(through_proxy, model_name)) for _ in range(5)))
        ticking.cancel()
        return events

    threading.Timer(2, slow.hold.set).start()
    events = asyncio.run(both())
    assert [event["outcome"] for (event,) in events] == ["met"] * 5
    assert max(gaps) < 1
