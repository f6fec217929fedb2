"""The operator that scores a table with a model version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.engines import InferenceEngine, InferenceJob, engine_of
from airflow_uc_models.exceptions import InvalidArgumentError, ModelVersionFailedError
from airflow_uc_models.names import ModelRef
from airflow_uc_models.operators.base import ModelRegistryOperator
from airflow_uc_models.registry.registration import resolve

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


_UNSET = (None, "", "None")  # also what a template may leave


class BatchInferenceOperator(ModelRegistryOperator):
    """Score the rows of Parquet or CSV files with one model version and write them, with predictions, to Parquet.

    The version that ``model_uri`` names is looked up once; an alias that moves meanwhile changes nothing. Before the
    first row, the input's columns are compared with the model's signature: columns that the signature does not have
    are left to the output, numbers are widened where no digit is lost (such as ``int64`` for ``double``), anything
    else that does not fit ends the task, with a list of it all. CSV columns are read as the types that the signature
    asks for, all others as text. Rows stream through in batches, so memory does not grow with the input.

    The output appears when it is complete: it is written beside its place under a hidden name and renamed (in an
    object store copied and deleted, as renaming is there). If the task fails, what was at ``output`` before is
    unchanged; if it is repeated, the output is replaced. Row order is that of the input, files by name.

    The prediction is the column ``prediction``; a model that returns several columns gives them their names.

    XCom: ``{"name", "version", "model_uri", "engine", "input", "output", "rows", "seconds"}``; ``model_uri`` is the
    version that was used, as ``models:/<name>/<version>``.

    Raises: no such version or alias, or one that is not READY; no signature; an input that is missing, unreadable, or
    does not fit the signature; files with different columns in one folder; a model that fails on a row.

    Privileges: Unity Catalog: EXECUTE on the model, USE CATALOG and USE SCHEMA above it. MLflow basic auth: READ.
    Registries: all.

    :param model_uri: ``models:/catalog.schema.model@alias`` or ``models:/catalog.schema.model/version``
        (str, templated)
    :param input: a file, a folder of files of one kind, or the URI of either as ObjectStoragePath takes it, such as
        ``s3://conn_id@bucket/folder`` (str, templated as ``input_path``)
    :param output: path or URI of the Parquet file to write, ending in ``.parquet`` and not in the input folder
        (str, templated as ``output_path``)
    :param engine: where to score: ``local`` is this task's process (str, templated)
    :param input_format: ``parquet`` or ``csv``, if the file names do not tell it (str, templated)
    :param batch_size: rows that the model is given at once (int or str, templated; default about 16 MB of them)
    :param keep_columns: input columns that the output has, too (list of str, templated; default all)
    :param signature_required: refuse a model that has no signature to compare the input with (bool; default True)
    """

    # BaseOperator.output is the XCom of the task, hence the other attribute names.
    template_fields: Sequence[str] = (
        *ModelRegistryOperator.template_fields,
        "model_uri",
        "input_path",
        "output_path",
        "engine",
        "input_format",
        "batch_size",
        "keep_columns",
    )

    def __init__(
        self,
        *,
        model_uri: str,
        input: str,  # noqa: A002 - the name that users expect beside output
        output: str,
        engine: str = "local",
        input_format: str | None = None,
        batch_size: int | str | None = None,
        keep_columns: Sequence[str] | None = None,
        signature_required: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_uri = model_uri
        self.input_path = input
        self.output_path = output
        self.engine = engine
        self.input_format = input_format
        self.batch_size = batch_size
        self.keep_columns = keep_columns
        self.signature_required = signature_required
        self._running: InferenceEngine | None = None

    def perform(self, context: Context) -> dict[str, Any]:
        """Score, with the version that the reference names now."""
        reference = ModelRef.parse(self.model_uri)
        engine, job = engine_of(self.engine), self._job(context)
        engine.check(job)
        version = self.hook.run(resolve(self.hook.registry, reference))
        if not version.is_ready:
            raise ModelVersionFailedError(f"{version.uri} is {version.status}, not READY; it cannot be loaded.")
        self.link_to(context, version.name, version.version)
        self.log.info("Scoring %s with %s", job.input, version.uri)
        self._running = engine
        scored = engine.run(job, self.hook, version)
        self._running = None
        self.log.info("Wrote %s rows to %s in %.1f s", f"{scored.rows:,}", job.output, scored.seconds)
        return {
            "name": version.name,
            "version": version.version,
            "model_uri": version.uri,
            "engine": self.engine,
            "input": job.input,
            "output": job.output,
            "rows": scored.rows,
            "seconds": scored.seconds,
        }

    def on_kill(self) -> None:
        """Leave nothing half-written: Airflow kills the process a few seconds later."""
        if self._running is not None:
            self._running.cancel()

    def _job(self, context: Context) -> InferenceJob:
        return InferenceJob(
            input=str(self.input_path),
            output=str(self.output_path),
            input_format=None if self.input_format in _UNSET else str(self.input_format).lower(),
            batch_size=None if self.batch_size in _UNSET else _whole(self.batch_size),
            keep_columns=_names(self.keep_columns),
            signature_required=self.signature_required,
            key=self.task_key(context, str(self.output_path)),
        )


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"batch_size must be a whole number, not {value!r}.") from None


def _names(value: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(value, str):
        raise InvalidArgumentError(f"keep_columns must be a list of column names, not the string {value!r}.")
    return None if value is None else tuple(value)
