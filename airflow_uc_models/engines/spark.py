"""The engine ``spark``: a Spark session scores, on this worker or on a cluster.

The job itself is in spark_job.py, which also runs on Databricks; here are the session, the model's files and the
checks before the job.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_uc_models.engines import EngineCapabilities, InferenceJob, Scored, spark_job
from airflow_uc_models.engines.apart import refuse_overlap
from airflow_uc_models.engines.feature_store import refuse_feature_store
from airflow_uc_models.engines.job import ENV_MANAGERS, is_table
from airflow_uc_models.engines.local_plan import plan_of
from airflow_uc_models.engines.spark_csv import charsets
from airflow_uc_models.engines.spark_errors import explained, quiet
from airflow_uc_models.engines.spark_places import is_remote
from airflow_uc_models.engines.spark_plan import Source, open_input, tick
from airflow_uc_models.engines.spark_script import params_of, refuse_remote_folder
from airflow_uc_models.engines.spark_sessions import OPTIONS, REMOTE_WAYS, check_options, spark_session
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.environment import LOCAL, UV, VIRTUALENV, environment_of
from airflow_uc_models.environments.loading import require_pyfunc
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.hooks.artifacts import download_version, read_mlmodel
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.scratch import scratch_folder
from airflow_uc_models.writing import expect_writable_folder

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"
_CANCEL_SECONDS = 10.0


class SparkEngine:
    """Scores with Spark: a given session, or one that is made and stopped."""

    capabilities = EngineCapabilities(
        name="spark",
        paths=True,
        tables=True,
        formats=("parquet", "csv"),
        partition_by=True,
        batch_size=True,
        env_managers=ENV_MANAGERS,
        options=(*OPTIONS, "result_type"),
    )

    def __init__(self) -> None:
        self._spark: Any = None
        self._params: dict[str, Any] = {}

    def check(self, job: InferenceJob) -> None:
        """Raise InvalidArgumentError for places and options that cannot be meant, and for a worker without Spark."""
        for role, place in (("input", job.input), ("output", job.output)):
            if re.match(r"\w+://[^/]*@", place) and not place.startswith("abfs"):
                raise InvalidArgumentError(
                    f"The {role} {place} names an Airflow connection, which Spark does not know: it reaches storage "
                    "by its own settings. Leave out what is before the @."
                )
        refuse_overlap(job)
        check_options(job)
        if any(job.options.get(name) for name in REMOTE_WAYS):
            _check_remote(job)
        if job.env_manager == "uv" and shutil.which("uv") is None:
            raise InvalidArgumentError(
                "env_manager='uv' needs the command uv on the PATH of this worker, where mlflow looks for it."
            )
        _expect_writable(job)

    def start(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion) -> Scored:
        """Download the version, compare its signature with the input, and let Spark score."""
        started = time.monotonic()
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder("model"))
            files = download_version(hook, version, folder / "model")
            mlmodel = read_mlmodel(files, version.uri)
            refuse_feature_store(mlmodel, version.uri, "spark")
            require_pyfunc(mlmodel, version.uri)
            spark, is_given = stack.enter_context(spark_session(job, hook))
            # While there is a session: Spark's errors ask it for their text.
            stack.enter_context(explained(job, version.uri))
            stack.enter_context(quiet(spark))
            stack.enter_context(_batches_of(spark, job.batch_size))
            _refuse_passing_table(spark, job, is_given=is_given)
            stack.enter_context(charsets(spark, job.csv.to_json()))
            table: Any = _Table.of(open_input(spark, job.input, job.input_format, job.csv.to_json()))
            job = plan_of(job, table, mlmodel, version).job
            manager, reason = env_manager_of(job, files, version.uri, on_this_worker=_is_here(spark))
            self._params = {
                **params_of(job, version),
                "model_path": str(files),
                "env_manager": manager,
                "result_type": job.options.get("result_type"),
            }
            self._spark = spark
            stack.callback(self._forget)
            with _named(spark, self._name):
                told = spark_job.run(spark, self._params)
            details = {"spark_version": str(spark.version), "env_manager": manager, "env_reason": reason}
        return Scored(told["rows"], round(time.monotonic() - started, 3), told["bad_rows"], details)

    def cancel(self) -> None:
        """Interrupt Spark's jobs and remove what is written so far."""
        if self._spark is not None:
            # Not on this thread: it may be in the middle of a call to Spark.
            thread = threading.Thread(target=self._interrupt, args=(self._spark,), daemon=True)
            thread.start()
            thread.join(_CANCEL_SECONDS)

    def _forget(self) -> None:
        self._spark = None

    @property
    def _name(self) -> str:
        return f"airflow-{self._params['key']}"

    def _interrupt(self, spark: Any) -> None:
        with suppress(Exception):
            if is_remote(spark):
                spark.interruptTag(self._name)
            else:
                spark.sparkContext.cancelJobGroup(self._name)
        try:
            spark_job.clean(spark, self._params)
        except Exception as error:
            log.warning("The unfinished output stays until the next try: %s", error)


def _expect_writable(job: InferenceJob) -> None:
    """Try the folders around the outputs, where Spark writes to this worker's disk."""
    remote = any(job.options.get(name) for name in (*REMOTE_WAYS, "session"))
    if remote or is_table(job.output) or not str(job.options.get("master") or "local").startswith("local"):
        return
    active = getattr(sys.modules.get("pyspark.sql"), "SparkSession", None)
    session = active.getActiveSession() if active else None
    if session is not None and not _is_here(session):
        return
    for place in (job.output, job.bad_rows_output)[: 1 + job.quarantines]:
        location = place.removeprefix("file:").rstrip("/")
        if "://" not in place or place.startswith("file://"):
            folder = Path(f"/{location.lstrip('/')}" if place.startswith("file:") else location).absolute()
            expect_writable_folder(folder.parent, place)


def _check_remote(job: InferenceJob) -> None:
    """Raise InvalidArgumentError for what Spark Connect cannot do, before anything is downloaded."""
    if job.env_manager not in (None, LOCAL):
        raise InvalidArgumentError(
            f"Over Spark Connect, env_manager={job.env_manager!r} is not possible: the model runs in the environment "
            "of the cluster. Leave it out, or use engine='databricks'."
        )
    if not is_table(job.output):
        refuse_remote_folder(job)


def _refuse_passing_table(spark: Any, job: InferenceJob, *, is_given: bool) -> None:
    """Raise for a table that would be gone with the session that is made for the job."""
    if is_given or is_remote(spark) or not is_table(job.output) or job.output.count(".") > 1:
        return
    if spark.conf.get("spark.sql.catalogImplementation", "") == "in-memory":
        raise InvalidArgumentError(
            f"The output {job.output} would be gone when the session is stopped: its catalog is in memory. Write to a "
            "path, or set engine_options={'conf': {'spark.sql.catalogImplementation': 'hive'}} or another catalog."
        )


def env_manager_of(job: InferenceJob, files: Path, label: str, *, on_this_worker: bool) -> tuple[str, str]:
    """Return where the model's packages come from, and why.

    :param files: the model's
    :param on_this_worker: whether Spark runs here, with packages that can be looked at
    """
    if job.env_manager is not None:
        return job.env_manager, "env_manager says so"
    if not on_this_worker:
        return LOCAL, "what the cluster has cannot be compared with what the model asks for"
    environment = environment_of(files, None, label)
    manager = environment.manager
    if manager == UV and shutil.which(UV) is None:  # mlflow looks for it on the PATH only
        manager = VIRTUALENV
    return manager, environment.reason


def _is_here(spark: Any) -> bool:
    return not is_remote(spark) and str(spark.sparkContext.master).startswith("local")


@dataclass(frozen=True)
class _Table:
    """Spark's input as the engine ``local`` looks at its own, so that both make the same checks."""

    schema: pa.Schema
    is_csv: bool

    @classmethod
    def of(cls, source: Source) -> _Table:
        import pyarrow as pa

        found = source.frame.select(*(source.frame[tick(name)] for name in source.columns)).limit(0).toArrow().schema
        # Spark gives its times to Python as the clock shows them in the session's time zone.
        fields = [pa.field(f.name, pa.timestamp("us") if pa.types.is_timestamp(f.type) else f.type) for f in found]
        return cls(pa.schema(fields), source.is_csv)

    def typed(self, types: Mapping[str, pa.DataType | None] | None) -> _Table:
        import pyarrow as pa

        if not self.is_csv or types is None:
            return self
        flat = {name: wanted for name, wanted in types.items() if wanted and not pa.types.is_nested(wanted)}
        return replace(self, schema=pa.schema([(name, flat.get(name, pa.string())) for name in self.schema.names]))


@contextmanager
def _named(spark: Any, name: str) -> Iterator[None]:
    """Let Spark know this thread's jobs by a name, so that another thread can end them."""
    if is_remote(spark):
        spark.addTag(name)
        try:
            yield
        finally:
            spark.removeTag(name)
        return
    # Not a tag: without Spark Connect, those of a thread are its own.
    context, names = spark.sparkContext, ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")
    before = {key: context.getLocalProperty(key) for key in names}
    context.setJobGroup(name, "Batch inference", interruptOnCancel=True)
    try:
        yield
    finally:
        with suppress(Exception):  # Java may be gone
            for key, value in before.items():
                context.setLocalProperty(key, value)


@contextmanager
def _batches_of(spark: Any, rows: int | None) -> Iterator[None]:
    """Let Spark give Python so many rows at once."""
    if rows is None:
        yield
        return
    before = spark.conf.get(_BATCH)
    spark.conf.set(_BATCH, str(rows))
    try:
        yield
    finally:
        with suppress(Exception):  # Java may be gone
            spark.conf.set(_BATCH, before)
