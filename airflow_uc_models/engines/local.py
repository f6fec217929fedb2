"""The engine ``local``: rows stream through pyfunc in this task's process, into one Parquet file.

While the model predicts one batch, the next is read and the one before is written, each on a thread of its own, so
memory holds a few batches however many rows there are.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_uc_models.engines import EngineCapabilities, InferenceJob, Scored
from airflow_uc_models.engines.paths import Location, new_file, remove_unfinished
from airflow_uc_models.engines.predictions import PredictionColumns
from airflow_uc_models.engines.schema import Features, arrow_type, features_of, fields_by_column
from airflow_uc_models.engines.tables import FORMATS, Part, Table, open_table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import (
    InvalidArgumentError,
    ModelContentError,
    PredictionError,
    UCModelsError,
)
from airflow_uc_models.hooks.artifacts import download_version, load_pyfunc, read_mlmodel
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.signatures import Signature

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 10.0
# A batch's size unless the job tells it. Each batch costs a forest one pass through all of its trees, so it is large;
# a handful of them is in memory at once.
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = (1_024, 131_072)


class LocalEngine:
    """Scores in this process, with the packages of this worker."""

    # Modes, bad rows and environments come with their own modules.
    capabilities = EngineCapabilities(
        name="local", paths=True, formats=tuple(FORMATS), batch_size=True, modes=("overwrite",), quarantine=False
    )

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def check(self, job: InferenceJob) -> None:
        """Raise InvalidArgumentError for paths that cannot be meant."""
        if not job.output.endswith(".parquet"):
            raise InvalidArgumentError(f"The output is one Parquet file; {job.output!r} does not end in .parquet.")
        source, target = Location.parse(job.input), Location.parse(job.output)
        if source.holds(target):
            raise InvalidArgumentError(
                f"The output {job.output} lies in the input {job.input}: the next run would read it. Write elsewhere."
            )
        if target.fs.isdir(target.path):
            raise InvalidArgumentError(f"The output {job.output} is a folder; name a file in it.")

    def start(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion) -> Scored:
        """Download the version, compare its signature with the input, score, and leave no model files behind."""
        started = time.monotonic()
        table = open_table(Location.parse(job.input), job.input_format)
        target = Location.parse(job.output)
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            self._undo = [partial(shutil.rmtree, folder, ignore_errors=True)]
            if target.is_local:  # an upload that was not finished does not show; a signal handler must not wait for one
                self._undo.append(partial(remove_unfinished, target, job.key))
            files = download_version(hook, version, Path(folder) / "model")
            plan = plan_of(job, table, read_mlmodel(files), version.uri)
            rows = score(load_pyfunc(files), plan)
        return Scored(rows, round(time.monotonic() - started, 3))

    def cancel(self) -> None:
        """Remove the model's files and what is written so far; a ``start`` that goes on will fail for lack of them."""
        while self._undo:
            self._undo.pop()()


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that fits its model: what to read, what to give to the model and what to write.

    :param kept: input columns of the output
    """

    job: InferenceJob
    table: Table
    features: Features
    predictions: PredictionColumns
    kept: Sequence[str]

    @property
    def columns(self) -> list[str]:
        """What is read of the input."""
        return list(dict.fromkeys([*self.kept, *self.features.types]))

    @property
    def batch_size(self) -> int:
        """Rows that the model is given at once."""
        if self.job.batch_size is not None:
            return self.job.batch_size
        fewest, most = _BATCH_ROWS
        return max(fewest, min(most, int(_BATCH_BYTES / self.table.row_bytes(self.columns))))


def plan_of(job: InferenceJob, table: Table, mlmodel: dict[str, Any], label: str) -> Plan:
    """Compare input and model; ModelContentError if they do not fit.

    :param mlmodel: the model's MLmodel file
    :param label: how messages name the model
    """
    signature = Signature.of_mlmodel(mlmodel) or Signature()
    inputs = signature.inputs or None
    if inputs is None and job.signature_required:
        raise ModelContentError(
            f"{label} has no signature, so the input cannot be checked before it is scored. Log the model with a "
            "signature or an input example, or set signature_required=False."
        )
    if inputs is None:
        table = table.typed(None)
    else:
        asked = fields_by_column(inputs, table.schema.names)
        table = table.typed({name: arrow_type(item.type) for name, item in asked.items()})
    features = features_of(inputs, table.schema, f"The columns of {job.input} and {label}")
    kept = table.schema.names if job.keep_columns is None else list(dict.fromkeys(job.keep_columns))
    if unknown := [name for name in kept if name not in table.schema.names]:
        raise InvalidArgumentError(
            f"keep_columns names {', '.join(map(repr, unknown))}, which the input {job.input} does not have. "
            f"It has: {', '.join(table.schema.names)}."
        )
    return Plan(job, table, features, PredictionColumns(signature.outputs or (), kept), kept)


def score(model: Any, plan: Plan) -> int:
    """Write the plan's output and return the number of its rows.

    :param model: the model, as pyfunc loads it
    """
    job, progress = plan.job, _Progress(plan.table.rows)
    with new_file(Location.parse(job.output), job.key) as file, _Sink.opened(file) as sink:
        with closing(_ahead(plan.table.parts(plan.columns, plan.batch_size))) as parts:
            for part in parts:
                sink.write(_scored(model, plan, part))
                progress.add(part.batch.num_rows)
        sink.write(_empty(plan))
    progress.tell()
    return progress.rows


def _scored(model: Any, plan: Plan, part: Part) -> pa.RecordBatch:
    """Return the kept columns of some rows with their predictions."""
    import pyarrow as pa

    given = plan.features.of(part)
    try:
        columns = plan.predictions.of(model.predict(given), part.batch.num_rows)
    except InvalidArgumentError:
        raise
    except Exception as error:
        told = str(error) if isinstance(error, UCModelsError) else f"{type(error).__name__}: {error}"
        raise PredictionError(f"Could not score {part.where}: {told}") from error
    return pa.RecordBatch.from_arrays([*map(part.batch.column, plan.kept), *columns], schema=_output_schema(plan))


def _empty(plan: Plan) -> pa.RecordBatch:
    """Return no rows: they make the file's columns certain when the input has none."""
    import pyarrow as pa

    return pa.RecordBatch.from_pylist([], schema=_output_schema(plan))


def _output_schema(plan: Plan) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([*(plan.table.schema.field(name) for name in plan.kept), *plan.predictions.schema])


def _ahead(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """Yield the items, getting each next one on another thread while the last one is worked on."""
    end = object()
    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        pending: Future[Any] = thread.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = thread.submit(next, items, end)
            yield item


class _Sink:
    """Writes Parquet on a thread of its own, at most one batch behind."""

    def __init__(self, file: Any, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._thread = thread
        self._pending: Future[None] | None = None
        self._writer: Any = None

    @classmethod
    @contextmanager
    def opened(cls, file: Any) -> Generator[_Sink, None, None]:
        with ThreadPoolExecutor(1, thread_name_prefix="write") as thread:
            sink = cls(file, thread)
            try:
                yield sink
                sink._settle()
            finally:
                sink._close()

    def write(self, batch: pa.RecordBatch) -> None:
        self._settle()
        self._pending = self._thread.submit(self._write, batch)

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _close(self) -> None:
        # Also after a failure: an open writer would write to the closed file when it is collected.
        wait([self._pending] if self._pending else [])
        if self._writer is not None:
            self._writer.close()

    def _write(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        if self._writer is None:
            # A dictionary of floats, which hardly repeat, costs more than all the rest of the writing.
            repeating = [f.name for f in batch.schema if not pa.types.is_floating(f.type)]
            self._writer = parquet.ParquetWriter(self._file, batch.schema, use_dictionary=repeating)
        if batch.num_rows:
            self._writer.write_batch(batch)


@dataclass
class _Progress:
    """Tells now and then how far the work is.

    :param total: number of rows, where it is known
    """

    total: int | None
    rows: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def add(self, rows: int) -> None:
        self.rows += rows
        if time.monotonic() - self.told >= _PROGRESS_SECONDS:
            self.tell()

    def tell(self) -> None:
        self.told = time.monotonic()
        rate = self.rows / max(self.told - self.started, 1e-9)
        of_total = "" if self.total is None else f" of {self.total:,}"
        log.info("Scored %s%s rows (%s rows/s)", f"{self.rows:,}", of_total, f"{rate:,.0f}")
