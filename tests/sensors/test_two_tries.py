"""Two tries of one sensor at once: what one of them has found never makes the other wait for something newer.

Airflow 3.3 can queue a deferred task again while its resumed try still runs. The second try then begins before the
first has ended, and looks after that. Here the first try runs to its end inside the second one's ``pre_execute``, which
is after Airflow has cleared the task's XComs and before the sensor looks.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from support.registry import make_versions
from support.sensing import MODES, Sense, add_version, set_status

from airflow_uc_models.compat import AirflowFailException
from airflow_uc_models.sensors import ModelVersionSensor, RegisteredModelAliasSensor, RegisteredModelSensor

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def name():
    """A model in a schema of this test's own."""
    return f"dev.s{uuid.uuid4().hex[:12]}.fraud"


class TwoTries(Sense):
    """Runs a Dag of one sensor whose other try ends first, in the same Dag run.

    :param start: at which start of the task that is; a rescheduled one starts again and again
    """

    def __init__(self, runner, connection, sensor, *, start=1, before=lambda: None, **options):
        defaults = {"registry_conn_id": connection, "poll_interval": 0.05, "timeout": 60, **options}
        super().__init__(runner, defaults, sensor)
        self.base, self.start, self.before, self.starts, self.other = sensor, start, before, 0, []

    def sensor(self, **options):
        show = options.pop("pre_execute", lambda context: None)

        def other_try(context):
            show(context)
            self.starts += 1
            if self.starts == self.start:
                self.before()
                try:
                    self.other.append(self.base(task_id="other", **self.defaults).execute(context))
                except AirflowFailException as error:
                    self.other.append(error)

        return super().sensor(pre_execute=other_try, **options)


def new_version(server, name):
    add_version(server.client(), name)
    return "version"


def moved_alias(server, name):
    server.client().set_registered_model_alias(name, "Champion", 1)
    return "version"


def new_model(server, name):
    server.client().create_registered_model(f"{name}_2")
    return "name"


CASES = {
    "version": (ModelVersionSensor, new_version, lambda name: {"model_name": name}),
    "alias": (
        RegisteredModelAliasSensor,
        moved_alias,
        lambda name: {"model_name": name, "alias": "Champion", "moved": True},
    ),
    "model": (RegisteredModelSensor, new_model, lambda name: {"schema": name.rpartition(".")[0]}),
}


def earlier_run(runner, connection, sensor=ModelVersionSensor, **options):
    return Sense(runner, {"registry_conn_id": connection, "timeout": 60}, sensor)(**options)


@pytest.mark.parametrize(
    ("case", "how", "later"),
    [
        *(("version", how, True) for how in MODES),
        ("version", "poke", False),
        ("alias", "poke", True),
        ("alias", "poke", False),
        ("model", "deferred", True),
        ("model", "poke", False),
    ],
)
def test_both_find_the_same(dag_runner, connection, mlflow_server, name, case, how, later):
    sensor, change, options = CASES[case]
    make_versions(mlflow_server, name, 2).set_registered_model_alias(name, "Champion", 2)
    if later:
        assert earlier_run(dag_runner, connection, sensor, **options(name)).state == "success"
        change(mlflow_server, name)
    tries = TwoTries(dag_runner, connection, sensor, **options(name))
    result = tries(**MODES[how])
    assert result.state == "success"
    assert tries.other == [result.xcom("sensor")]
    key = "name" if case == "model" else "version"
    expected = {"version": 3, "alias": 1, "model": f"{name}_2"} if later else {"version": 2, "alias": 2, "model": name}
    assert result.xcom("sensor")[key] == expected[case]
    assert "Another try of this task has found" in result.output


def test_the_other_ends_between_two_looks_of_a_rescheduled_one(dag_runner, connection, mlflow_server, name):
    make_versions(mlflow_server, name, 1)
    assert earlier_run(dag_runner, connection, model_name=name).xcom("sensor")["version"] == 1

    def before():
        new_version(mlflow_server, name)
        new_version(mlflow_server, name)

    tries = TwoTries(dag_runner, connection, ModelVersionSensor, start=2, before=before, model_name=name)
    result = tries(mode="reschedule")
    assert (result.xcom("sensor")["version"], tries.other[0]["version"], tries.starts) == (2, 2, 2)


def test_both_fail_on_the_same_version(dag_runner, connection, mlflow_server, name, main_mode):
    make_versions(mlflow_server, name, 1)
    assert earlier_run(dag_runner, connection, model_name=name).xcom("sensor")["version"] == 1
    new_version(mlflow_server, name)
    set_status(mlflow_server, name, 2, "FAILED_REGISTRATION")
    tries = TwoTries(dag_runner, connection, ModelVersionSensor, model_name=name)
    assert tries(**main_mode).state == "failed"
    assert "Version 2" in str(tries.other[0])
    assert "Version 2" in str(tries.errors[-1])


def test_what_the_other_found_is_deleted(dag_runner, connection, mlflow_server, name):
    """It has ended the wait of this Dag run, so there is nothing to wait for."""
    client = make_versions(mlflow_server, name, 1)

    class Deleted(ModelVersionSensor):
        def remember(self, context, found):
            super().remember(context, found)
            client.delete_model_version(name, str(found["version"]))

    tries = TwoTries(dag_runner, connection, ModelVersionSensor, model_name=name)
    tries.base = Deleted
    assert tries().state == "failed"
    assert f"version 1 of {name}, which another try of this task found" in str(tries.errors[-1])


@pytest.mark.parametrize("dated", [True, False])
def test_with_and_without_a_logical_date(dag_runner, connection, mlflow_server, name, dated):
    client = make_versions(mlflow_server, name, 3)
    tries = TwoTries(dag_runner, connection, ModelVersionSensor, model_name=name)
    for minute, expected in enumerate([3, 4]):
        tries.other.clear()
        tries.starts = 0
        moment = NOW + timedelta(minutes=minute)
        result = tries.at(moment if dated else None, run_after=moment)
        assert [result.xcom("sensor")["version"], tries.other[0]["version"]] == [expected, expected]
        add_version(client, name)
        add_version(client, name)


def test_another_run_at_the_same_time_does_not_hide_it(dag_runner, connection, mlflow_server, name):
    """Airflow gives the newest XCom of runs without a logical date, which may be another run's."""
    make_versions(mlflow_server, name, 2)
    alone = Sense(dag_runner, {"registry_conn_id": connection, "model_name": name, "timeout": 60})
    assert alone.at(None, run_after=NOW, after_version=0).xcom("sensor")["version"] == 1

    tries = TwoTries(dag_runner, connection, ModelVersionSensor, model_name=name)
    tries.undated = alone.undated

    class AtOnce(ModelVersionSensor):
        def remember(self, context, found):
            super().remember(context, found)
            rewrite_mark(dag_runner.dag_id, alone.undated[0], {"name": name, "version": 2})

    tries.base = AtOnce
    result = tries.at(None, run_after=NOW + timedelta(minutes=1))
    assert [result.xcom("sensor")["version"], tries.other[0]["version"]] == [2, 2]


def rewrite_mark(dag_id, run_id, value):
    """Let a run that still goes on keep a version as handled, now."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        kept = session.query(XComModel).filter_by(dag_id=dag_id, run_id=run_id)
        mark = kept.filter(XComModel.key.startswith("handled_version")).one()
        mark.value, mark.timestamp = value, datetime.now(UTC)


def test_mapped(dag_runner, connection, mlflow_server, name):
    """Each mapped task has a memory of its own."""
    names = [f"{name}a", f"{name}b"]
    for number, model in enumerate(names, 1):
        make_versions(mlflow_server, model, number)
    options, others = {"registry_conn_id": connection, "poll_interval": 0.05, "timeout": 60}, {}

    def other_try(context):
        sensor = ModelVersionSensor(task_id="other", **options, model_name=names[context["ti"].map_index])
        others[context["ti"].map_index] = sensor.execute(context)["version"]

    def define():
        ModelVersionSensor.partial(task_id="sensor", pre_execute=other_try, **options).expand(model_name=names)

    for expected in ([1, 2], [2, 3]):
        result = dag_runner.run(define)
        assert [result.xcom("sensor", map_index=i)["version"] for i in (0, 1)] == expected
        assert [others[i] for i in (0, 1)] == expected
        for model in names:
            new_version(mlflow_server, model)
