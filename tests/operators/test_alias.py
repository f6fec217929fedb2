"""Alias operators on a real MLflow server, through Airflow's task runner."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.registry import aliases, make_versions

from airflow_uc_models.operators import (
    DeleteRegisteredModelAliasOperator,
    RollbackRegisteredModelAliasOperator,
    SetRegisteredModelAliasOperator,
)

HISTORY = "airflow_alias_history_Champion"


@pytest.fixture
def champion(model_name, connection):
    """Arguments that all operators of a test share."""
    return {"model_name": model_name, "alias": "Champion", "registry_conn_id": connection}


def test_set_then_roll_back_by_steps_and_by_version(dag_runner, champion, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 4)

    def define():
        previous = None
        for version in (1, "2", 3, 4):
            task = SetRegisteredModelAliasOperator(task_id=f"set_{version}", version=version, **champion)
            previous = previous >> task if previous else task
        one = RollbackRegisteredModelAliasOperator(task_id="one_back", **champion)
        two = RollbackRegisteredModelAliasOperator(task_id="to_1", to_version="{{ 0 + 1 }}", **champion)
        previous >> one >> two

    result = dag_runner.run(define)
    assert result.state == "success"
    assert result.xcom("set_2") == {"name": model_name, "alias": "Champion", "version": 2, "previous": 1}
    assert result.xcom("one_back") == {"name": model_name, "alias": "Champion", "version": 3, "previous": 4}
    assert result.xcom("to_1")["version"] == 1
    assert aliases(client, model_name) == {"Champion": 1}
    assert client.get_registered_model(model_name).tags[HISTORY] == "1"


def test_rollback_counts_moves_by_hand_and_skips_deleted_versions(dag_runner, champion, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 4)
    for version in (1, 2):
        client.set_registered_model_alias(model_name, "Champion", str(version))  # unseen by any history

    def define():
        third = SetRegisteredModelAliasOperator(task_id="third", version=3, **champion)
        back = RollbackRegisteredModelAliasOperator(task_id="back", steps=1, **champion)
        third >> back

    result = dag_runner.run(define)
    assert result.xcom("third")["previous"] == 2
    assert aliases(client, model_name) == {"Champion": 2}


def test_rollback_after_the_champion_version_was_deleted(dag_runner, champion, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 3)
    client.set_registered_model_tag(model_name, HISTORY, "1 2 3")
    client.set_registered_model_alias(model_name, "Champion", "3")
    client.delete_model_version(model_name, "3")  # newer servers delete the alias with it, older ones leave it
    result = dag_runner.run(lambda: RollbackRegisteredModelAliasOperator(task_id="back", **champion))
    assert result.xcom("back") == {"name": model_name, "alias": "Champion", "version": 2, "previous": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "5 step"),
        ({"to_version": 3}, "never pointed to version 3"),
        ({"steps": 1, "to_version": 1}, "not both"),
        ({"steps": 0}, "whole number from 1"),
    ],
)
def test_rollback_refuses_what_the_history_does_not_hold(
    dag_runner, champion, mlflow_server, model_name, options, message, caplog
):
    client = make_versions(mlflow_server, model_name, 3)
    client.set_registered_model_tag(model_name, HISTORY, "1")
    client.set_registered_model_alias(model_name, "Champion", "2")
    result = dag_runner.run(lambda: RollbackRegisteredModelAliasOperator(task_id="back", **champion, **options))
    assert result.task_state("back") == "failed"
    assert message in result.output
    assert aliases(client, model_name) == {"Champion": 2}


def test_expected_version_guards_the_move(dag_runner, champion, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 3)
    client.set_registered_model_alias(model_name, "Champion", "2")

    def define():
        SetRegisteredModelAliasOperator(task_id="wrong", version=3, expected_version=1, **champion)
        SetRegisteredModelAliasOperator(task_id="new_only", version=3, expected_version="0", **champion)

    result = dag_runner.run(define, default_args={"retries": 3, "retry_delay": timedelta(0)})
    assert [result.task_state(t) for t in ("wrong", "new_only")] == ["failed", "failed"]
    assert result.ti("wrong").try_number == 1, "a conflict is no matter for retries"
    assert "points to version 2, not to version 1" in result.output
    assert aliases(client, model_name) == {"Champion": 2}


@pytest.mark.parametrize("alias", ["latest", "v3", "V12", "a b", "", "x" * 256])
def test_reserved_and_illegal_aliases_are_refused_before_any_call(dag_runner, champion, proxy, monkeypatch, alias):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_TEST", proxy.connection_json())
    options = {**champion, "alias": alias}
    result = dag_runner.run(lambda: SetRegisteredModelAliasOperator(task_id="set", version=1, **options))
    assert result.task_state("set") == "failed"
    assert "Alias" in result.output
    assert proxy.take() == []


def test_missing_version_is_an_error_and_leaves_the_alias(dag_runner, champion, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 1)
    client.set_registered_model_alias(model_name, "Champion", "1")
    result = dag_runner.run(lambda: SetRegisteredModelAliasOperator(task_id="set", version=9, **champion))
    assert result.task_state("set") == "failed"
    assert f"get model version {model_name}/9" in result.output
    assert aliases(client, model_name) == {"Champion": 1}


def test_delete(dag_runner, champion, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 1)
    client.set_registered_model_alias(model_name, "Champion", "1")

    def define():
        there = DeleteRegisteredModelAliasOperator(task_id="there", **champion)
        gone = DeleteRegisteredModelAliasOperator(task_id="gone", missing_ok=True, **champion)
        error = DeleteRegisteredModelAliasOperator(task_id="error", **champion)
        there >> gone >> error

    result = dag_runner.run(define)
    assert result.xcom("there")["deleted"] is True
    assert result.xcom("gone")["deleted"] is False
    assert result.task_state("error") == "failed"
    assert client.get_registered_model(model_name).tags[HISTORY] == "1"


def test_link_leads_to_the_version(dag_runner, champion, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1)
    result = dag_runner.run(lambda: SetRegisteredModelAliasOperator(task_id="set", version=1, **champion))
    assert result.xcom("set", key="model_version_url") == f"{mlflow_server.url}/#/models/{model_name}/versions/1"
