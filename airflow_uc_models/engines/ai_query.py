"""The engine ``ai_query``: a SQL warehouse asks a serving endpoint about each row of a table."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from airflow_uc_models.engines import Ended, EngineCapabilities, InferenceJob, Scored, Waiting, options
from airflow_uc_models.engines.ai_query_sql import Scoring, fits, literal, sql_type
from airflow_uc_models.engines.apart import refuse_overlap
from airflow_uc_models.engines.feature_store import refuse_feature_store
from airflow_uc_models.engines.job import REASON_COLUMN, RUN_COLUMN
from airflow_uc_models.engines.series import has_more_tries, series
from airflow_uc_models.engines.spark_plan import quoted, table_parts
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import (
    InputDataError,
    InvalidArgumentError,
    ModelContentError,
    NotFoundError,
    PermissionDeniedError,
    PredictionError,
    UCModelsError,
)
from airflow_uc_models.hooks.artifacts import version_mlmodel
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.workspace import served_versions, statement_rows, table_columns
from airflow_uc_models.hooks.workspace_jobs import WorkspaceJobs
from airflow_uc_models.signatures import Field, Signature, type_name
from airflow_uc_models.spark_failures import Failure, Kind

log = logging.getLogger(__name__)

_POLL_SECONDS, _TIMEOUT_SECONDS = 10.0, 24 * 3600.0


class AiQueryEngine:
    """Scores in a serving endpoint, which has to serve the very version that the job is to use."""

    capabilities = EngineCapabilities(
        name="ai_query",
        tables=True,
        params=False,
        options=("endpoint", "warehouse_id", "timeout_seconds", "poll_interval"),
        workspace=True,
    )

    def __init__(self) -> None:
        self._jobs: WorkspaceJobs | None = None
        self._statement_id: str | None = None
        self._is_cancelled = False

    def check(self, job: InferenceJob) -> None:
        """Raise InvalidArgumentError for tables that are not named in full, and for wrong options."""
        for role, table in (("input", job.input), ("output", job.output)):
            if len(table_parts(table)) != 3:
                raise InvalidArgumentError(f"The {role} must be named catalog.schema.table, not {table}.")
        refuse_overlap(job)
        _Settings(job)

    def start(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion) -> Scored | Waiting:
        """Compare model, endpoint and tables; then ask, unless an earlier try has got all answers."""
        settings = _Settings(job)
        self._jobs = jobs = WorkspaceJobs(hook.endpoint, settings.poll_interval)
        signature = _signature(version_mlmodel(hook, version), version.uri)
        _check_served(hook.endpoint, settings.endpoint, version)
        scoring = _scoring(job, hook.endpoint, version, signature, settings)
        began = time.time()
        if _columns(hook.endpoint, scoring.staging) is not None:
            log.info("An earlier try has got the answers; going on with %s", scoring.staging)
            return self._finish(job, hook, version, scoring, began)
        self._statement_id = statement_id = jobs.send_statement(settings.warehouse_id, scoring.score())
        log.info("Statement %s asks the endpoint %s", statement_id, settings.endpoint)
        if self._is_cancelled:  # while it was sent
            self.cancel()
        deadline = began + settings.timeout_seconds
        if job.deferrable:
            self._statement_id = None  # it goes on when this process ends
            state = {"statement_id": statement_id, "scoring": asdict(scoring), "began": began}
            return Waiting(jobs.statement_trigger(statement_id, deadline), state)
        _expect_success(jobs.wait_for_statement(statement_id, deadline), statement_id, settings.endpoint)
        return self._finish(job, hook, version, scoring, began)

    def resume(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion, ended: Ended) -> Scored:
        """Take the answers over into the output."""
        settings = _Settings(job)
        self._jobs = jobs = WorkspaceJobs(hook.endpoint, settings.poll_interval)
        statement_id = str(ended.state["statement_id"])
        if (ended.event.get("error") or {}).get("error_code") == "TIMEOUT":
            raise PredictionError(f"Statement {statement_id} took longer than {settings.timeout_seconds:g} seconds.")
        # The trigger has seen the end; a workspace forgets statements within hours.
        _expect_success(jobs.statement_state(ended.event["state"]), statement_id, settings.endpoint)
        return self._finish(job, hook, version, Scoring(**ended.state["scoring"]), ended.state["began"])

    def cancel(self) -> None:
        """Cancel the statement that is under way."""
        self._is_cancelled = True
        if self._jobs is not None and self._statement_id is not None:
            statement_id, self._statement_id = self._statement_id, None
            try:
                self._jobs.cancel_statement(statement_id)
            except UCModelsError as error:
                log.warning("Statement %s goes on: %s", statement_id, error)

    def _finish(
        self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion, scoring: Scoring, began: float
    ) -> Scored:
        keeps = has_more_tries()
        try:
            _check_served(hook.endpoint, scoring.endpoint, version)  # that another has answered meanwhile
            [counts] = statement_rows(hook.endpoint, self._run(job, scoring.count()))
            rows, bad_rows = map(int, counts)
            if bad_rows and not rows:  # it is no matter of single rows, and an earlier output is worth more than none
                keeps = False
                raise PredictionError(
                    f"None of the {bad_rows:,} rows of the input could be scored. {self._first(job, hook, scoring)}"
                )
            if scoring.bad_rows:
                existing = _columns(hook.endpoint, scoring.bad_rows)
                for statement in scoring.put_aside(existing, bad_rows):
                    self._run(job, statement)
            for statement in scoring.publish(_columns(hook.endpoint, scoring.target)):
                self._run(job, statement)
            keeps = False
        except UCModelsError as error:
            keeps = keeps and not error.permanent
            raise
        finally:
            if keeps:
                log.warning("The answers stay in %s for the next try", scoring.staging)
            else:
                self._drop(job, scoring)
        details = {"endpoint": scoring.endpoint}
        return Scored(rows, round(time.time() - began, 3), bad_rows, details)

    def _first(self, job: InferenceJob, hook: ModelRegistryHook, scoring: Scoring) -> str:
        rows = statement_rows(hook.endpoint, self._run(job, scoring.first_reason()))
        told = Failure.of_text(str(rows[0][0] or "")).told if rows else ""
        return f"The first one: {told}." if told else "What is wrong with them may quote rows, and is not told here."

    def _run(self, job: InferenceJob, statement: str) -> str:
        """Carry out a statement that asks nobody, and return its id."""
        settings, jobs = _Settings(job), self._jobs
        assert jobs is not None  # noqa: S101 - set by start and resume
        self._statement_id = found = jobs.send_statement(settings.warehouse_id, statement)
        state = jobs.wait_for_statement(found, time.time() + settings.timeout_seconds)
        self._statement_id = None
        _expect_success(state, found, settings.endpoint)
        return found

    def _drop(self, job: InferenceJob, scoring: Scoring) -> None:
        try:
            self._run(job, scoring.drop())
        except UCModelsError as error:
            log.warning("The table %s with answers is left behind: %s", scoring.staging, error)


class _Settings:
    """The engine options, checked."""

    def __init__(self, job: InferenceJob) -> None:
        endpoint = options.text(job, "endpoint", r"[\w-]+", "the name of a serving endpoint", needed=True)
        warehouse = options.text(job, "warehouse_id", r"[\w-]+", "the id of a SQL warehouse", needed=True)
        self.endpoint, self.warehouse_id = str(endpoint), str(warehouse)
        self.timeout_seconds = options.number(job, "timeout_seconds", _TIMEOUT_SECONDS, least=1)
        self.poll_interval = options.number(job, "poll_interval", _POLL_SECONDS, least=0.01)


def _signature(mlmodel: Mapping[str, Any], uri: str) -> Signature:
    """Return a signature that names what is asked and what is answered."""
    refuse_feature_store(mlmodel, uri, "ai_query")
    signature = Signature.of_mlmodel(mlmodel) or Signature()
    if not signature.inputs or not signature.outputs or not all(field.column for field in signature.inputs):
        raise ModelContentError(
            f"{uri} has no signature with named input columns and outputs; ai_query takes the names of its request and "
            "the type of the answer from there. Log the model with one, or score with engine='databricks'."
        )
    return signature


def _check_served(endpoint: Endpoint, name: str, version: ModelVersion) -> None:
    """Raise unless the endpoint answers with this version and no other."""
    served = served_versions(endpoint, name)
    if set(served) != {(version.name.lower(), str(version.version))}:
        listed = ", ".join(f"models:/{model}/{number}" for model, number in served) or "nothing yet"
        raise InvalidArgumentError(
            f"The endpoint {name} serves {listed}, not {version.uri} alone. Let it serve that version, or score with "
            "engine='databricks'."
        )


def _scoring(
    job: InferenceJob, endpoint: Endpoint, version: ModelVersion, signature: Signature, settings: _Settings
) -> Scoring:
    """Compare the tables with the model, and return what is to be done."""
    columns = table_columns(endpoint, _full_name(job.input))
    kept = list(columns) if job.keep_columns is None else list(job.keep_columns)
    catalog, schema, table = table_parts(job.output)
    made = {
        "model_name": literal(version.name),
        "model_version": f"CAST({version.version} AS BIGINT)",
        "scored_at": f"TIMESTAMP{literal(job.scored_at.isoformat())}",
    }
    request = _request(signature.inputs or (), columns, job.input)
    work = [job.input, version.uri, job.key, settings.endpoint, kept, request, job.on_bad_rows, series()]
    digest = hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]
    scoring = Scoring.of(
        signature.outputs or (),
        endpoint=settings.endpoint,
        source=quoted(job.input),
        target=quoted(job.output),
        bad_rows=quoted(job.bad_rows_output) if job.quarantines else None,
        staging=quoted(f"`{catalog}`.`{schema}`.`{table}__airflow_{digest}`"),
        request=request,
        kept=kept,
        values=[(column, made[column]) for column in job.metadata_columns],
        key=job.key if job.appends else None,
    )
    _check_columns(scoring, columns, job)
    if job.appends:
        _check_existing(endpoint, scoring.target, [*kept, *scoring.added])
        if scoring.bad_rows:
            _check_existing(endpoint, scoring.bad_rows, [*kept, REASON_COLUMN, RUN_COLUMN])
    return scoring


def _request(inputs: Sequence[Field], columns: Mapping[str, str], table: str) -> list[tuple[str, str]]:
    """Return the fields of the request with their types; InputDataError lists what the table lacks."""
    known = {column.lower() for column in columns}
    if missing := [str(field.name) for field in inputs if field.required and str(field.name).lower() not in known]:
        raise InputDataError(
            f"The table {table} has no column {', '.join(map(repr, missing))}, for which the model asks. "
            f"It has: {', '.join(columns)}."
        )
    types = {column.lower(): kind for column, kind in columns.items()}
    if unlike := [
        f"{str(field.name)!r} is {found}, and the model asks for {type_name(field.type)}"
        for field in inputs
        if (found := types.get(str(field.name).lower())) and not fits(field.type, found)
    ]:  # a cast in SQL would cut digits off without a word
        raise InputDataError(f"The columns of {table} do not fit the model: {'; '.join(unlike)}.")
    return [(str(field.name), sql_type(field.type)) for field in inputs if str(field.name).lower() in known]


def _check_columns(scoring: Scoring, columns: Mapping[str, str], job: InferenceJob) -> None:
    known, kept = {column.lower() for column in columns}, {column.lower() for column in scoring.kept}
    if unknown := [column for column in scoring.kept if column.lower() not in known]:
        raise InvalidArgumentError(
            f"keep_columns names {', '.join(map(repr, unknown))}, which {job.input} does not have. "
            f"It has: {', '.join(columns)}."
        )
    added = scoring.added + ([REASON_COLUMN] if scoring.bad_rows else [])
    if both := [column for column in added if column.lower() in kept]:
        raise InvalidArgumentError(
            f"The input has the column {', '.join(map(repr, both))}, and the output bears that name already. Name the "
            "columns to keep with keep_columns."
        )


def _check_existing(endpoint: Endpoint, table: str, columns: Iterable[str]) -> None:
    """Raise if rows with these columns cannot be appended to a table."""
    existing = _columns(endpoint, table)
    if existing is None:
        return
    found, wanted = {column.lower() for column in existing}, {column.lower() for column in columns}
    if found != wanted:
        raise InvalidArgumentError(
            f"The table {table} has the columns {', '.join(existing)}; this job would append "
            f"{', '.join(columns)}. Write to another table, or make them the same."
        )


def _columns(endpoint: Endpoint, table: str) -> list[str] | None:
    """Return the columns of a quoted table; None if there is no such table."""
    try:
        return list(table_columns(endpoint, _full_name(table)))
    except NotFoundError:
        return None


def _full_name(table: str) -> str:
    return ".".join(table_parts(table)).lower()


def _expect_success(state: Any, statement_id: str, endpoint: str) -> None:
    """Raise for a statement that did not succeed; the error tells whether a retry can help."""
    if state.is_successful or state.state == "CLOSED":  # successful, too, some time ago
        return
    failure = Failure.of_text(str(state.error_message or ""))
    message = f"Statement {statement_id} ended as {state.state}: {failure.told or _told_code(state)}"
    if failure.kind is Kind.DENIED:
        needed = f"CAN QUERY on the endpoint {endpoint}, SELECT on the input, CREATE TABLE and MODIFY for the output"
        raise PermissionDeniedError(f"{message} It needs {needed}.")
    raise InputDataError(message) if failure.kind is Kind.INPUT else PredictionError(message)


def _told_code(state: Any) -> str:
    """Return what is told of a failure without a condition: its text may quote rows."""
    code = str(state.error_code or "")
    return f"{code if re.fullmatch(r'[A-Z_]+', code) else 'no condition given'}; the query's page has the rest"
