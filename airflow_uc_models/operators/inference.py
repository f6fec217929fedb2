"""The operator that scores a table with a model version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_uc_models.compat import conf
from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.exceptions import InvalidArgumentError, ModelVersionFailedError
from airflow_uc_models.names import ModelRef
from airflow_uc_models.operators.base import ModelRegistryOperator, fail_without_retry
from airflow_uc_models.results import publish

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.engines import InferenceEngine, InferenceJob, Scored
    from airflow_uc_models.entities import ModelVersion

_UNSET = (None, "", "None")  # also what a template may leave


class BatchInferenceOperator(ModelRegistryOperator):
    """Score a table with one model version and write it, with predictions, to another.

    The version that ``model_uri`` names is looked up once; an alias that moves meanwhile changes nothing. Before the
    first row, the input's columns are compared with the model's signature: columns that the signature does not have
    are left to the output, numbers are widened where no digit is lost (such as ``int64`` for ``double``), anything
    else that does not fit ends the task, with a list of it all. CSV columns are read as the types that the signature
    asks for, all others as text.

    The output appears when it is complete, whatever the engine; if the task fails, what was at ``output`` before is
    unchanged. If the task is repeated in the same Dag run, its own output is replaced and nothing else.

    The prediction is the column ``prediction``; a model that returns several columns gives them their names.

    ==============  =========================================================  =====================================
    ``engine``      scores                                                     ``input`` and ``output``
    ==============  =========================================================  =====================================
    ``local``       on this worker, streaming, so that memory does not grow;   files; row order is kept
                    in one process or several
    ``spark``       with ``mlflow.pyfunc.spark_udf`` on a Spark session:       files or tables, as Spark reaches
                    local, Spark Connect or Databricks Connect                 them
    ``databricks``  in a one-time run on serverless compute of the workspace   tables, volumes, cloud storage
    ``ai_query``    by a SQL warehouse, which asks a serving endpoint          tables
    ==============  =========================================================  =====================================

    ``engine_options``, all optional but for ``ai_query``:

    * ``local``: ``workers`` (processes that have the model).
    * ``spark``: one of ``session`` (dotted path of a function that returns one), ``master`` (such as ``local[2]``),
      ``remote`` (``sc://host:port``), ``remote_conn_id`` (connection with the address, and the token as password) and
      ``databricks_connect`` (True); ``conf`` (dict); ``result_type`` (Spark SQL type of the prediction, for models
      without a signature of outputs). By default the active session, or a new one.
    * ``databricks``: ``environment_version``, ``dependencies`` (list of further requirements), ``timeout_seconds``,
      ``notebook_folder``, ``poll_interval`` (seconds).
    * ``ai_query``: ``endpoint`` and ``warehouse_id``; ``timeout_seconds``, ``poll_interval``. The endpoint must serve
      the version that ``model_uri`` names, and no other.

    What an engine cannot do is refused before anything is asked of anybody.

    ``params`` (dict, templated) are the parameters of inference that the model's signature has; others have their
    defaults. They are compared with the signature before any work. Params of the Dag are not given to the model.

    XCom: ``{"name", "version", "model_uri", "engine", "input", "output", "rows", "seconds", "bad_rows",
    "bad_rows_output"}`` and what the engine adds; ``model_uri`` is the version that was used, as
    ``models:/<name>/<version>``; ``bad_rows_output`` is None if there were none.

    Raises: no such version or alias, or one that is not READY; no signature; an input that is missing, unreadable, or
    does not fit the signature; files with different columns in one folder; a model that fails on a row.

    Models that look their features up (databricks-feature-engineering) are scored by the engine ``databricks`` only,
    with ``score_batch``.

    Privileges: Unity Catalog: EXECUTE on the model, USE CATALOG and USE SCHEMA above it. MLflow basic auth: READ.
    ``databricks``: also SELECT on the input table, CREATE TABLE in the output's schema or MODIFY on the output, and
    serverless compute, CAN EDIT on the folder of the notebook; ``ai_query``: these on both tables, CAN USE on the
    warehouse, CAN VIEW and CAN QUERY on the endpoint.
    Registries: all; ``databricks`` and ``ai_query`` take models in Unity Catalog on Databricks only.

    :param model_uri: ``models:/catalog.schema.model@alias`` or ``models:/catalog.schema.model/version``
        (str, templated)
    :param input: a file, a folder of files of one kind, the URI of either as ObjectStoragePath takes it, such as
        ``s3://conn_id@bucket/folder``, or a table, as the engine takes it (str, templated as ``input_path``)
    :param output: path, URI or table to write, not in the input folder; for the engine ``local`` a Parquet file ending
        in ``.parquet``, or a folder if ``mode`` is ``append``; ``a.b`` and ``a.b.c`` name tables, ``./a.b`` a file
        (str, templated as ``output_path``)
    :param engine: where to score, see above (str, templated)
    :param engine_options: what only this engine knows (dict, templated)
    :param env_manager: where the model's packages come from: ``local`` is this worker's own, ``uv`` and
        ``virtualenv`` build an environment of what the model pins, once per version; by default ``local`` if it has
        what the model asks for (str, templated)
    :param mode: ``overwrite`` replaces the output; ``append`` adds to the output of other Dag runs (str, templated)
    :param partition_by: columns by which the output is partitioned (list of str, templated)
    :param on_bad_rows: ``fail``; or ``quarantine``: rows that the model cannot take go to a side output beside
        ``output``, with the reason (str, templated)
    :param input_format: ``parquet`` or ``csv``, if the file names do not tell it (str, templated)
    :param csv_options: how CSV files of the input are written: delimiter, quote, escape, encoding, decimal, null values
        (CsvOptions, or a dict of its fields, templated)
    :param batch_size: rows that the model is given at once (int or str, templated; default is the engine's)
    :param keep_columns: input columns that the output has, too, such as its keys (list of str, templated; default all)
    :param metadata_columns: True for ``model_name``, ``model_version`` and ``scored_at`` in each row of the output; or
        a list of some of them (bool or list of str, templated)
    :param signature_required: refuse a model that has no signature to compare the input with (bool; default True)
    :param deferrable: leave the worker while the job runs elsewhere (bool; default from Airflow's configuration)
    """

    # BaseOperator.output is the XCom of the task, hence the other attribute names.
    field_parameters: ClassVar[Mapping[str, str]] = {"input_path": "input", "output_path": "output"}
    template_fields: Sequence[str] = (
        *ModelRegistryOperator.template_fields,
        "model_uri",
        "input_path",
        "output_path",
        "engine",
        "engine_options",
        "env_manager",
        "mode",
        "partition_by",
        "on_bad_rows",
        "input_format",
        "csv_options",
        "batch_size",
        "keep_columns",
        "metadata_columns",
    )

    def __init__(
        self,
        *,
        model_uri: str,
        input: str,  # noqa: A002 - the name that users expect beside output
        output: str,
        engine: str = "local",
        engine_options: Mapping[str, Any] | None = None,
        env_manager: str | None = None,
        mode: str = "overwrite",
        partition_by: Sequence[str] | None = None,
        on_bad_rows: str = "fail",
        input_format: str | None = None,
        csv_options: CsvOptions | Mapping[str, Any] | None = None,
        batch_size: int | str | None = None,
        keep_columns: Sequence[str] | None = None,
        metadata_columns: bool | str | Sequence[str] = False,
        signature_required: bool = True,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_uri = model_uri
        self.input_path = input
        self.output_path = output
        self.engine = engine
        self.engine_options = engine_options
        self.env_manager = env_manager
        self.mode = mode
        self.partition_by = partition_by
        self.on_bad_rows = on_bad_rows
        self.input_format = input_format
        self.csv_options = csv_options
        self.batch_size = batch_size
        self.keep_columns = keep_columns
        self.metadata_columns = metadata_columns
        self.signature_required = signature_required
        self.deferrable = deferrable
        self._running: InferenceEngine | None = None

    def perform(self, context: Context) -> dict[str, Any]:
        """Score, with the version that the reference names now."""
        from airflow_uc_models.engines import Waiting, engine_of
        from airflow_uc_models.registry.registration import resolve

        reference = ModelRef.parse(self.model_uri)
        engine, job = engine_of(self.engine), self._job(context, datetime.now(UTC))
        engine.capabilities.check(job)
        engine.check(job)
        if engine.capabilities.workspace:
            from airflow_uc_models.hooks.workspace import workspace_auth

            workspace_auth(self.hook.endpoint)
        version = self.hook.run(resolve(self.hook.registry, reference))
        if not version.is_ready:
            raise ModelVersionFailedError(f"{version.uri} is {version.status}, not READY; it cannot be loaded.")
        self.link_to(context, version.name, version.version)
        self.log_effect("Scoring %s with %s", job.input, version.uri)
        self._running = engine
        scored = engine.start(job, self.hook, version)
        self._running = None
        if isinstance(scored, Waiting):
            kwargs = {
                "version": version.to_xcom(),
                "state": dict(scored.state),
                "scored_at": job.scored_at.isoformat(),
            }
            self.defer(trigger=scored.trigger, method_name="resume_job", kwargs=kwargs)
        return self._summary(job, version, scored)

    def resume_job(
        self, context: Context, event: dict[str, Any], version: dict[str, Any], state: dict[str, Any], scored_at: str
    ) -> dict[str, Any]:
        """Finish a job that ran elsewhere."""
        from airflow_uc_models.engines import Ended, engine_of
        from airflow_uc_models.entities import ModelVersion

        with fail_without_retry(self.registry_conn_id):
            engine: Any = engine_of(self.engine)
            job, used = self._job(context, datetime.fromisoformat(scored_at)), ModelVersion.from_xcom(version)
            self._running = engine
            scored = engine.resume(job, self.hook, used, Ended(state, event))
            self._running = None
            return publish(context, self._summary(job, used, scored))

    def on_kill(self) -> None:
        """Leave nothing half-written: Airflow kills the process a few seconds later."""
        if self._running is not None:
            self._running.cancel()

    def _summary(self, job: InferenceJob, version: ModelVersion, scored: Scored) -> dict[str, Any]:
        rows = f"{scored.rows:,}"
        self.log_effect("Wrote %s rows -> %s in %.1f s, by %s", rows, job.output, scored.seconds, version.uri)
        if scored.bad_rows:
            self.log.warning("Put %s bad rows aside -> %s", f"{scored.bad_rows:,}", job.bad_rows_output)
        return {
            "name": version.name,
            "version": version.version,
            "model_uri": version.uri,
            "engine": self.engine,
            "input": job.input,
            "output": job.output,
            "rows": scored.rows,
            "seconds": scored.seconds,
            "bad_rows": scored.bad_rows,
            "bad_rows_output": job.bad_rows_output if scored.bad_rows else None,
            **scored.details,
        }

    def _params(self, context: Context) -> dict[str, Any] | None:
        """Return the task's own params, rendered; Airflow keeps them together with those of the Dag."""
        params: Any = self.params
        given = {}
        for name in params:
            param = params.get_param(name)
            # Older versions of Airflow do not note where a param is from.
            of_dag = param.source != "task" if hasattr(param, "source") else name in self.dag.params
            if not of_dag:
                value = param.resolve()
                given[name] = _rendered(value, self.render_template(value, context))
        return given or None

    def _job(self, context: Context, scored_at: datetime) -> InferenceJob:
        from airflow_uc_models.engines import InferenceJob

        deferrable = self.deferrable
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        return InferenceJob(
            input=str(self.input_path).strip(),
            output=str(self.output_path).strip(),
            input_format=None if self.input_format in _UNSET else str(self.input_format).lower(),
            csv=CsvOptions.parse(self.csv_options),
            params=self._params(context),
            batch_size=None if self.batch_size in _UNSET else _whole(self.batch_size),
            keep_columns=_names("keep_columns", self.keep_columns),
            metadata_columns=_metadata(self.metadata_columns),
            signature_required=self.signature_required,
            mode=str(self.mode),
            partition_by=_names("partition_by", self.partition_by) or (),
            on_bad_rows=str(self.on_bad_rows),
            env_manager=None if self.env_manager in _UNSET else str(self.env_manager),
            options=_options(self.engine_options),
            deferrable=deferrable,
            key=self.task_key(context, str(self.output_path)),
            scored_at=scored_at,
        )


def _rendered(given: Any, rendered: Any) -> Any:
    from airflow_uc_models.engines.model_params import RenderedText

    return RenderedText(rendered) if isinstance(rendered, str) and rendered != given else rendered


def _whole(value: Any) -> int:
    try:
        number = None if isinstance(value, bool) else int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (isinstance(value, float) and value != number):
        raise InvalidArgumentError(f"batch_size must be a whole number, not {value!r}.")
    return number


def _names(parameter: str, value: Sequence[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise InvalidArgumentError(f"{parameter} must be a list of column names, not {value!r}.")
    return tuple(dict.fromkeys(value))


def _metadata(value: bool | str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names of columns; the words are what a template makes of True and False."""
    from airflow_uc_models.engines.job import METADATA_COLUMNS

    switches = {"true": METADATA_COLUMNS, "false": (), "none": (), "": ()}
    text = str(value).strip().lower()
    if value is None or isinstance(value, bool | str):
        if text not in switches:
            raise InvalidArgumentError(f"metadata_columns must be True, False or a list of names, not {value!r}.")
        return switches[text]
    return _names("metadata_columns", value) or ()


def _options(value: Mapping[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"engine_options must be a dict, not {value!r}.")
    return dict(value)
