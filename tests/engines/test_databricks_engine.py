"""The engine `databricks`, run by the operator against an emulated workspace, waiting and deferred."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from support.databricks import connection_json
from support.deferring import keep_what_is_deferred
from support.killing import killed_at
from support.remote_scoring import NAME, add_model, may_score, save_sums

from airflow_uc_models.operators.inference import BatchInferenceOperator

TABLES = {"input": "prod.ml_team.rows", "output": "prod.ml_team.scored"}
RETRY = {"retries": 2, "retry_delay": timedelta(0)}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Workspaces do not get five tries of each request."""
    keep_what_is_deferred(monkeypatch)
    monkeypatch.setattr("airflow_uc_models.hooks.workspace_jobs._RETRY_LIMIT", 2)


@pytest.fixture
def score(dag_runner, databricks):
    """Run the operator; returns the finished Dag run."""

    def run(*, engine_options=None, default_args=None, conn_id=databricks, **options):
        defined = {
            "task_id": "score",
            "model_uri": f"models:/{NAME}@Champion",
            "registry_conn_id": conn_id,
            "engine": "databricks",
            "engine_options": {"poll_interval": 0.01, **(engine_options or {})},
            **TABLES,
            **options,
        }
        return dag_runner.run(
            partial(BatchInferenceOperator, **defined), default_args={"retries": 0, **(default_args or {})}
        )

    return run


def told(rows=3, bad_rows=0):
    return json.dumps({"rows": rows, "bad_rows": bad_rows})


def submitted(workspace):
    return [request.body for request in workspace.requests.find("runs/submit")]


@pytest.mark.parametrize("deferrable", [False, True], ids=["waiting", "deferred"])
def test_a_run_scores(workspace, score, deferrable) -> None:
    add_model(workspace, versions=2)
    workspace.runs.plan(result=told(rows=5, bad_rows=2))
    result = score(
        deferrable=deferrable,
        mode="append",
        partition_by=["day"],
        keep_columns=["id"],
        metadata_columns=["model_version"],
        on_bad_rows="quarantine",
    )
    assert result.state == "success"
    assert ("Pausing task as DEFERRED" in result.output) is deferrable
    [run] = workspace.runs
    xcom = result.xcom("score")
    assert (
        xcom.items()
        >= {
            "name": NAME,
            "version": 2,
            "engine": "databricks",
            "rows": 5,
            "bad_rows": 2,
            "bad_rows_output": "prod.ml_team.scored_bad_rows",
            "run_id": run.run_id,
            "run_page_url": f"{workspace.url}/?o=1234567890123456#job/0/run/{run.run_id}",
        }.items()
    )
    told_to_script = json.loads(run.parameters["params"])
    assert told_to_script.pop("scored_at") in run.spec["run_name"]
    assert len(told_to_script.pop("key")) > 10
    assert told_to_script == {
        "model_uri": f"models:/{NAME}/2",
        "registry_uri": "databricks-uc",
        "input_format": None,
        **TABLES,
        "mode": "append",
        "partition_by": ["day"],
        "keep_columns": ["id"],
        "metadata": ["model_version"],
        "model_name": NAME,
        "model_version": 2,
        "on_bad_rows": "quarantine",
        "bad_rows_output": "prod.ml_team.scored_bad_rows",
        "env_manager": "local",
        "score_batch": False,
    }
    [environment] = run.spec["environments"]
    assert environment["spec"] == {
        "environment_version": "2",
        "dependencies": ["mlflow==3.4.0", "scikit-learn==1.5.0"],
    }
    [(path, source)] = workspace.workspace.notebooks.sources.items()
    assert path == run.task["notebook_task"]["notebook_path"]
    assert path.startswith("/Users/admin@example.com/.airflow_uc_models/batch_inference_")
    assert b"dbutils.notebook.exit" in source


def test_options_and_a_feature_store_model_shape_the_run(workspace, score) -> None:
    requirements = "databricks-feature-lookup==1.8.0\n"
    add_model(workspace, loader="databricks.ml_features.mlflow_model", requirements=requirements, python="3.9.1")
    workspace.runs.plan(result=told())
    options = {"dependencies": ["my-features==1.0"], "timeout_seconds": 600, "notebook_folder": "/Shared/airflow"}
    result = score(engine_options=options)
    assert result.state == "success"
    [run] = workspace.runs
    assert json.loads(run.parameters["params"])["score_batch"] is True
    assert run.spec["timeout_seconds"] == 600
    [environment] = run.spec["environments"]
    packages = ["databricks-feature-lookup==1.8.0", "mlflow", "databricks-feature-engineering", "my-features==1.0"]
    assert environment["spec"] == {"environment_version": "4", "dependencies": packages}
    assert "made with Python 3.9.1" in result.output
    assert run.task["notebook_task"]["notebook_path"].startswith("/Shared/airflow/")


@pytest.mark.parametrize("deferrable", [False, True], ids=["waiting", "deferred"])
@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"error": "ValueError: x is negative", "error_trace": "Traceback of it"}, "FAILED: .*ValueError"),
        ({"states": ("PENDING", "INTERNAL_ERROR"), "message": "no capacity"}, "ended as FAILED: no capacity"),
        ({"states": ("SKIPPED",), "message": "too many runs"}, "ended as SKIPPED: too many runs"),
        ({"result_state": "TIMEDOUT", "message": "took too long"}, "ended as TIMEDOUT: took too long"),
        ({"result_state": "CANCELED", "message": "by hand"}, "ended as CANCELED: by hand"),
        ({"result": "not JSON"}, "did not tell how many rows"),
    ],
    ids=["error", "internal error", "at once", "timeout", "cancelled", "no result"],
)
def test_a_run_that_does_not_succeed_fails_the_task(workspace, score, deferrable, plan, expected) -> None:
    add_model(workspace)
    workspace.runs.plan(**plan)
    result = score(deferrable=deferrable)
    assert result.state == "failed"
    [run] = workspace.runs
    assert f"#job/0/run/{run.run_id}" in result.output
    assert re.search(expected, result.output)


LOADING = 'File "/x/mlflow/pyfunc/__init__.py", line 9, in load_model'


@pytest.mark.parametrize("deferrable", [False, True], ids=["waiting", "deferred"])
@pytest.mark.parametrize(
    ("error", "trace", "tries", "told"),
    [
        ("ValueError: Zebulon-Quist", 'File "/x/code.py", line 3, in predict\nFile Zebulon-Quist', 2, "ValueError"),
        ("PythonException: Zebulon-Quist\nScoringError: KeyError: # (in f)\nZebulon-Quist", "", 2, "KeyError: #"),
        ("[CAST_INVALID_INPUT] The value 'Zebulon-Quist' of", "", 1, "[CAST_INVALID_INPUT]"),
        ("SparkException: [FAILED_READ_FILE.NO_HINT] of Zebulon-Quist", "", 1, "[FAILED_READ_FILE.NO_HINT]"),
        ("PythonException: ModuleNotFoundError: No module named 'x'", LOADING, 1, "prod.ml_team.fraud/1"),
    ],
    ids=["model", "function", "value", "file", "loading"],  # the Dag is called by them
)
def test_what_a_run_says_of_rows_is_not_told(workspace, score, deferrable, error, trace, tries, told) -> None:
    add_model(workspace)
    workspace.runs.plan(error=error, error_trace=trace, message="Zebulon-Quist")
    workspace.runs.plan(error=error, error_trace=trace, message="Zebulon-Quist")
    result = score(deferrable=deferrable, default_args={**RETRY, "retries": 1})
    assert (result.state, result.ti("score").try_number) == ("failed", tries)
    assert told in result.output
    assert "Zebulon" not in result.output


def test_a_missing_privilege_in_the_run_is_no_matter_for_retries(workspace, score) -> None:
    add_model(workspace)
    workspace.runs.plan(error="[INSUFFICIENT_PERMISSIONS] User does not have SELECT on Table 'prod.ml_team.rows'.")
    result = score(default_args=RETRY)
    assert result.state == "failed"
    assert result.ti("score").try_number == 1


def test_a_retry_goes_on_with_the_run_of_an_earlier_try(workspace, score) -> None:
    """The workspace stops answering while the run is under way."""
    add_model(workspace)
    workspace.runs.plan(result=told(rows=7))
    workspace.faults.add("runs/get$", status=503, count=4)
    result = score(default_args=RETRY)
    assert result.state == "success"
    assert result.ti("score").try_number == 3
    assert len(submitted(workspace)) == 3
    [run] = workspace.runs
    assert result.xcom("score")["run_id"] == run.run_id


def test_a_retry_after_a_failed_run_begins_another(workspace, score) -> None:
    add_model(workspace)
    workspace.runs.plan(error="lost a node")
    workspace.runs.plan(error="lost another")
    workspace.runs.plan(result=told(rows=7))
    result = score(default_args=RETRY)
    assert result.state == "success"
    assert result.ti("score").try_number == 3
    *_, last = runs = list(workspace.runs)
    assert len(runs) == 3
    assert result.xcom("score")["run_id"] == last.run_id
    assert all(len(body["idempotency_token"]) == 64 for body in submitted(workspace))


def test_a_retry_does_not_go_on_with_a_run_that_is_being_cancelled(workspace, score) -> None:
    add_model(workspace)
    workspace.runs.plan(states=("TERMINATING", "TERMINATED"), result_state="CANCELED")
    workspace.runs.plan(result=told(rows=7))
    workspace.faults.add("runs/get$", status=503, count=2)
    result = score(default_args={**RETRY, "retries": 1})
    assert result.state == "success"
    assert result.xcom("score")["rows"] == 7


def test_a_lost_answer_to_the_submission_makes_no_second_run(workspace, score) -> None:
    add_model(workspace)
    workspace.runs.plan(result=told())
    workspace.faults.add("runs/submit", status=503, when="after")
    workspace.faults.add("runs/get$", status=429)
    assert score().state == "success"
    assert len(list(workspace.runs)) == 1


def test_a_trigger_outlives_a_workspace_that_does_not_answer(workspace, score) -> None:
    add_model(workspace)
    workspace.runs.plan(result=told())
    looks = [{"delay": 0.001}, {"status": 429}, {"delay": 0.001}, {"status": 500}]  # the first is the task's own
    faults = [workspace.faults.add("runs/get$", **look) for look in looks]
    assert score(deferrable=True).state == "success"
    assert [fault.hits for fault in faults] == [1, 1, 1, 1]
    assert len(submitted(workspace)) == 1


def test_a_task_that_was_cleared_scores_anew(workspace, score, monkeypatch) -> None:
    """What a successful run has told is not for a task that somebody has run again, as after a change of the input."""
    add_model(workspace)
    workspace.runs.default = replace(workspace.runs.default, result=told())
    monkeypatch.setattr(BatchInferenceOperator, "task_key", lambda *_: "same")
    found = []
    for number in (0, 0, 2):
        monkeypatch.setattr("airflow_uc_models.engines.databricks.series", lambda number=number: number)
        result = score()
        assert result.state == "success"
        found.append(result.xcom("score")["run_id"])
    assert found[0] == found[1] != found[2]


def test_clearing_a_task_begins_a_series_of_tries(dag_runner) -> None:
    from airflow.models.taskinstance import clear_task_instances
    from airflow.sdk import task
    from airflow.utils.session import create_session

    from airflow_uc_models.engines.series import series

    seen = []

    @task(retries=2, retry_delay=timedelta(0))
    def tell():
        seen.append(series())
        if len(seen) < 3:
            raise RuntimeError("again")

    result = dag_runner.run(tell)
    assert (result.state, seen) == ("success", [0, 0, 0])
    with create_session() as session:
        ti = session.merge(result.ti("tell"))
        ti.task = result.dag_run.dag.get_task("tell")
        clear_task_instances([ti], session)
        session.flush()
        assert ti.max_tries - 2 == 3


def test_a_killed_task_cancels_its_run(workspace, score) -> None:
    add_model(workspace)
    hold = threading.Event()
    workspace.runs.plan(hold=hold, states=("RUNNING", "TERMINATED"))
    _, second = (workspace.faults.add("runs/get$", delay=0.01) for _ in range(2))
    began = time.monotonic()
    with killed_at(second):
        result = score(engine_options={"poll_interval": 60})
    assert result.state == "failed"
    assert "CANCELED" in result.output
    [run] = workspace.runs
    assert run.is_cancelled
    assert time.monotonic() - began < 60, "it slept on"


def test_a_task_that_is_killed_while_it_submits_cancels_what_it_has_begun(workspace, score) -> None:
    add_model(workspace)
    sent = workspace.faults.add("runs/submit", method="POST", hold=threading.Event())
    with killed_at(sent):
        assert score().state == "failed"
    assert [run.is_cancelled for run in workspace.runs] == [True]


def test_the_principal_needs_its_folder_and_the_model(workspace, score, monkeypatch) -> None:
    add_model(workspace)
    user = may_score(workspace)
    monkeypatch.setenv("AIRFLOW_CONN_SCORER", connection_json(workspace, user.token))
    workspace.runs.plan(result=told())
    assert score(conn_id="scorer").state == "success"
    result = score(conn_id="scorer", engine_options={"notebook_folder": "/Users/admin@example.com"})
    assert result.state == "failed"
    assert "It needs CAN EDIT on its folder" in result.output


def test_a_workspace_that_refuses_the_run_says_why(workspace, score) -> None:
    add_model(workspace)
    workspace.faults.add("runs/submit", status=403)
    result = score(default_args=RETRY)
    assert (result.state, result.ti("score").try_number) == ("failed", 1)
    assert "Could not submit a run" in result.output
    assert "It needs access to serverless compute" in result.output


def test_a_workspace_that_does_not_answer_is_a_matter_for_retries(workspace, score) -> None:
    add_model(workspace)
    workspace.runs.plan(result=told())
    workspace.faults.add("runs/submit", status=500, count=2)
    result = score(default_args=RETRY)
    assert (result.state, result.ti("score").try_number) == ("success", 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"input": "rows.parquet"}, "does not reach the input rows.parquet"),
        ({"output": "/tmp/out"}, "does not reach the output /tmp/out"),
        ({"input": "s3://my_conn@bucket/rows"}, "names an Airflow connection"),
        ({"output": TABLES["input"]}, "is the input, too"),
        ({"input": "/Volumes/a/b/c/in", "output": "dbfs:/Volumes/a/b/c"}, "lies in the output"),
        ({"output": "s3://bucket/scored"}, "files can only be written with mode='append'"),
        ({"engine_options": {"cluster": "x"}}, "'cluster'; it knows"),
        ({"engine_options": {"environment_version": "new"}}, "environment_version must be the number"),
        ({"engine_options": {"dependencies": "numpy"}}, "dependencies must be a list"),
        ({"engine_options": {"timeout_seconds": "soon"}}, "timeout_seconds must be a number"),
        ({"engine_options": {"notebook_folder": "relative"}}, "notebook_folder must be a folder"),
        ({"engine_options": {"poll_interval": 0}}, "poll_interval must be a number"),
        ({"env_manager": "uv"}, "env_manager must be left out"),
        ({"batch_size": 10}, "chooses its batch_size itself"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_call(workspace, score, options, expected) -> None:
    result = score(**options)
    assert result.state == "failed"
    assert expected in result.output
    assert not len(workspace.requests)


def test_registries_elsewhere_are_refused(score, connection, mlflow_server) -> None:
    from support.models import add_version, log_model

    add_version(mlflow_server, NAME, log_model(mlflow_server))
    result = score(conn_id=connection, model_uri=f"models:/{NAME}/1")
    assert result.state == "failed"
    assert "is not of type 'databricks'" in result.output


def test_a_model_without_a_signature_is_refused_unless_it_may_have_none(workspace, score) -> None:
    add_model(workspace, inputs="")
    result = score()
    assert result.state == "failed"
    assert "has no signature" in result.output
    workspace.runs.plan(result=told())
    assert score(signature_required=False).state == "success"


def test_a_model_without_pyfunc_is_refused_before_a_run_is_submitted(workspace, score) -> None:
    def spacy_only(folder):
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors: {spacy: {spacy_version: '3.8'}}")

    name = add_model(workspace, files=spacy_only)
    result = score()
    assert "AirflowFailException" in result.output
    assert f"models:/{name}/1 has no flavor python_function, which is what predicts; it has: spacy" in result.output


# -- what is shipped, run


@pytest.fixture
def serverless(workspace, spark, monkeypatch):
    """Runs notebooks of the workspace on this machine's Spark, where they are `__main__`; begins with the first run."""
    monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", workspace.token)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")  # as in a notebook; else mlflow makes a database here
    told = {}

    def notebook(parameters):
        widgets = SimpleNamespace(get=parameters.__getitem__)
        exits = SimpleNamespace(exit=lambda result: told.update(result=result))
        return {"__name__": "__main__", "spark": spark, "dbutils": SimpleNamespace(widgets=widgets, notebook=exits)}

    def compute():
        while not (runs := list(workspace.runs)):
            if ended.wait(0.05):
                return
        [run] = runs
        source = workspace.workspace.notebooks.sources[run.task["notebook_task"]["notebook_path"]]
        try:
            exec(compile(source, "notebook", "exec"), notebook(run.parameters))
        except Exception as error:
            run.error = f"{type(error).__name__}: {error}"
        hold.set()

    hold, ended = threading.Event(), threading.Event()
    workspace.runs.plan(hold=hold, states=("RUNNING", "TERMINATED"), result=lambda _: told["result"])
    thread = threading.Thread(target=compute)
    thread.start()
    yield
    ended.set()
    thread.join(60)


@pytest.fixture
def tables(spark):
    spark.sql("CREATE DATABASE IF NOT EXISTS remote")
    frame = spark.createDataFrame([("a", 1.0, 2), ("b", 3.0, 4)], "id string, f0 double, f1 bigint")
    frame.write.mode("overwrite").saveAsTable("remote.rows")
    yield {"input": "remote.rows", "output": "remote.scored"}
    spark.sql("DROP DATABASE remote CASCADE")


@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
def test_the_notebook_scores_with_the_model_of_the_registry(workspace, score, spark, tables, serverless) -> None:
    add_model(workspace, files=save_sums)
    result = score(**tables, keep_columns=["id"], metadata_columns=["model_version"])
    assert result.state == "success"
    assert result.xcom("score").items() >= {"rows": 2, "bad_rows": 0}.items()
    assert sorted(spark.table("remote.scored").collect()) == [("a", 3.0, 1), ("b", 7.0, 1)]


@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
def test_what_the_script_refuses_is_no_matter_for_retries(workspace, score, tables, serverless) -> None:
    add_model(workspace, files=save_sums)
    result = score(**tables, keep_columns=["no"], default_args=RETRY)
    assert (result.state, result.ti("score").try_number) == ("failed", 1)
    assert "FAILED: keep_columns names no" in result.output
