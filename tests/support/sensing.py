"""Running sensors: one Dag of one sensor, and the world that changes while it waits."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, ClassVar

from airflow.sdk import DAG

from airflow_uc_models.sensors import ModelVersionSensor
from support.dag_runs import Result
from support.faulty import Faulty

MODES = {"poke": {"deferrable": False}, "reschedule": {"mode": "reschedule"}, "deferred": {"deferrable": True}}
SEARCH, MODEL = "model-versions/search", "registered-models/get"
VERSION, MODELS = "model-versions/get", ("registered-models/search", "unity-catalog/models")
RETRIES = {"retries": 2, "retry_delay": timedelta(0)}


class _Recording:
    """Keeps what a sensor raised: Airflow 3.1 does not give that to callbacks."""

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


@cache
def recording(sensor):
    """The sensor as one that keeps what it raised."""
    return type(f"Recording{sensor.__name__}", (_Recording, sensor), {"__module__": __name__})


class Sense:
    """Runs a Dag of one sensor, as often as asked."""

    def __init__(self, runner, defaults, sensor=ModelVersionSensor):
        self.runner = runner
        self.defaults = defaults
        self.sensor_class = recording(sensor)
        self.undated = []
        self.errors = _Recording.errors
        self.errors.clear()

    def __call__(self, *, dag=None, **options):
        return self.runner.run(lambda: self.sensor(**options), **(dag or {}))

    def sensor(self, **options):
        return self.sensor_class(task_id="sensor", **{**self.defaults, **options})

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


@dataclass
class Site:
    """A registry behind a proxy, reached by sensors through the proxy and by the test past it.

    :param conn_id: a connection that goes through the proxy and leaves retries to the sensor
    :param set_status: gives a version a status and a message that a test could not bring about otherwise
    """

    faulty: Faulty
    conn_id: str
    set_status: Callable[..., None]

    @property
    def proxy(self):
        return self.faulty.proxy

    def do(self, verb, *args, **options) -> Any:
        """Call a verb of the registry."""
        return self.faulty.direct(getattr(self.faulty.registry, verb)(*args, **options))

    def add_version(self, name):
        return self.faulty.direct(self.faulty.ready(name))

    def make(self, name, versions=0):
        """Register a model with so many READY versions."""
        self.do("create_registered_model", name)
        for _ in range(versions):
            self.add_version(name)

    def set_tag(self, name, version, key, value):
        self.do("set_model_version_tag", name, version, key, value)

    def set_alias(self, name, alias, version):
        self.do("set_registered_model_alias", name, alias, version)

    def looks(self, path):
        """How often sensors asked for this path, from the last time on that somebody wanted to know."""
        return len([r for r in self.proxy.take() if r.path.endswith(path)])


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
