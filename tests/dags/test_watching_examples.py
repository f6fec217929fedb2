"""The example Dags that watchers start: their shape, and what they do, run through Airflow's scheduler and task runner.

How they run under a real triggerer is in tests/stack/test_example_watchers.py.
"""

from __future__ import annotations

import hashlib
import hmac
import runpy
import uuid
from pathlib import Path

import airflow.sdk
import pytest
from airflow.sdk.definitions.context import Context
from support.asset_runs import Listening, run_tasks
from support.dag_runs import Result
from support.receiver import AUTHORIZATION, PATH, SECRET, Receiver
from support.registries import EMULATED, SOURCE, Subject
from support.registry import make_versions

from airflow_uc_models import events
from airflow_uc_models.events import ModelEvent

DAGS = Path(__file__).parents[2] / "dags"
WATCHER, RELAY, VERSION = "example_asset_watcher", "example_asset_watcher_relay", "example_asset_watcher_version"
CREATED, MODEL, TAG, STAGE = (
    f"example_webhook_{webhook}"
    for webhook in (
        "model_version_created",
        "registered_model_created",
        "model_version_tag_set",
        "model_version_transitioned_stage",
    )
)
PARTITIONS = hasattr(airflow.sdk, "PartitionedAtRuntime")
HAS_STATE_STORE = "asset_state_store" in Context.__annotations__
EDGES = {
    WATCHER: {"pending": {"check", "mark"}, "check": {"mark"}, "mark": set()},
    CREATED: {"pending": {"send_version", "mark"}, "send_version": {"mark"}, "mark": set()},
    **{dag_id: {"send_changes": set()} for dag_id in (MODEL, TAG, STAGE)},
}
if PARTITIONS:
    EDGES[RELAY] = {"pending": {"hand_on", "mark"}, "hand_on": {"mark"}, "mark": set()}
    EDGES[VERSION] = {"check_version": set()}


@pytest.fixture
def schema():
    return f"dev.s{uuid.uuid4().hex[:8]}"


@pytest.fixture
def receiver(monkeypatch):
    with Receiver() as running:
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_WEBHOOK", running.connection_json())
        yield running


@pytest.fixture
def dags(load_dags, monkeypatch, connection, schema):
    """The Dags, on a schema of this test's own."""
    monkeypatch.setenv("MODEL_REGISTRY_CONN_ID", connection)
    monkeypatch.setenv("MODEL_REGISTRY_SCHEMA", schema)
    # Airflow takes the Dags of each test for new versions of those of the last one.
    monkeypatch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")
    found = {}
    for name in ("example_asset_watcher", "example_replace_webhooks"):
        bag = load_dags(DAGS / f"{name}.py")
        assert bag.import_errors == {}
        found |= bag.dags
    return found


@pytest.fixture
def run(dags, dag_runner, connection):
    """Run one of the Dags by hand."""

    def by_hand(dag_id, **conf):
        dag_runner.sync(dags[dag_id])
        return Result(dags[dag_id].test(run_conf=conf))

    return by_hand


def assets_of(dag):
    """The assets that start a Dag."""
    condition = dag.timetable.asset_condition
    return getattr(condition, "objects", [condition])


class Example(Listening):
    """One of the Dags, unpaused, whose runs the scheduler makes."""

    def __init__(self, runner, dag):
        from airflow.models.dag import DagModel
        from airflow.utils.session import create_session

        self.dag = dag
        runner.sync(dag)
        with create_session() as session:
            session.get(DagModel, dag.dag_id).is_paused = False
        runner.sync(dag)  # only now it gets a trigger

    def tell(self, *told):
        """Let the Dag's watcher send events."""
        from airflow.models.trigger import Trigger
        from airflow.triggers.base import TriggerEvent
        from airflow.utils.session import create_session

        [asset] = assets_of(self.dag)
        [watcher] = asset.watchers
        wanted = watcher.trigger.serialize()[1]
        with create_session() as session:
            [trigger] = [row for row in session.query(Trigger) if row.assets and row.kwargs == wanted]
            for event in told:
                Trigger.submit_event(trigger.id, TriggerEvent(event.to_json()), session=session)


def test_all_are_there_and_paused(dags):
    assert set(dags) == set(EDGES)
    assert all(dag.is_paused_upon_creation for dag in dags.values())


@pytest.mark.parametrize("dag_id", EDGES)
def test_shape(dags, dag_id):
    dag = dags[dag_id]
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == EDGES[dag_id]
    assert dag.doc_md
    assert dag.description


def test_no_two_watchers_are_alike(dags):
    """Airflow would make one of them."""
    triggers = {}
    for dag in dags.values():
        for asset in assets_of(dag):
            for watcher in asset.watchers:
                triggers.setdefault(str(watcher.trigger.serialize()), set()).add(asset.name)
    assert len(triggers) == 5  # two Dags have the schema's own asset
    assert all(len(assets) == 1 for assets in triggers.values())


# -- every version is checked once


def test_each_version_is_checked_once(run, mlflow_server, schema):
    client = make_versions(mlflow_server, f"{schema}.a", 3)
    make_versions(mlflow_server, f"{schema}.b", 2)
    first = run(WATCHER)
    assert first.state == "success"
    assert sorted(first.xcom("mark")) == [f"models:/{schema}.{v}" for v in ("a/1", "a/2", "a/3", "b/1", "b/2")]
    assert client.get_model_version(f"{schema}.b", "2").tags == {"smoke_test": "passed"}
    make_versions(mlflow_server, f"{schema}.c", 1)
    second = run(WATCHER)
    assert second.xcom("mark") == [f"models:/{schema}.c/1"]
    assert run(WATCHER).xcom("mark") == []


def test_what_cannot_be_used_stays_pending(run, mlflow_server, schema, monkeypatch, dags):
    client = make_versions(mlflow_server, f"{schema}.a", 2)
    check = dags[WATCHER].get_task("check")
    monkeypatch.setitem(check.partial_kwargs, "retries", 0)

    def delete_one(context):
        if context["ti"].map_index == 0:
            client.delete_model_version(f"{schema}.a", "1")

    monkeypatch.setitem(check.partial_kwargs, "on_execute_callback", [delete_one])
    result = run(WATCHER)
    assert result.state == "failed"
    assert (result.task_state("mark"), result.ti("check", 0).state, result.ti("check", 1).state) == (
        "failed",
        "failed",
        "success",
    )
    assert client.get_model_version(f"{schema}.a", "2").tags == {"smoke_test": "passed"}


def test_a_version_that_is_not_ready_does_not_pass(monkeypatch, databricks):
    """Pending versions are not listed, but one may be made anew between the list and the check."""
    monkeypatch.setenv("MODEL_REGISTRY_CONN_ID", databricks)
    smoke_test = runpy.run_path(str(DAGS / "example_asset_watcher.py"))["smoke_test"]
    registry = Subject(databricks, "dev.ml_team", EMULATED)
    name = registry.model()
    registry(lambda r: r.create_model_version(name, SOURCE))
    with pytest.raises(ValueError, match=rf"{name}/1 cannot be used: PENDING_REGISTRATION"):
        smoke_test(name, 1)


@pytest.mark.skipif(not PARTITIONS, reason="tasks add partitions from Airflow 3.3 on")
def test_the_relay_starts_a_run_per_version(run, dags, dag_runner, mlflow_server, schema):
    client = make_versions(mlflow_server, f"{schema}.a", 3)
    version = Example(dag_runner, dags[VERSION])
    assert run(RELAY).state == "success"
    results = [run_tasks(version.dag, run_id) for run_id in version.scheduled()]
    assert sorted(r.xcom("check_version") for r in results) == [f"models:/{schema}.a/{v}" for v in (1, 2, 3)]
    assert all(client.get_model_version(f"{schema}.a", v).tags for v in ("1", "2", "3"))
    nothing = run(RELAY)
    assert (nothing.state, nothing.task_state("hand_on"), nothing.xcom("mark")) == ("success", "skipped", [])
    assert version.scheduled() == []


# -- webhooks

HAND_MADE = [
    (
        MODEL,
        {"kind": events.REGISTERED_MODEL_CREATED},
        {"event": "REGISTERED_MODEL_CREATED"},
        "New registered model 'prod.ml_team.fraud' was created.",
    ),
    (
        TAG,
        {"kind": events.MODEL_VERSION_TAG_SET, "version": 3, "tag_key": "validation", "tag_value": "passed"},
        {
            "event": "MODEL_VERSION_TAG_SET",
            "version": "3",
            "tags": [{"key": "validation", "value": "passed"}],
        },
        "Tag 'validation' => 'passed' was set on registered model 'prod.ml_team.fraud' version 3.",
    ),
    (
        STAGE,
        {"version": 3, "alias": "Champion"},
        {
            "event": "MODEL_VERSION_TRANSITIONED_STAGE",
            "version": "3",
            "from_stage": "None",
            "to_stage": "Production",
        },
        "Registered model 'prod.ml_team.fraud' version 3 transitioned from None to Production.",
    ),
]


def tells_no_secret(logged):
    assert "send_changes" in logged
    assert not [secret for secret in (SECRET, AUTHORIZATION, PATH) if secret in logged]


@pytest.mark.parametrize(("dag_id", "conf", "body", "text"), HAND_MADE, ids=["model", "tag", "stage"])
def test_a_receiver_can_be_tried_by_hand(run, receiver, capfd, caplog, dag_id, conf, body, text):
    result = run(dag_id, model_name="prod.ml_team.fraud", **conf)
    assert (result.state, result.xcom("send_changes")) == ("success", 1)
    [(headers, sent)] = receiver.requests
    [got] = receiver.bodies
    assert got.pop("key")
    assert got.pop("event_timestamp") > 1.6e12
    assert got == {**body, "webhook_id": body["event"].lower(), "model_name": "prod.ml_team.fraud", "text": text}
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == AUTHORIZATION
    assert headers["X-Databricks-Signature"] == hmac.new(SECRET.encode(), sent, hashlib.sha256).hexdigest()
    tells_no_secret("".join([*capfd.readouterr(), caplog.text]))


def test_new_versions_are_sent_once_each(run, receiver, mlflow_server, schema):
    make_versions(mlflow_server, f"{schema}.a", 2)
    assert run(CREATED).state == "success"
    assert sorted((b["event"], b["model_name"], b["version"]) for b in receiver.bodies) == [
        ("MODEL_VERSION_CREATED", f"{schema}.a", "1"),
        ("MODEL_VERSION_CREATED", f"{schema}.a", "2"),
    ]
    run(CREATED)
    assert len(receiver.requests) == 2


@pytest.fixture
def started(dags, dag_runner, schema):
    """One of the Dags, and what lets its watcher tell of changes; each test takes another Dag, with another asset."""

    def start(dag_id, kind):
        dags[dag_id].get_task("send_changes").retries = 0
        example = Example(dag_runner, dags[dag_id])

        def tell(*numbers):
            what = {"alias": "Champion"} if kind == events.MODEL_VERSION_ALIAS_CREATED else {}
            names = [f"{schema}.m{number}" for number in numbers]
            example.tell(*(ModelEvent(kind, name, 1, **what, key=f"{kind} {name}") for name in names))

        return example, tell

    return start


def sent(receiver):
    """The numbers of the changes that the receiver was told of."""
    return [int(body["model_name"].rpartition(".m")[2]) for body in receiver.bodies]


@pytest.mark.skipif(not HAS_STATE_STORE, reason="assets have a state store from Airflow 3.3 on")
def test_a_burst_is_sent_by_one_run_in_order(started, receiver):
    example, tell = started(STAGE, events.MODEL_VERSION_ALIAS_CREATED)
    tell(1, 2, 3, 4, 5)
    assert example.run().xcom("send_changes") == 5
    assert sent(receiver) == [1, 2, 3, 4, 5]
    tell(5, 6)  # the first is a repeat, as after a triggerer was killed
    assert example.run().xcom("send_changes") == 1
    assert sent(receiver) == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not HAS_STATE_STORE, reason="assets have a state store from Airflow 3.3 on")
def test_what_was_refused_is_sent_by_the_next_run(started, receiver, capfd, caplog):
    example, tell = started(TAG, events.MODEL_VERSION_TAG_SET)
    tell(1, 2)
    receiver.refuse = 1
    assert example.run().state == "failed"
    tells_no_secret("".join([*capfd.readouterr(), caplog.text]))
    assert sent(receiver) == []
    tell(3)
    assert example.run().state == "success"
    assert sent(receiver) == [1, 2, 3]


def test_before_there_is_a_state_store_a_run_sends_what_it_was_given(started, receiver, monkeypatch):
    monkeypatch.setattr(
        "airflow.sdk.execution_time.task_runner.AssetStateStoreAccessors", lambda *_, **__: None, raising=False
    )
    example, tell = started(MODEL, events.REGISTERED_MODEL_CREATED)
    for number in (1, 2):
        tell(number)
        assert example.run().state == "success"
    assert sent(receiver) == [1, 2]


@pytest.mark.skipif(not HAS_STATE_STORE, reason="assets have a state store from Airflow 3.3 on")
def test_two_runs_in_a_row_send_everything_once(started, receiver):
    """Airflow 3.3.2 cannot list an asset's events while a run that one of them started is queued: the first fails."""
    example, tell = started(MODEL, events.REGISTERED_MODEL_CREATED)
    tell(11)
    first = example.scheduled()
    tell(12)
    for run_id in [*first, *example.scheduled()]:
        last = run_tasks(example.dag, run_id)
    assert last.state == "success"
    assert sent(receiver) == [11, 12]
