"""The engine `ai_query`, run by the operator against an emulated workspace, waiting and deferred."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from datetime import timedelta
from functools import partial

import pytest
from airflow.sdk.module_loading import import_string
from support.databricks import connection_json
from support.deferring import keep_what_is_deferred
from support.killing import killed_at
from support.remote_scoring import NAME, add_model, columns, may_score

from airflow_uc_models.emulator.warehouse import Answer
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.workspace_jobs import WorkspaceJobs
from airflow_uc_models.operators.inference import BatchInferenceOperator

RETRY = {"retries": 2, "retry_delay": timedelta(0)}
ASKING = r"ai_query\("
CANARY = "Zebulon-Quist"
BUSY = f"[AI_FUNCTION_HTTP_REQUEST_ERROR] HTTP code 400: cannot score {{'name': '{CANARY}'}}"
BOTH = pytest.mark.parametrize("deferrable", [False, True], ids=["waiting", "deferred"])


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    keep_what_is_deferred(monkeypatch)
    monkeypatch.setattr("airflow_uc_models.hooks.workspace_jobs._RETRY_LIMIT", 2)


@pytest.fixture
def serving(workspace):
    """A workspace that has all that is needed, and says that of three rows one is bad."""
    add_model(workspace)
    workspace.endpoints.add("fraud", (NAME, 1))
    workspace.warehouses.add("w1")
    workspace.tables.add("prod.ml_team.rows", {"id": "string", "f0": "double", "f1": "int"})
    workspace.warehouses.answer(r"SELECT count_if", columns=["good", "bad"], rows=[[2, 1]])
    workspace.warehouses.answer(r"SELECT count\(\*\)", columns=["good", "bad"], rows=[[3, 0]])
    return workspace


@pytest.fixture
def score(dag_runner, databricks):
    """Run the operator; returns the finished Dag run."""

    def run(*, engine_options=None, default_args=None, conn_id=databricks, **options):
        defined = {
            "task_id": "score",
            "model_uri": f"models:/{NAME}@Champion",
            "registry_conn_id": conn_id,
            "engine": "ai_query",
            "engine_options": {
                "endpoint": "fraud",
                "warehouse_id": "w1",
                "poll_interval": 0.01,
                **(engine_options or {}),
            },
            "input": "prod.ml_team.rows",
            "output": "prod.ml_team.scored",
            **options,
        }
        return dag_runner.run(
            partial(BatchInferenceOperator, **defined), default_args={"retries": 0, **(default_args or {})}
        )

    return run


def sent(workspace):
    """The statements, with the staging table by a short name."""
    return [re.sub(r"`prod`\.`ml_team`\.`scored__airflow_\w+`", "STAGING", s.text) for s in workspace.warehouses]


@BOTH
def test_answers_go_through_a_table_of_their_own_into_the_output(serving, score, deferrable) -> None:
    result = score(deferrable=deferrable, keep_columns=["id"], metadata_columns=True)
    assert result.state == "success"
    assert ("Pausing task as DEFERRED" in result.output) is deferrable
    asked, counted, published, dropped = sent(serving)
    assert asked == (
        "CREATE OR REPLACE TABLE STAGING AS SELECT `id`, ai_query('fraud', named_struct('f0', CAST(`f0` AS DOUBLE), "
        "'f1', CAST(`f1` AS BIGINT)), returnType => 'DOUBLE') AS `_airflow_answer` FROM `prod`.`ml_team`.`rows`"
    )
    assert counted == "SELECT count(*), 0 FROM STAGING"
    assert re.fullmatch(
        r"CREATE OR REPLACE TABLE `prod`\.`ml_team`\.`scored` AS SELECT `id` AS `id`, `_airflow_answer` AS "
        r"`prediction`, 'prod\.ml_team\.fraud' AS `model_name`, CAST\(1 AS BIGINT\) AS `model_version`, "
        r"TIMESTAMP'\S+\+00:00' AS `scored_at` FROM STAGING WHERE true",
        published,
    )
    assert dropped == "DROP TABLE IF EXISTS STAGING"
    assert result.xcom("score").items() >= {"rows": 3, "bad_rows": 0, "version": 1, "endpoint": "fraud"}.items()


@BOTH
def test_bad_rows_are_put_aside_before_the_good_ones_appear(serving, score, deferrable) -> None:
    result = score(deferrable=deferrable, on_bad_rows="quarantine")
    assert result.state == "success"
    asked, counted, aside, published, _ = sent(serving)
    assert "returnType => 'DOUBLE', failOnError => false)" in asked
    good = "`_airflow_answer`.`errorMessage` IS NULL"
    assert counted == f"SELECT count_if({good}), count_if(NOT ({good})) FROM STAGING"
    kept = "`id` AS `id`, `f0` AS `f0`, `f1` AS `f1`"
    assert aside == (
        f"CREATE OR REPLACE TABLE `prod`.`ml_team`.`scored_bad_rows` AS SELECT {kept}, "
        f"`_airflow_answer`.`errorMessage` AS `reason` FROM STAGING WHERE NOT ({good})"
    )
    assert published == (
        f"CREATE OR REPLACE TABLE `prod`.`ml_team`.`scored` AS SELECT {kept}, `_airflow_answer`.`result` AS "
        f"`prediction` FROM STAGING WHERE {good}"
    )
    expected = {"rows": 2, "bad_rows": 1, "bad_rows_output": "prod.ml_team.scored_bad_rows"}
    assert result.xcom("score").items() >= expected.items()


def test_where_all_rows_are_bad_the_output_stays_as_it_was(serving, score) -> None:
    serving.warehouses.clear()
    serving.warehouses.add("w1")
    serving.warehouses.answer(r"SELECT count_if", columns=["good", "bad"], rows=[[0, 3]])
    serving.warehouses.answer(r"SELECT `_airflow_answer`.`errorMessage`", columns=["reason"], rows=[[BUSY]])
    result = score(on_bad_rows="quarantine")
    assert result.state == "failed"
    assert "None of the 3 rows of the input could be scored. The first one: [AI_FUNCTION_HTTP" in result.output
    assert CANARY not in result.output
    assert not [text for text in sent(serving) if "`scored`" in text or "`scored_bad_rows`" in text]
    assert sent(serving)[-1] == "DROP TABLE IF EXISTS STAGING"


def test_where_no_row_is_bad_none_of_an_earlier_run_stays(serving, score) -> None:
    serving.warehouses.clear()
    serving.warehouses.add("w1")
    serving.warehouses.answer(r"SELECT count_if", columns=["good", "bad"], rows=[[3, 0]])
    serving.tables.add("prod.ml_team.scored_bad_rows", {"id": "string", "reason": "string"})
    assert score(on_bad_rows="quarantine").state == "success"
    assert "DROP TABLE IF EXISTS `prod`.`ml_team`.`scored_bad_rows`" in sent(serving)


def test_rows_are_appended_to_a_new_table_which_is_made_first(serving, score) -> None:
    assert score(mode="append", keep_columns=["id"]).state == "success"
    _, _, made, inserted, _ = sent(serving)
    [key] = re.findall(r"'(\w{20,})' AS `dag_run_key`", made)
    selected = f"SELECT `id` AS `id`, `_airflow_answer` AS `prediction`, '{key}' AS `dag_run_key` FROM STAGING WHERE"
    parted = "PARTITIONED BY (`dag_run_key`)"
    assert made == f"CREATE TABLE IF NOT EXISTS `prod`.`ml_team`.`scored` {parted} AS {selected} false"
    assert inserted == (f"INSERT INTO `prod`.`ml_team`.`scored` REPLACE WHERE `dag_run_key` = '{key}' {selected} true")


@BOTH
def test_rows_are_appended_in_the_order_of_columns_that_the_table_has(serving, score, deferrable) -> None:
    existing = {"dag_run_key": "string", "PREDICTION": "double", "id": "string"}
    serving.tables.add("prod.ml_team.scored", existing)
    serving.tables.add("prod.ml_team.scored_bad_rows", {"id": "string", "reason": "string", "dag_run_key": "string"})
    result = score(mode="append", keep_columns=["id"], on_bad_rows="quarantine", deferrable=deferrable)
    assert result.state == "success"
    _, _, aside, inserted, _ = sent(serving)
    assert aside.startswith("INSERT INTO `prod`.`ml_team`.`scored_bad_rows` REPLACE WHERE `dag_run_key` = ")
    assert re.search(r"SELECT '\w+' AS `dag_run_key`, `_airflow_answer`\.`result` AS `prediction`, `id` AS", inserted)


@pytest.fixture
def understood(spark):
    """Raise for statements that Spark's own parser does not take."""
    return spark._jsparkSession.sessionState().sqlParser().parsePlan


@pytest.mark.parametrize("mode", ["overwrite", "append"])
@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
def test_the_statements_are_sql(serving, score, understood, mode, on_bad_rows) -> None:
    serving.tables.add("prod.ml_team.scored_bad_rows", {"id": "string", "reason": "string", "dag_run_key": "string"})
    assert score(mode=mode, on_bad_rows=on_bad_rows, keep_columns=["id"], metadata_columns=True).state == "success"
    for statement in serving.warehouses:
        understood(statement.text)


def test_several_predictions_become_columns_and_names_are_quoted(serving, score) -> None:
    serving.reset()
    odd = "it's `odd`\\"
    outputs = columns(label="string", score="float")
    add_model(serving, inputs=columns(**{odd: "double"}), outputs=outputs)
    serving.endpoints.add("fraud", (NAME, 1))
    serving.warehouses.add("w1")
    serving.tables.add("prod.ml_team.rows", {odd: "double"})
    serving.warehouses.answer(r"SELECT count\(\*\)", columns=["good", "bad"], rows=[[3, 0]])
    assert score(output="prod.ml_team.`scored`").state == "success"
    asked, _, published, _ = sent(serving)
    assert "named_struct('it\\'s `odd`\\\\', CAST(`it's ``odd``\\` AS DOUBLE))" in asked
    assert "returnType => 'STRUCT<`label`: STRING, `score`: FLOAT>'" in asked
    assert "`_airflow_answer`.`label` AS `label`, `_airflow_answer`.`score` AS `score`" in published


@BOTH
@pytest.mark.parametrize(
    ("error", "tries", "expected"),
    [
        ("[INSUFFICIENT_PERMISSIONS] no SELECT on rows", 1, "It needs CAN QUERY on the endpoint fraud"),
        ("[TABLE_OR_VIEW_NOT_FOUND] no rows", 1, "ended as FAILED: [TABLE_OR_VIEW_NOT_FOUND]"),
        ("[AI_FUNCTION_HTTP_REQUEST_ERROR] 503", 3, "ended as FAILED: [AI_FUNCTION"),
    ],
    ids=["privilege", "input", "endpoint"],
)
def test_a_statement_that_fails_fails_the_task(serving, score, deferrable, error, tries, expected) -> None:
    serving.warehouses.clear()
    serving.warehouses.add("w1")
    serving.warehouses.answer(ASKING, error=error)
    result = score(deferrable=deferrable, default_args=RETRY)
    assert (result.state, result.ti("score").try_number) == ("failed", tries)
    assert expected in result.output
    assert len(sent(serving)) == tries


@BOTH
@pytest.mark.parametrize(
    "error",
    [BUSY, f"[CAST_INVALID_INPUT] The value '{CANARY}' cannot be cast. SQLSTATE: 22018", f"no idea about {CANARY}"],
    ids=["endpoint", "value", "unknown"],
)
@pytest.mark.parametrize("statement", [ASKING, r"SELECT count"])
def test_what_a_statement_says_of_rows_is_not_told(serving, score, deferrable, statement, error) -> None:
    serving.warehouses.clear()
    serving.warehouses.add("w1")
    serving.warehouses.answer(statement, error=error)
    result = score(deferrable=deferrable)
    assert result.state == "failed"
    assert "ended as FAILED: " in result.output
    assert CANARY not in result.output


@pytest.mark.parametrize("error", [BUSY, None])
def test_the_event_of_a_deferred_statement_has_no_value(serving, databricks, error) -> None:
    """Airflow logs events, and keeps them."""
    jobs = WorkspaceJobs(ModelRegistryHook(databricks).endpoint, 0.01)
    serving.warehouses.answer("SELECT 1", error=error)
    trigger = jobs.statement_trigger(jobs.send_statement("w1", "SELECT 1"), time.time() + 60)
    path, arguments = trigger.serialize()

    async def events():
        return [event async for event in import_string(path)(**arguments).run()]

    [event] = asyncio.run(events())
    assert CANARY not in str(event)
    state = jobs.statement_state(event.payload["state"])
    assert (state.is_successful, "[AI_FUNCTION_HTTP_REQUEST_ERROR] HTTP 400" in str(event)) == (not error, bool(error))


def test_a_statement_that_cannot_put_answers_in_place_drops_them(serving, score) -> None:
    serving.warehouses.answer(r"TABLE `prod`\.`ml_team`\.`scored` ", error="[PERMISSION_DENIED] no MODIFY")
    result = score()
    assert result.state == "failed"
    assert sent(serving)[-1] == "DROP TABLE IF EXISTS STAGING"


def test_a_retry_takes_the_answers_that_an_earlier_try_has_got(serving, score, monkeypatch) -> None:
    """A worker that dies leaves the table of answers behind; they are not paid for twice."""
    monkeypatch.setattr("airflow_uc_models.hooks.workspace_jobs._RETRY_LIMIT", 1)

    def answering(text):
        serving.tables.add(text.split(" ")[4].replace("`", ""), {"id": "string"})
        serving.faults.add("sql/statements/", method="GET", status=503)
        return Answer()

    serving.warehouses.answer(ASKING, answering)
    result = score(default_args=RETRY)
    assert result.state == "success"
    assert result.ti("score").try_number == 2
    assert sum("ai_query(" in text for text in sent(serving)) == 1


def test_answers_that_could_not_be_put_in_place_are_not_paid_for_twice(serving, score) -> None:
    """Another run writes at the same time."""

    def answering(text):
        serving.tables.add(text.split(" ")[4].replace("`", ""), {"id": "string"})
        return Answer()

    serving.warehouses.answer(ASKING, answering)
    serving.warehouses.answer(r"TABLE `prod`\.`ml_team`\.`scored` ", error="[DELTA_CONCURRENT_APPEND] busy", count=2)
    result = score(default_args={**RETRY, "retries": 1})
    assert (result.state, result.ti("score").try_number) == ("failed", 2)
    assert "The answers stay in" in result.output
    assert sum("ai_query(" in text for text in sent(serving)) == 1
    assert [text for text in sent(serving) if text.startswith("DROP")] == [sent(serving)[-1]], "after the last try"


@BOTH
def test_a_statement_whose_result_is_closed_has_succeeded(serving, score, deferrable) -> None:
    serving.warehouses.answer(ASKING, states=("PENDING", "CLOSED"))
    assert score(deferrable=deferrable).state == "success"


def test_the_end_that_the_trigger_has_seen_is_not_asked_for_again(serving, score) -> None:
    """A workspace forgets a statement hours after its end, and the task may wait that long for a worker."""
    assert score(deferrable=True).state == "success"
    asked, *_ = serving.warehouses
    assert len(serving.requests.find(asked.statement_id)) == len(["PENDING", "RUNNING", "SUCCEEDED"])


@pytest.mark.parametrize("is_served_later", [False, True])
def test_the_endpoint_must_serve_the_version_and_no_other(serving, score, is_served_later) -> None:
    if is_served_later:  # another answered while the statement ran

        def deploying(text):
            serving.endpoints.add("fraud", (NAME, 2))
            return Answer()

        serving.warehouses.answer(ASKING, deploying)
    else:
        serving.endpoints.add("fraud", (NAME, 1), ("prod.ml_team.other", 2))
    result = score(default_args=RETRY)
    assert (result.state, result.ti("score").try_number) == ("failed", 1)
    assert f"The endpoint fraud serves models:/{'prod.ml_team.fraud/2' if is_served_later else NAME}" in result.output
    asked = 1 if is_served_later else 0
    assert sum("ai_query(" in text for text in sent(serving)) == asked
    assert not [text for text in sent(serving) if "`scored` AS" in text]


def test_versions_without_traffic_do_not_matter(serving, score) -> None:
    serving.endpoints.add("fraud", (NAME, 1), (NAME, 2), traffic=[100, 0])
    assert score().state == "success"
    serving.endpoints.add("fraud", (NAME, 1), (NAME, 2), traffic=[90, 10])
    result = score()
    assert f"serves models:/{NAME}/1, models:/{NAME}/2, not models:/{NAME}/1 alone" in result.output


def test_an_endpoint_that_is_not_ready_is_a_matter_for_retries(serving, score) -> None:
    serving.endpoints.add("fraud", (NAME, 1), is_ready=False)
    result = score(default_args=RETRY)
    assert (result.state, result.ti("score").try_number) == ("failed", 3)
    assert "fraud is not ready (NOT_READY)" in result.output


def test_a_killed_task_cancels_its_statement(serving, score) -> None:
    hold = threading.Event()
    serving.warehouses.answer(ASKING, hold=hold)
    looked = serving.faults.add("sql/statements/.*-", method="GET", delay=0.01)
    began = time.monotonic()
    with killed_at(looked):
        result = score(engine_options={"poll_interval": 60})
    assert result.state == "failed"
    assert [statement.state for statement in serving.warehouses] == ["CANCELED"]
    assert time.monotonic() - began < 60, "it slept on"


def test_a_task_that_is_killed_while_it_asks_cancels_what_it_has_begun(serving, score) -> None:
    sent = serving.faults.add("sql/statements/?$", method="POST", hold=threading.Event())
    with killed_at(sent):
        assert score().state == "failed"
    assert [statement.state for statement in serving.warehouses] == ["CANCELED"]


@BOTH
def test_a_statement_that_takes_too_long_is_cancelled(serving, score, deferrable) -> None:
    serving.warehouses.answer(ASKING, hold=threading.Event())
    result = score(deferrable=deferrable, engine_options={"timeout_seconds": 1})
    assert result.state == "failed"
    assert "took" in result.output
    assert [statement.state for statement in serving.warehouses] == ["CANCELED"]


def test_the_principal_needs_the_endpoint_the_table_and_the_warehouse(serving, score, monkeypatch) -> None:
    user = may_score(serving, without=["SELECT"])
    monkeypatch.setenv("AIRFLOW_CONN_SCORER", connection_json(serving, user.token))
    serving.endpoints.add("fraud", (NAME, 1), users=[])
    assert "It needs CAN VIEW on the endpoint fraud" in score(conn_id="scorer").output
    serving.endpoints.add("fraud", (NAME, 1))
    assert "It needs SELECT on prod.ml_team.rows" in score(conn_id="scorer").output
    serving.grant(user, "SELECT", "prod.ml_team")
    serving.warehouses.add("w1", users=[])
    assert "It needs CAN USE on warehouse w1" in score(conn_id="scorer").output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"keep_columns": ["no"]}, "keep_columns names 'no', which prod.ml_team.rows does not have"),
        ({"input": "prod.ml_team.short"}, "has no column 'f0', 'f1'"),
        ({"input": "prod.ml_team.taken"}, "has the column 'prediction'"),
        ({"input": "prod.ml_team.wide"}, "'f0' is string, and the model asks for double; 'f1' is decimal(5,2), and"),
        ({"mode": "append", "output": "prod.ml_team.other"}, "has the columns x; this job would append id"),
        ({"mode": "append", "on_bad_rows": "quarantine"}, "`scored_bad_rows` has the columns x; this job would append"),
        ({"engine_options": {"warehouse_id": "nothing"}}, "nothing is not a valid endpoint id"),
        ({"engine_options": {"endpoint": "nothing"}}, "given endpoint does not exist"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_asked(serving, score, options, expected) -> None:
    serving.tables.add("prod.ml_team.short", {"id": "string"})
    serving.tables.add("prod.ml_team.taken", {"prediction": "double", "f0": "double", "f1": "int"})
    serving.tables.add("prod.ml_team.wide", {"id": "string", "f0": "string", "f1": "decimal(5,2)"})
    serving.tables.add("prod.ml_team.other", {"x": "double"})
    serving.tables.add("prod.ml_team.scored_bad_rows", {"x": "double"})
    result = score(**options)
    assert result.state == "failed"
    assert expected in result.output
    assert not sent(serving)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"loader": "databricks.feature_store.mlflow_model"}, "Score it with engine='databricks'"),
        ({"inputs": ""}, "has no signature with named input columns"),
        ({"inputs": '[{"type": "double"}]'}, "has no signature with named input columns"),
        ({"outputs": '[{"type": "any"}]'}, "for which SQL has no type"),
    ],
)
def test_models_that_a_statement_cannot_ask_are_refused(workspace, score, model, expected) -> None:
    add_model(workspace, **model)
    workspace.endpoints.add("fraud", (NAME, 1))
    workspace.tables.add("prod.ml_team.rows", {"f0": "double", "f1": "int"})
    result = score()
    assert result.state == "failed"
    assert expected in result.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"input": "/Volumes/a/b/c"}, "is a path; it takes tables"),
        ({"output": "ml_team.scored"}, "must be named catalog.schema.table"),
        ({"output": "prod.ml_team.`ROWS`"}, "is the input, too"),
        ({"engine_options": {"endpoint": None}}, "endpoint must be the name of a serving endpoint"),
        ({"engine_options": {"warehouse_id": "a b"}}, "warehouse_id must be the id"),
        ({"engine_options": {"schema": "x"}}, "'schema'; it knows"),
        ({"partition_by": ["day"]}, "partition_by is not among"),
        ({"env_manager": "uv"}, "env_manager must be left out"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_call(workspace, score, options, expected) -> None:
    result = score(**options)
    assert result.state == "failed"
    assert expected in result.output
    assert not len(workspace.requests)
