"""What users get wrong, and what the registry refuses: each fails once, and says what to do."""

from __future__ import annotations

import pytest
from airflow.sdk import task, task_group
from support.pending import MARK, PENDING, Consumer
from support.registry import make_versions

from airflow_uc_models.operators.pending import (
    MarkModelVersionsHandledOperator,
    PendingModelVersionsOperator,
    mark_model_versions_handled,
    pending_model_versions,
)

RETRIES = {"retries": 2}


@pytest.fixture
def consume(dag_runner, connection, model_name):
    return Consumer(dag_runner, {"scope": model_name, "registry_conn_id": connection, **RETRIES})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "fraud"}, "scope is a model, 'catalog.schema.model', or a schema"),
        ({"scope": "prod.*"}, "scope is a model, 'catalog.schema.model', or a schema"),
        ({"scope": "prod.ml.team.fraud"}, "scope is a model, 'catalog.schema.model', or a schema"),
        ({"scope": "prod..fraud"}, "The schema in model name 'prod..fraud' is empty"),
        ({"scope": "dev.none.no_such_model"}, "Could not get registered model dev.none.no_such_model"),
        ({"scope": "dev.no_such_schema"}, "There is no registered model in schema dev.no_such_schema"),
        ({"limit": 0}, "limit is a whole number from 1, not 0"),
        ({"limit": "many"}, "limit is a whole number from 1, not 'many'"),
        ({"created_after": "yesterday"}, "created_after is a time such as"),
        ({"tags": {"team": None}}, "Tag 'team' has no value"),
        ({"tags": {"/": "x"}}, "Tag key '/' is not allowed"),
    ],
)
def test_bad_options(consume, mlflow_server, model_name, options, message):
    make_versions(mlflow_server, model_name, 1)
    result = consume(**options)
    assert result.task_state(PENDING) == "failed"
    assert result.ti(PENDING).try_number == 1
    assert message in result.output
    assert result.task_state("work") == "upstream_failed"
    assert result.task_state(MARK) == "failed"
    assert f"Task {PENDING} did not list what is pending; nothing was marked." in result.output


@pytest.mark.parametrize("scope", ["dev.none.no_such_model", "dev.no_such_schema"])
def test_missing_ok(consume, scope):
    result = consume(scope=scope, missing_ok=True)
    assert result.state == "success"
    assert result.xcom(PENDING) == []


def fails(dag_runner, define, task_id, message):
    result = dag_runner.run(define, default_args={"retries": 2})
    assert result.state == "failed"
    assert result.task_state(task_id) == "failed"
    assert result.ti(task_id).try_number == 1
    assert message in result.output
    return result


@pytest.mark.parametrize(("marks", "message"), [(0, "There is none."), (2, "There are 2: mark0, mark1.")])
def test_one_task_must_mark(dag_runner, connection, mlflow_server, model_name, marks, message):
    make_versions(mlflow_server, model_name, 1)

    def define():
        pending = pending_model_versions(model_name, registry_conn_id=connection)
        done = task(task_id="work")(lambda version: None).expand(version=pending)
        for number in range(marks):
            mark_model_versions_handled(pending, done, task_id=f"mark{number}")

    fails(dag_runner, define, PENDING, f"{PENDING} needs one MarkModelVersionsHandledOperator")
    assert message in fails(dag_runner, define, PENDING, "without it nothing would ever count as handled").output


def test_work_mapped_over_something_else(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)

    def define():
        pending = pending_model_versions(model_name, registry_conn_id=connection)
        done = task(task_id="work")(lambda version, times: None).expand(version=pending, times=[1, 2, 3])
        mark_model_versions_handled(pending, done)

    message = "Task work was mapped over 6 items, but 2 versions are pending"
    fails(dag_runner, define, MARK, message)
    assert len(dag_runner.run(define).xcom(PENDING)) == 2


def test_handled_is_no_output(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1)

    def define():
        pending = PendingModelVersionsOperator(task_id="pending", scope=model_name, registry_conn_id=connection)
        MarkModelVersionsHandledOperator(task_id="mark", pending=pending.output, handled=pending.output)

    fails(dag_runner, define, "mark", "handled is the output of the work, such as")


def test_pending_is_of_another_task(dag_runner):
    def define():
        versions = task(task_id="versions")(lambda: ["some"])()
        mark_model_versions_handled(versions, task(task_id="work")(lambda _: None)(versions))

    fails(dag_runner, define, MARK, "pending is the output of one PendingModelVersionsOperator")


def test_nothing_waits_for_the_work(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1)

    def define():
        pending = pending_model_versions(model_name, registry_conn_id=connection)
        task(task_id="work")(lambda version: None).expand(version=pending)
        mark_model_versions_handled(pending)

    fails(dag_runner, define, MARK, f"Task {MARK} would mark versions before any work on them")


def test_marking_in_a_mapped_group(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1)

    def define():
        pending = pending_model_versions(model_name, registry_conn_id=connection)

        @task_group
        def each(version):
            mark_model_versions_handled(pending, task(task_id="work")(lambda version: None)(version))

        each.expand(version=pending)

    result = dag_runner.run(define)
    assert result.state == "failed"
    assert "This task must not be mapped, nor be in a mapped task group" in result.output


def test_listing_must_not_be_mapped(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1)

    def define():
        PendingModelVersionsOperator.partial(task_id="pending", registry_conn_id=connection).expand(scope=[model_name])

    result = dag_runner.run(define)
    assert result.state == "failed"
    assert "This task must not be mapped" in result.output
