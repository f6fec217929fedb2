"""ModelVersionSensor on a real MLflow server, through Airflow's task runner.

Each test that takes ``mode`` runs with the worker poking, rescheduled, and deferred to the trigger: they must agree.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.context import Context
from support.dag_runs import Result
from support.registry import make_versions

from airflow_uc_models.compat import AirflowFailException, AirflowSensorTimeout
from airflow_uc_models.sensors import ModelVersionSensor

MODES = {"poke": {"deferrable": False}, "reschedule": {"mode": "reschedule"}, "deferred": {"deferrable": True}}
SEARCH, MODEL = "model-versions/search", "registered-models/get"


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


@pytest.fixture(params=["poke", "deferred"])
def main_mode(request):
    """For what has nothing to do with how the task is started again and again."""
    return MODES[request.param]


@pytest.fixture
def through_proxy(monkeypatch, proxy):
    """The id of a connection that goes through the proxy and leaves retries to the sensor."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_PROXY", proxy.connection_json(max_retry_seconds=0))
    return "mlflow_proxy"


class RecordingSensor(ModelVersionSensor):
    """Keeps what it raised: Airflow 3.1 does not give that to callbacks."""

    errors: ClassVar[list[Exception]] = []

    def execute(self, context):
        with self._recorded():
            return super().execute(context)

    def resume_execution(self, *args, **kwargs):
        with self._recorded():
            return super().resume_execution(*args, **kwargs)

    @contextmanager
    def _recorded(self):
        try:
            yield
        except Exception as error:
            if type(error).__name__ != "AirflowRescheduleException":
                self.errors.append(error)
            raise


class Sense:
    """Runs a Dag of one sensor, as often as asked."""

    def __init__(self, runner, defaults):
        self.runner = runner
        self.defaults = defaults
        self.undated = []
        self.errors = RecordingSensor.errors
        self.errors.clear()

    def __call__(self, *, dag=None, **options):
        return self.runner.run(lambda: self.sensor(**options), **(dag or {}))

    def sensor(self, **options):
        return RecordingSensor(task_id="sensor", **{**self.defaults, **options})

    def at(self, logical_date, run_after=None, **options):
        """Run it for a logical date, which may be None; the same date again clears the run."""
        with DAG(self.runner.dag_id, schedule=None) as dag:
            self.sensor(pre_execute=lambda context: self._show_undated(True), **options)
        self.runner.sync(dag)
        self._show_undated(False)
        result = Result(dag.test(logical_date=logical_date, run_after=run_after))
        if logical_date is None:
            self.undated.append(result.dag_run.run_id)
        return result

    def _show_undated(self, show):
        """Hide runs without a logical date from dag.test(), which would delete them before it makes another."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session

        with create_session() as session:
            for number, run_id in enumerate(self.undated):
                run = session.query(DagRun).filter_by(dag_id=self.runner.dag_id, run_id=run_id).one()
                run.logical_date = None if show else datetime(2000, 1, 1 + number, tzinfo=UTC)


@pytest.fixture
def sense(dag_runner, connection, model_name):
    defaults = {"model_name": model_name, "registry_conn_id": connection, "poll_interval": 0.05, "timeout": 60}
    return Sense(dag_runner, defaults)


@contextmanager
def after_look(proxy, action, path=SEARCH, looks=1):
    """Do something when the sensor has looked ``looks`` times without seeing it, before it looks again."""
    seen, errors, go_on = [], [], threading.Event()

    def is_last_look(request):
        if not request.path.endswith(path):
            return False
        seen.append(request)
        return len(seen) == looks

    fault = proxy.fail(path, after=True, hold=go_on)
    fault.match = is_last_look

    def act():
        try:
            assert fault.seen.wait(60), "the sensor did not look"
            action()
        except BaseException as error:
            errors.append(error)
        finally:
            go_on.set()

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    assert not errors, errors


def add_version(client, name, **options):
    run_id = client.create_run(client.create_experiment(f"{name}-{time.time_ns()}")).info.run_id
    return client.create_model_version(name, f"runs:/{run_id}/model", run_id=run_id, **options)


def set_status(server, name, version, status, message=None, age=timedelta(0)):
    """Give a version a status that an MLflow server never shows of its own."""
    created = int((time.time() - age.total_seconds()) * 1000)
    with closing(sqlite3.connect(server.folder / "mlflow.db", timeout=30)) as database, database:
        changed = database.execute(
            "UPDATE model_versions SET status = ?, status_message = ?, creation_time = ? "
            "WHERE name = ? AND version = ?",
            (status, message, created, name, version),
        )
        assert changed.rowcount == 1


def earlier_run_handled(sense, name, version):
    """Let another run of the Dag, before the current one, have handled this version."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        kept = session.query(XComModel).filter(
            XComModel.dag_id == sense.runner.dag_id, XComModel.key.startswith("handled_version")
        )
        kept.order_by(XComModel.timestamp).first().value = {"name": name, "version": version}


def stored_trigger():
    """What Airflow stored for the trigger of the last deferral."""
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session

    with create_session() as session:
        trigger = session.query(Trigger).order_by(Trigger.id.desc()).first()
        return trigger.classpath, trigger.kwargs


# -- what it finds


@pytest.mark.parametrize("looks", [1, 3])
def test_a_version_that_appears_while_it_waits(sense, through_proxy, proxy, mlflow_server, model_name, mode, looks):
    client = make_versions(mlflow_server, model_name, 0)
    action = lambda: add_version(client, model_name, tags={"team": "risk"}, description="new")  # noqa: E731
    with after_look(proxy, action, looks=looks):
        result = sense(registry_conn_id=through_proxy, **mode)
    assert result.state == "success"
    found = result.xcom("sensor")
    assert (found["name"], found["version"], found["status"]) == (model_name, 1, "READY")
    assert (found["tags"], found["description"], found["aliases"]) == ({"team": "risk"}, "new", [])
    assert found["uri"] == f"models:/{model_name}/1"
    assert result.xcom("sensor", "model_version_url") == f"{proxy.url}/#/models/{model_name}/versions/1"


def test_xcom_is_the_whole_version_in_every_mode(sense, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 1)
    client.set_registered_model_alias(model_name, "Champion", "1")
    found = [sense.at(datetime(2026, 1, 1, tzinfo=UTC), **options).xcom("sensor") for options in MODES.values()]
    assert found[0]["aliases"] == ["Champion"]
    assert found[0] == found[1] == found[2]


def test_deferred_and_met_later_gives_the_same_xcom(sense, through_proxy, proxy, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 0)
    with after_look(proxy, lambda: add_version(client, model_name)):
        deferred = sense(registry_conn_id=through_proxy, deferrable=True)
    poked = sense(after_version=0)
    assert deferred.xcom("sensor") == poked.xcom("sensor") is not None


@pytest.mark.parametrize(("after", "expected"), [(0, 1), ("0", 1), (1, 2), ("{{ params.after }}", 3)])
def test_after_version_takes_the_oldest_newer_one(sense, mlflow_server, model_name, after, expected):
    make_versions(mlflow_server, model_name, 3)
    result = sense(after_version=after, dag={"params": {"after": 2}})
    assert result.xcom("sensor")["version"] == expected


def test_after_version_waits_for_a_newer_one(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 2)
    with after_look(proxy, lambda: add_version(client, model_name), looks=2):
        result = sense(after_version=2, registry_conn_id=through_proxy, **main_mode)
    assert result.xcom("sensor")["version"] == 3
    # A wait on a model with a long history does not read it again and again.
    first = next(r for r in proxy.requests if r.path.endswith(SEARCH))
    assert ("filter", f"name='{model_name}' and version_number > 2") in first.query


def test_tags_filter(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 2)
    client.set_model_version_tag(model_name, "1", "stage", "raw")
    with after_look(proxy, lambda: client.set_model_version_tag(model_name, "1", "stage", "done"), looks=2):
        result = sense(tags={"stage": "{{ 'done' }}"}, registry_conn_id=through_proxy, **main_mode)
    assert result.xcom("sensor")["version"] == 1
    assert result.xcom("sensor")["tags"] == {"stage": "done"}


def test_alias_filter(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 3)
    client.set_registered_model_alias(model_name, "Candidate", "1")
    action = lambda: client.set_registered_model_alias(model_name, "Candidate", "2")  # noqa: E731
    with after_look(proxy, action, path=MODEL, looks=2):
        result = sense(alias="Candidate", after_version=1, registry_conn_id=through_proxy, **main_mode)
    assert result.xcom("sensor")["version"] == 2
    assert result.xcom("sensor")["aliases"] == ["Candidate"]


def test_alias_and_tags_must_both_hold(sense, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    client.set_model_version_tag(model_name, "1", "ok", "1")
    client.set_registered_model_alias(model_name, "Candidate", "2")
    result = sense(alias="Candidate", tags={"ok": 1}, timeout=0)
    assert result.state == "failed"
    client.set_model_version_tag(model_name, "2", "ok", "1")
    assert sense(alias="Candidate", tags={"ok": 1}).xcom("sensor")["version"] == 2


# -- what was handled before


def test_each_run_goes_on_from_the_last(sense, through_proxy, proxy, mlflow_server, model_name, mode):
    client = make_versions(mlflow_server, model_name, 2)
    assert sense(**mode).xcom("sensor")["version"] == 2  # the first run takes the present state, not the history
    add_version(client, model_name)
    add_version(client, model_name)
    assert sense(**mode).xcom("sensor")["version"] == 3
    assert sense(**mode).xcom("sensor")["version"] == 4
    assert sense(timeout=0, soft_fail=True, **mode).task_state("sensor") == "skipped"
    add_version(client, model_name)
    assert sense(**mode).xcom("sensor")["version"] == 5


def test_runs_with_and_without_a_logical_date_share_what_was_handled(sense, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 9)
    day = datetime(2026, 3, 1, tzinfo=UTC)
    assert sense.at(day, after_version=0).xcom("sensor")["version"] == 1
    for hours, dated, expected in [
        (1, False, 2),
        (2, True, 3),
        (3, True, 4),
        (4, False, 5),
        (5, False, 6),
        (6, True, 7),
    ]:
        moment = day + timedelta(hours=hours)
        result = sense.at(moment if dated else None, run_after=moment)
        assert result.xcom("sensor")["version"] == expected


def test_a_run_made_anew_gives_its_version_again(sense, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 4)
    days = [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3)]
    found = [sense.at(day, after_version="1" if day == days[0] else None, **main_mode) for day in days]
    assert [result.xcom("sensor")["version"] for result in found] == [2, 3, 4]
    assert sense.at(days[1], **main_mode).xcom("sensor")["version"] == 3


@pytest.mark.parametrize(("meanwhile", "expected"), [(None, [3, 3]), (3, [3, 4])])
def test_a_retry_starts_anew(sense, mlflow_server, model_name, mode, meanwhile, expected):
    make_versions(mlflow_server, model_name, 4)
    assert sense(after_version=1).xcom("sensor")["version"] == 2
    tries = []

    def break_once(context, result=None):
        tries.append(result["version"])
        if len(tries) == 1:
            if meanwhile:
                earlier_run_handled(sense, model_name, meanwhile)
            raise RuntimeError("the worker dies when it has the version")

    result = sense(retries=1, retry_delay=timedelta(0), post_execute=break_once, **mode)
    assert result.state == "success"
    assert tries == expected
    assert result.ti("sensor").try_number == 2


def test_another_model_is_no_baseline(sense, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 3)
    make_versions(mlflow_server, f"{model_name}b", 1)
    assert sense().xcom("sensor")["version"] == 3
    assert sense(model_name=f"{model_name}b").xcom("sensor")["version"] == 1


def test_without_do_xcom_push_the_next_run_still_goes_on(sense, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 1)
    assert sense(do_xcom_push=False).state == "success"
    add_version(client, model_name)
    add_version(client, model_name)
    assert sense(do_xcom_push=False).state == "success"
    assert sense().xcom("sensor")["version"] == 3


def test_mapped_over_models(dag_runner, connection, mlflow_server, model_name):
    names = [f"{model_name}{letter}" for letter in "ab"]
    clients = [make_versions(mlflow_server, name, count) for name, count in zip(names, (1, 2), strict=True)]

    def define():
        ModelVersionSensor.partial(
            task_id="sensor", registry_conn_id=connection, timeout=60, poll_interval=0.05
        ).expand(model_name=names)

    first = dag_runner.run(define)
    assert [first.xcom("sensor", map_index=i)["version"] for i in (0, 1)] == [1, 2]
    for client, name in zip(clients, names, strict=True):
        add_version(client, name)
        add_version(client, name)
    second = dag_runner.run(define)
    assert [second.xcom("sensor", map_index=i)["version"] for i in (0, 1)] == [2, 3]


def test_another_run_that_ends_meanwhile_does_not_move_the_start(
    sense, through_proxy, proxy, mlflow_server, model_name, mode
):
    client = make_versions(mlflow_server, model_name, 1)
    assert sense(registry_conn_id=through_proxy).xcom("sensor")["version"] == 1

    def another_run_takes_version_2():
        earlier_run_handled(sense, model_name, 2)
        add_version(client, model_name)
        add_version(client, model_name)

    with after_look(proxy, another_run_takes_version_2, looks=2):
        result = sense(registry_conn_id=through_proxy, **mode)
    # Airflow before 3.3 has nothing that survives a reschedule: there the sensor starts anew, after version 2.
    moves = "mode" in mode and "task_state_store" not in Context.__annotations__
    assert result.xcom("sensor")["version"] == (3 if moves else 2)


# -- what waiting cannot mend


def test_a_missing_model_fails_at_once(sense, through_proxy, proxy, model_name, mode):
    result = sense(registry_conn_id=through_proxy, retries=3, retry_delay=timedelta(0), **mode)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert [r.path.rsplit("/", 2)[-2:] for r in proxy.requests] == [["registered-models", "get"]]
    (error,) = sense.errors
    assert isinstance(error, AirflowFailException)
    assert model_name in str(error)
    assert "missing_ok=True" in str(error)


@pytest.mark.parametrize("looks", [1, 2])
def test_missing_ok_waits_for_the_model(sense, through_proxy, proxy, mlflow_server, model_name, mode, looks):
    with after_look(proxy, lambda: make_versions(mlflow_server, model_name, 1), path=MODEL, looks=looks):
        result = sense(registry_conn_id=through_proxy, missing_ok=True, **mode)
    assert result.xcom("sensor")["version"] == 1


def test_a_model_deleted_while_it_waits_fails(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 0)
    with after_look(proxy, lambda: client.delete_registered_model(model_name), looks=2):
        result = sense(registry_conn_id=through_proxy, **main_mode)
    assert result.task_state("sensor") == "failed"
    assert "no registered model" in str(sense.errors[0])


def test_a_failed_registration_fails_at_once_and_only_once(sense, mlflow_server, model_name, mode):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "FAILED_REGISTRATION", "the upload broke off")
    assert sense(after_version=0, **mode).xcom("sensor")["version"] == 1  # an older READY one comes first
    failed = sense(retries=2, retry_delay=timedelta(0), **mode)
    assert failed.task_state("sensor") == "failed"
    assert failed.ti("sensor").try_number == 1
    assert f"Version 2 of {model_name} ended in FAILED_REGISTRATION: the upload broke off." in str(sense.errors[0])
    assert failed.xcom("sensor", "model_version_url").endswith(f"{model_name}/versions/2")
    assert sense(**mode).xcom("sensor")["version"] == 3


def test_a_registration_that_fails_while_it_waits(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 1)
    set_status(mlflow_server, model_name, 1, "PENDING_REGISTRATION")
    action = lambda: set_status(mlflow_server, model_name, 1, "FAILED_REGISTRATION", "no signature")  # noqa: E731
    with after_look(proxy, action, looks=2):
        result = sense(registry_conn_id=through_proxy, **main_mode)
    assert result.task_state("sensor") == "failed"
    assert "no signature" in str(sense.errors[0])


def test_a_pending_version_keeps_newer_ones_waiting(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "PENDING_REGISTRATION", age=timedelta(minutes=55))
    with after_look(proxy, lambda: set_status(mlflow_server, model_name, 2, "READY"), looks=2):
        result = sense(registry_conn_id=through_proxy, after_version=1, **main_mode)
    assert result.xcom("sensor")["version"] == 2


def test_an_abandoned_pending_version_is_passed_over(sense, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "PENDING_REGISTRATION", age=timedelta(minutes=65))
    assert sense(after_version=1, **main_mode).xcom("sensor")["version"] == 3


@pytest.mark.parametrize(("status", "code", "looks"), [(401, "UNAUTHENTICATED", 2), (403, "PERMISSION_DENIED", 1)])
def test_refused_access_fails_at_once(
    sense, through_proxy, proxy, mlflow_server, model_name, main_mode, status, code, looks
):
    make_versions(mlflow_server, model_name, 0)
    seen = []
    fault = proxy.fail(MODEL, times=None, status=status, body=json.dumps({"error_code": code, "message": "go away"}))
    fault.match = lambda r: r.path.endswith(MODEL) and (seen.append(r) or len(seen) >= looks)
    result = sense(registry_conn_id=through_proxy, retries=2, retry_delay=timedelta(0), **main_mode)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert len(seen) == looks
    assert isinstance(sense.errors[0], AirflowFailException)
    assert "go away" in str(sense.errors[0])


@pytest.mark.parametrize(
    "options",
    [
        {"model_name": "two.levels"},
        {"alias": "latest"},
        {"alias": "v3"},
        {"after_version": -1},
        {"after_version": "newest"},
        {"tags": {"stage": None}},
    ],
    ids=str,
)
def test_bad_parameters_fail_before_any_call(sense, through_proxy, proxy, options):
    result = sense(registry_conn_id=through_proxy, retries=2, retry_delay=timedelta(0), **options)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert proxy.requests == []


def test_empty_templates_count_as_not_given(sense, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)
    result = sense(after_version="{{ none }}", alias="{{ '' }}", tags={})
    assert result.xcom("sensor")["version"] == 2


# -- timeouts and faults


def test_a_timeout_fails_without_retry(sense, mlflow_server, model_name, mode):
    make_versions(mlflow_server, model_name, 1)
    result = sense(after_version=1, timeout=0.3, retries=2, retry_delay=timedelta(0), **mode)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert [type(e) for e in sense.errors] == [AirflowSensorTimeout]


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("soft_fail", "timeout"),
        ("never_fail", "timeout"),
        ("soft_fail", "missing model"),
        ("never_fail", "bad name"),
        ("soft_fail", "403 while waiting"),
    ],
)
def test_soft_fail_and_never_fail_skip(sense, through_proxy, proxy, mlflow_server, model_name, mode, option, cause):
    options = {"registry_conn_id": through_proxy}
    if cause == "bad name":
        options |= {"model_name": "bad"}
    elif cause != "missing model":
        make_versions(mlflow_server, model_name, 0)
    if cause == "timeout":
        options |= {"timeout": 0.2}
    if cause == "403 while waiting":
        fault = proxy.fail(SEARCH, status=403, body='{"error_code": "PERMISSION_DENIED", "message": "go away"}')
        seen = []
        fault.match = lambda r: r.path.endswith(SEARCH) and (seen.append(r) or len(seen) == 2)
    result = sense(**options, **{option: True}, **mode)
    assert result.task_state("sensor") == "skipped"


@pytest.mark.parametrize(("fault", "times"), [({"status": 503}, 2), ({"reset": True}, 1)], ids=str)
def test_a_registry_that_is_down_is_ridden_out(
    sense, through_proxy, proxy, mlflow_server, model_name, mode, fault, times
):
    make_versions(mlflow_server, model_name, 1)
    played = proxy.fail(MODEL, times=times, **fault)
    result = sense(registry_conn_id=through_proxy, **mode)
    assert result.xcom("sensor")["version"] == 1
    assert played.times == 0


def test_a_registry_that_stays_down_ends_in_a_timeout(sense, through_proxy, proxy, mode):
    proxy.fail(MODEL, times=None, status=503)
    result = sense(registry_conn_id=through_proxy, timeout=0.3, retries=2, retry_delay=timedelta(0), **mode)
    assert result.task_state("sensor") == "failed"
    assert [type(e) for e in sense.errors] == [AirflowSensorTimeout]


# -- what a deferred wait takes along


def test_the_trigger_gets_every_option_and_no_secret(sense, monkeypatch, proxy, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)
    value = json.loads(proxy.connection_json()) | {"login": "ann", "password": "hunter2-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_PROXY", json.dumps(value))
    before = time.time()
    sense(
        registry_conn_id="mlflow_proxy",
        deferrable=True,
        after_version=2,
        tags={"stage": "done"},
        alias="Candidate",
        missing_ok=True,
        timeout=0.5,
        exponential_backoff=True,
        max_wait=0.2,
    )
    assert all(r.headers["authorization"].startswith("Basic ") for r in proxy.requests)
    classpath, kwargs = stored_trigger()
    assert classpath == "airflow_uc_models.triggers.condition.ConditionTrigger"
    deadline = kwargs.pop("deadline")
    assert before + 0.5 < deadline < before + 30
    assert kwargs == {
        "condition": {
            "kind": "new_model_version",
            "model_name": model_name,
            "after_version": 2,
            "tags": {"stage": "done"},
            "alias": "Candidate",
            "missing_ok": True,
        },
        "registry_conn_id": "mlflow_proxy",
        "poll_interval": 0.05,
        "max_poll_interval": 0.2,
    }
    assert "secret" not in json.dumps(kwargs)


def test_the_link_leads_to_the_model_while_it_waits(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 0)
    result = sense(registry_conn_id=through_proxy, timeout=0.2, **main_mode)
    assert result.xcom("sensor", "model_version_url") == f"{proxy.url}/#/models/{model_name}"


# -- parameters


def test_poll_interval_is_poke_interval():
    common = {"task_id": "sensor", "model_name": "a.b.c"}
    assert ModelVersionSensor(**common).poll_interval == 60
    assert ModelVersionSensor(poll_interval=5, **common).poke_interval == 5
    assert ModelVersionSensor(poll_interval=timedelta(minutes=2), **common).poll_interval == 120
    assert ModelVersionSensor(poke_interval=7, **common).poll_interval == 7
    assert ModelVersionSensor(default_args={"poke_interval": 8}, **common).poll_interval == 8
    assert ModelVersionSensor(default_args={"poll_interval": 9}, **common).poll_interval == 9
    assert ModelVersionSensor(poll_interval=5, default_args={"poke_interval": 8}, **common).poll_interval == 5
    with pytest.raises(ValueError, match="poke_interval"):
        ModelVersionSensor(poll_interval=-1, **common)


@pytest.mark.parametrize("value", [True, False])
def test_deferrable_defaults_to_the_configuration(monkeypatch, value):
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", str(value))
    common = {"task_id": "sensor", "model_name": "a.b.c"}
    assert ModelVersionSensor(**common).deferrable is value
    assert ModelVersionSensor(deferrable=not value, **common).deferrable is not value
