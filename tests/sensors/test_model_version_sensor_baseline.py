"""What ModelVersionSensor handled in earlier Dag runs, and where it goes on from there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk.definitions.context import Context
from support.registry import make_versions
from support.sensing import add_version, after_look, earlier_run_handled

from airflow_uc_models.sensors import ModelVersionSensor


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
