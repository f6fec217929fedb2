"""The unmodified databricks-sdk submits one-time runs, imports notebooks, sends statements and looks at endpoints."""

from __future__ import annotations

import base64
import json
import threading
from datetime import timedelta

import pytest

from airflow_uc_models.emulator.warehouse import Answer

PATH = "/Users/admin@example.com/score"


def sdk_client(emulator, principal=None):
    from databricks.sdk import WorkspaceClient

    token = principal.token if principal else emulator.token
    return WorkspaceClient(host=emulator.url, token=token, auth_type="pat")


@pytest.fixture
def client(emulator):
    return sdk_client(emulator)


@pytest.fixture
def notebook(client):
    put(client, PATH)
    return PATH


def put(client, path, source=b"# Databricks notebook source\nprint(1)\n", **options):
    from databricks.sdk.service.workspace import ImportFormat, Language

    client.workspace.mkdirs(path.rpartition("/")[0])
    content = base64.b64encode(source).decode()
    client.workspace.import_(path, content=content, format=ImportFormat.SOURCE, language=Language.PYTHON, **options)


def submission(path, **options):
    from databricks.sdk.service.compute import Environment
    from databricks.sdk.service.jobs import JobEnvironment, NotebookTask, SubmitTask

    task = SubmitTask("score", notebook_task=NotebookTask(path, {"a": "1"}), environment_key="model")
    spec = Environment(environment_version="4", dependencies=["scikit-learn==1.5.0"])
    return {"tasks": [task], "environments": [JobEnvironment("model", spec)], **options}


def wait_for(client, run_id):
    return client.jobs.wait_get_run_job_terminated_or_skipped(run_id, timeout=timedelta(seconds=20))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """The SDK waits a second and more between two looks."""
    monkeypatch.setattr("time.sleep", lambda _: None)


def test_a_run_from_submission_to_result(emulator, client, notebook) -> None:
    from databricks.sdk.service.jobs import RunResultState

    emulator.runs.plan(result=lambda parameters: json.dumps({"got": parameters}))
    seen = []
    waiting = client.jobs.submit(**submission(notebook, run_name="night"))
    run = waiting.result(callback=lambda run: seen.append(run.state.life_cycle_state.value))
    assert seen == ["PENDING", "RUNNING"]
    assert run.state.result_state is RunResultState.SUCCESS
    assert run.run_name == "night"
    [task] = run.tasks
    assert json.loads(client.jobs.get_run_output(task.run_id).notebook_output.result) == {"got": {"a": "1"}}
    assert str(run.run_id) in run.run_page_url


def test_a_run_that_fails_tells_why_in_its_output(emulator, client, notebook) -> None:
    emulator.runs.plan(error="ValueError: x is negative", error_trace="Traceback ...")
    run = wait_for(client, client.jobs.submit(**submission(notebook)).run_id)
    assert (run.state.result_state.value, run.state.state_message) == (
        "FAILED",
        "Workload failed, see run output for details",
    )
    output = client.jobs.get_run_output(run.tasks[0].run_id)
    assert (output.error, output.error_trace) == ("ValueError: x is negative", "Traceback ...")


@pytest.mark.parametrize(
    ("plan", "life_cycle_state", "result_state"),
    [
        ({"states": ("PENDING", "INTERNAL_ERROR"), "message": "no capacity"}, "INTERNAL_ERROR", "FAILED"),
        ({"states": ("PENDING", "SKIPPED")}, "SKIPPED", None),
        ({"result_state": "TIMEDOUT"}, "TERMINATED", "TIMEDOUT"),
    ],
)
def test_runs_end_in_other_ways(emulator, client, notebook, plan, life_cycle_state, result_state) -> None:
    emulator.runs.plan(**plan)
    run_id = client.jobs.submit(**submission(notebook)).run_id
    run = next(
        run
        for _ in range(5)
        if (run := client.jobs.get_run(run_id)).state.life_cycle_state.value not in ("PENDING", "RUNNING")
    )
    assert run.state.life_cycle_state.value == life_cycle_state
    assert (run.state.result_state.value if run.state.result_state else None) == result_state


def test_a_run_can_be_cancelled(emulator, client, notebook) -> None:
    emulator.runs.plan(hold=threading.Event())
    waiting = client.jobs.submit(**submission(notebook))
    client.jobs.get_run(waiting.run_id)
    client.jobs.cancel_run(waiting.run_id)
    run = client.jobs.get_run(waiting.run_id)
    assert (run.state.result_state.value, run.state.user_cancelled_or_timedout) == ("CANCELED", True)


def test_the_same_token_is_the_same_run_even_after_its_end(emulator, client, notebook) -> None:
    from databricks.sdk.errors import InvalidParameterValue

    first = client.jobs.submit(**submission(notebook, idempotency_token="t")).run_id
    wait_for(client, first)
    assert client.jobs.submit(**submission(notebook, idempotency_token="t")).run_id == first
    assert client.jobs.submit(**submission(notebook, idempotency_token="u")).run_id != first
    with pytest.raises(InvalidParameterValue, match="64"):
        client.jobs.submit(**submission(notebook, idempotency_token="t" * 65))


def test_submissions_that_a_workspace_refuses(emulator, client, notebook, other_emulator) -> None:
    from databricks.sdk.errors import InvalidParameterValue
    from databricks.sdk.service.jobs import SparkPythonTask, SubmitTask

    with pytest.raises(InvalidParameterValue, match="not defined"):
        client.jobs.submit(**submission(notebook, environments=[]))
    with pytest.raises(InvalidParameterValue, match="An environment is required"):
        client.jobs.submit(tasks=[SubmitTask("score", spark_python_task=SparkPythonTask("/a.py"))])
    earlier = other_emulator(notebook_environments=False)
    with pytest.raises(InvalidParameterValue, match="%pip"):
        sdk_client(earlier).jobs.submit(**submission(notebook))


def test_a_run_without_its_notebook_fails(emulator, client) -> None:
    run = wait_for(client, client.jobs.submit(**submission("/Shared/nothing")).run_id)
    assert "Unable to access the notebook" in client.jobs.get_run_output(run.tasks[0].run_id).error


def test_runs_of_others_are_not_shown(emulator, client, notebook) -> None:
    from databricks.sdk.errors import InvalidParameterValue, PermissionDenied

    user = sdk_client(emulator, emulator.add_principal("user@example.com"))
    run_id = client.jobs.submit(**submission(notebook)).run_id
    with pytest.raises(PermissionDenied, match="view run"):
        user.jobs.get_run(run_id)
    with pytest.raises(PermissionDenied, match="cancel run"):
        user.jobs.cancel_run(run_id)
    with pytest.raises(InvalidParameterValue, match="does not exist"):
        user.jobs.get_run(1)
    with pytest.raises(InvalidParameterValue, match="each individual task"):
        client.jobs.get_run_output(run_id)


def test_notebooks(emulator, client) -> None:
    from databricks.sdk.errors import NotFound, PermissionDenied, ResourceAlreadyExists
    from databricks.sdk.service.workspace import Language

    user = emulator.add_principal("user@example.com")
    theirs = sdk_client(emulator, user)
    home = f"/Users/{theirs.current_user.me().user_name}"
    with pytest.raises(NotFound, match="parent folder"):
        client.workspace.upload(f"{home}/a/b", b"1", language=Language.PYTHON)
    put(theirs, f"/Workspace{home}/a/b", b"# Databricks notebook source\n1")
    with pytest.raises(ResourceAlreadyExists):
        put(theirs, f"{home}/a/b")
    theirs.workspace.upload(f"{home}/a/b", b"2", language=Language.PYTHON, overwrite=True)
    assert emulator.workspace.notebooks.sources == {f"{home}/a/b": b"2"}
    assert theirs.workspace.get_status(f"{home}/a/b").language is Language.PYTHON
    assert theirs.workspace.get_status(f"{home}/a").object_type.value == "DIRECTORY"
    with pytest.raises(NotFound):
        theirs.workspace.get_status(f"{home}/b")
    with pytest.raises(PermissionDenied):
        theirs.workspace.mkdirs("/Users/admin@example.com/x")


def test_statements(emulator, client) -> None:
    from databricks.sdk.errors import InvalidParameterValue, NotFound, PermissionDenied
    from databricks.sdk.service.sql import ExecuteStatementRequestOnWaitTimeout, StatementState

    emulator.warehouses.add("w1", users=["user@example.com"])
    emulator.warehouses.answer("count", columns=["n"], rows=[[3]])
    emulator.warehouses.answer("broken", error="[PARSE_SYNTAX_ERROR] broken")
    emulator.warehouses.answer("mirror", lambda text: Answer(columns=["text"], rows=[[text], [None]]))
    emulator.warehouses.answer("long", hold=threading.Event())

    execute = client.statement_execution.execute_statement
    done = execute("SELECT count(*)", "w1")
    assert (done.status.state, done.result.data_array) == (StatementState.SUCCEEDED, [["3"]])
    assert [column.name for column in done.manifest.schema.columns] == ["n"]
    assert execute("mirror", "w1").result.data_array == [["mirror"], [None]]
    failed = execute("broken", "w1")
    assert (failed.status.state, failed.status.error.message) == (
        StatementState.FAILED,
        "[PARSE_SYNTAX_ERROR] broken",
    )
    cancel = ExecuteStatementRequestOnWaitTimeout.CANCEL
    assert execute("long", "w1", on_wait_timeout=cancel).status.state is StatementState.CANCELED

    sent = execute("USE other", "w1", wait_timeout="0s")
    states = [client.statement_execution.get_statement(sent.statement_id).status.state.value for _ in range(3)]
    assert states == ["PENDING", "RUNNING", "SUCCEEDED"]
    going = execute("long", "w1")
    client.statement_execution.cancel_execution(going.statement_id)
    assert client.statement_execution.get_statement(going.statement_id).status.state is StatementState.CANCELED
    assert [statement.text for statement in emulator.warehouses][-2:] == ["USE other", "long"]

    with pytest.raises(InvalidParameterValue, match="valid endpoint"):
        execute("SELECT 1", "w2")
    with pytest.raises(InvalidParameterValue, match="wait_timeout"):
        execute("SELECT 1", "w1", wait_timeout="51s")
    with pytest.raises(PermissionDenied, match="w1"):
        sdk_client(emulator, emulator.add_principal("other@example.com")).statement_execution.execute_statement(
            "1", "w1"
        )
    with pytest.raises(NotFound):
        client.statement_execution.get_statement("nothing")


def test_endpoints_and_tables(emulator, client) -> None:
    from databricks.sdk.errors import NotFound, PermissionDenied

    emulator.endpoints.add("fraud", ("prod.ml_team.fraud", 3), users=["user@example.com"])
    [served] = client.serving_endpoints.get("fraud").config.served_entities
    assert (served.entity_name, served.entity_version) == ("prod.ml_team.fraud", "3")
    with pytest.raises(NotFound):
        client.serving_endpoints.get("nothing")
    emulator.add_schema("prod.ml_team")
    emulator.tables.add("prod.ml_team.rows", {"id": "bigint", "price": "decimal(10,2)"})
    columns = client.tables.get("prod.ml_team.rows").columns
    assert [(column.name, column.type_text) for column in columns] == [("id", "bigint"), ("price", "decimal(10,2)")]
    with pytest.raises(NotFound):
        client.tables.get("prod.ml_team.nothing")

    user = emulator.add_principal("other@example.com")
    theirs = sdk_client(emulator, user)
    with pytest.raises(PermissionDenied, match="View"):
        theirs.serving_endpoints.get("fraud")
    for privilege, securable in (("USE CATALOG", "prod"), ("USE SCHEMA", "prod.ml_team")):
        emulator.grant(user, privilege, securable)
    with pytest.raises(PermissionDenied, match="SELECT"):
        theirs.tables.get("prod.ml_team.rows")
    emulator.grant(user, "SELECT", "prod.ml_team")
    assert len(theirs.tables.get("prod.ml_team.rows").columns) == 2
