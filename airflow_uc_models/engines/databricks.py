"""The engine ``databricks``: a one-time run on serverless compute of the workspace that has the model.

What runs there is the script of the engine ``spark``, as a notebook, in an environment of the packages that the model
pins. The run's idempotency token is made of the work it does: a retry finds the run that an earlier try has begun.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_uc_models.engines import Ended, EngineCapabilities, InferenceJob, Scored, Waiting, options
from airflow_uc_models.engines.apart import refuse_overlap
from airflow_uc_models.engines.databricks_environment import environment_of
from airflow_uc_models.engines.feature_store import is_feature_store_model
from airflow_uc_models.engines.job import is_table
from airflow_uc_models.engines.model_params import checked_params
from airflow_uc_models.engines.series import series
from airflow_uc_models.engines.signature_check import check_signature
from airflow_uc_models.engines.spark_places import VOLUMES
from airflow_uc_models.engines.spark_script import params_of, refuse_remote_folder, script
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.loading import require_pyfunc
from airflow_uc_models.exceptions import (
    InputDataError,
    InvalidArgumentError,
    ModelContentError,
    PermissionDeniedError,
    PredictionError,
    UCModelsError,
)
from airflow_uc_models.hooks.artifacts import version_mlmodel
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.workspace import put_notebook
from airflow_uc_models.hooks.workspace_jobs import WorkspaceJobs
from airflow_uc_models.signatures import Signature
from airflow_uc_models.spark_failures import Failure, Kind

log = logging.getLogger(__name__)

_LAST_CELL = """
# COMMAND ----------

import json

dbutils.notebook.exit(json.dumps(run(spark, json.loads(dbutils.widgets.get("params")))))
"""
_PLACES = re.compile(r"/Volumes/[^/]+/[^/]+/.+|(s3|s3a|abfss|gs|wasbs|r2|dbfs)://?.+")
_TASK, _ENVIRONMENT = "score", "model"
_POLL_SECONDS = 30.0
_MOST_TRACE = 4_000
_MOST_RUNS = 100


class DatabricksEngine:
    """Scores in the workspace of the connection, on serverless compute."""

    capabilities = EngineCapabilities(
        name="databricks",
        paths=True,
        tables=True,
        formats=("parquet", "csv"),
        partition_by=True,
        options=("environment_version", "dependencies", "timeout_seconds", "notebook_folder", "poll_interval"),
        workspace=True,
    )

    def __init__(self) -> None:
        self._jobs: WorkspaceJobs | None = None
        self._run_id: int | None = None
        self._is_cancelled = False

    def check(self, job: InferenceJob) -> None:
        """Raise InvalidArgumentError for places that the workspace cannot reach, and for wrong options."""
        for role, place in (("input", job.input), ("output", job.output)):
            if not is_table(place) and not _PLACES.fullmatch(place):
                raise InvalidArgumentError(
                    f"A Databricks workspace does not reach the {role} {place}: give a table, a path below /Volumes, "
                    "or the URI of a cloud's storage."
                )
            if re.match(r"(s3a?|gs|r2)://[^/]*@", place):
                raise InvalidArgumentError(
                    f"The {role} {place} names an Airflow connection; the workspace reaches storage by its own "
                    "credentials. Leave out what is before the @."
                )
        refuse_overlap(job)
        if not is_table(job.output) and not job.output.startswith(VOLUMES):
            refuse_remote_folder(job)  # serverless compute is Spark Connect
        _Settings(job)

    def start(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion) -> Scored | Waiting:
        """Submit the run, or find the one that an earlier try submitted; wait for it or let a trigger do so."""
        settings = _Settings(job)
        self._jobs = jobs = WorkspaceJobs(hook.endpoint, settings.poll_interval)
        mlmodel = version_mlmodel(hook, version)
        require_pyfunc(mlmodel, version.uri)
        job = replace(job, params=checked_params(Signature.of_mlmodel(mlmodel), job.params, version.uri))
        if not is_feature_store_model(mlmodel):  # which takes keys, that no signature tells
            check_signature(mlmodel, job, version.uri)
        elif job.params:
            raise InvalidArgumentError(
                f"{version.uri} looks its features up; score_batch takes no params. Leave them out."
            )
        source = notebook_source()
        name = f"batch_inference_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
        path = put_notebook(hook.endpoint, name, source, settings.notebook_folder)
        environment = environment_of(hook, version, mlmodel, settings.environment_version, settings.dependencies)
        parameters = parameters_of(job, version, hook.endpoint.mlflow.registry_uri, mlmodel)
        spec = _spec(job, version, path, environment, parameters, settings.timeout_seconds)
        run = self._submit(jobs, spec, _digest(parameters, environment))
        log.info("Run %s scores on Databricks: %s", run["run_id"], run["run_page_url"])
        if job.deferrable and not jobs.state_of(run).is_terminal:
            self._run_id = None  # it goes on when this process ends
            run_id, page = run["run_id"], run["run_page_url"]
            return Waiting(jobs.run_trigger(run_id, page), {"run_id": run_id, "run_page_url": page})
        return self._finish(jobs, jobs.wait_for_run(run["run_id"]), version)

    def resume(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion, ended: Ended) -> Scored:
        """Read what the run has told at its end."""
        jobs = WorkspaceJobs(hook.endpoint, _Settings(job).poll_interval)
        return self._finish(jobs, jobs.run(int(ended.state["run_id"])), version)

    def cancel(self) -> None:
        """Cancel the run."""
        self._is_cancelled = True
        if self._jobs is not None and self._run_id is not None:
            run_id, self._run_id = self._run_id, None
            try:
                self._jobs.cancel_run(run_id)
            except UCModelsError as error:
                log.warning("Run %s goes on: %s", run_id, error)

    def _submit(self, jobs: WorkspaceJobs, spec: dict[str, Any], digest: str) -> dict[str, Any]:
        """Return a run that has not failed, unless it is one of this try.

        A workspace hands out the run of a token for ever, so the run of a try that failed needs another token.
        """
        for attempt in range(_MOST_RUNS):
            token = hashlib.sha256(f"{digest} {attempt}".encode()).hexdigest()
            self._run_id = run_id = jobs.submit_run({**spec, "idempotency_token": token})
            if self._is_cancelled:  # while it was submitted
                self.cancel()
            run = jobs.run(run_id)
            is_new = run.get("run_name") == spec["run_name"]
            if not is_new and jobs.state_of(run).life_cycle_state == "TERMINATING":  # cancelled with its task
                run = jobs.wait_for_run(run_id)
            state = jobs.state_of(run)
            if is_new or not state.is_terminal or state.is_successful:
                if not is_new:
                    log.info("An earlier try has begun run %s; going on with it", run_id)
                return run
        raise PredictionError(f"{_MOST_RUNS} runs of this task have failed, the last of them {run['run_page_url']}.")

    def _finish(self, jobs: WorkspaceJobs, run: Mapping[str, Any], version: ModelVersion) -> Scored:
        self._run_id = None
        state = jobs.state_of(run)
        output = jobs.run_output(int(run["tasks"][-1]["run_id"])) if run.get("tasks") else {}
        where = f"Run {run['run_id']} of {version.uri} ({run.get('run_page_url')})"
        if not state.is_successful:
            raise _failure(where, state, output)
        told = (output.get("notebook_output") or {}).get("result")
        try:
            result = json.loads(told or "")
            rows, bad_rows = int(result["rows"]), int(result.get("bad_rows") or 0)
        except (TypeError, ValueError, KeyError):
            raise PredictionError(f"{where} succeeded, but did not tell how many rows it scored.") from None
        began, ended = run.get("start_time") or 0, run.get("end_time") or 0
        details = {"run_id": run["run_id"], "run_page_url": run.get("run_page_url")}
        return Scored(rows, round(max(0, ended - began) / 1000, 3), bad_rows, details)


class _Settings:
    """The engine options, checked."""

    def __init__(self, job: InferenceJob) -> None:
        self.environment_version = options.text(
            job, "environment_version", r"[1-9]\d*", "the number of a serverless environment version, such as '4'"
        )
        self.dependencies = options.names(job, "dependencies", "a list of requirements as pip takes them")
        self.timeout_seconds = int(options.number(job, "timeout_seconds", 0))
        self.notebook_folder = options.text(
            job, "notebook_folder", r"/[^/].*", "a folder of the workspace, such as '/Shared/airflow'"
        )
        self.poll_interval = options.number(job, "poll_interval", _POLL_SECONDS, least=0.01)


def notebook_source() -> str:
    """Return the notebook: the script, and a cell that exits with what its ``run`` returns."""
    return f"{script()}\n{_LAST_CELL}"


def parameters_of(
    job: InferenceJob, version: ModelVersion, registry_uri: str, mlmodel: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the script is told."""
    return {
        "model_uri": version.uri,
        "registry_uri": registry_uri,
        **params_of(job, version),
        "env_manager": "local",
        "score_batch": is_feature_store_model(mlmodel),
    }


def _spec(
    job: InferenceJob,
    version: ModelVersion,
    path: str,
    environment: dict[str, Any],
    parameters: dict[str, Any],
    timeout_seconds: int,
) -> dict[str, Any]:
    task = {
        "task_key": _TASK,
        "environment_key": _ENVIRONMENT,
        "notebook_task": {"notebook_path": path, "base_parameters": {"params": json.dumps(parameters)}},
    }
    spec: dict[str, Any] = {
        # The time tells a run of this try from one of an earlier try.
        "run_name": f"Score {job.input} with {version.uri} ({job.scored_at.isoformat()})",
        "tasks": [task],
        "environments": [{"environment_key": _ENVIRONMENT, "spec": environment}],
    }
    return {**spec, "timeout_seconds": timeout_seconds} if timeout_seconds else spec


def _digest(parameters: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Return what all tries of a task have in common, and other work has not."""
    work = {key: value for key, value in parameters.items() if key != "scored_at"}
    return hashlib.sha256(json.dumps([work, environment, series()], sort_keys=True).encode()).hexdigest()


# Where a Python trace stands, in the two ways in which notebooks write it.
_FRAME = re.compile(r"^ *(?:File \"[^\"\n]+\", line \d+, in [\w<>]+|File [\w~./<>-]+:\d+, in [\w<>.]+)", re.MULTILINE)


def _failure(where: str, state: Any, output: Mapping[str, Any]) -> UCModelsError:
    """Return the error of a run that did not succeed; of what the run says, only what has no value of a row."""
    trace, said = str(output.get("error_trace") or ""), str(output.get("error") or "")
    if frames := _FRAME.findall(trace):
        log.error("The run failed in:\n%s", "\n".join(frames)[-_MOST_TRACE:])
    failure = Failure.of_text(said)
    # The workspace's own words, where the script has not raised.
    platform = "" if said else str(state.state_message or "")
    kind = replace(failure, text=f"{said}\n{trace}").kind if said else Failure.of_text(platform).kind
    message = f"{where} ended as {state.result_state or state.life_cycle_state}: "
    message += failure.told or platform or "no reason given"
    kinds: dict[Kind, type[UCModelsError]] = {
        Kind.DENIED: PermissionDeniedError,
        Kind.LOADING: ModelContentError,
        Kind.INPUT: InputDataError,
        Kind.REFUSED: InputDataError,
    }
    return kinds.get(kind, PredictionError)(message)
