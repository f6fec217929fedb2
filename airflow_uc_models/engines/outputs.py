"""What the engine ``local`` writes: the output, and beside it the rows that were put aside."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from airflow_uc_models.engines.job import REASON_COLUMN, InferenceJob
from airflow_uc_models.engines.paths import Location, new_file
from airflow_uc_models.engines.tables import Part
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.redaction import safe_text
from airflow_uc_models.writing import expect_writable_folder, expect_writable_store

if TYPE_CHECKING:
    import pyarrow as pa

# Where a row that was put aside comes from.
SOURCE_COLUMN, ROW_COLUMN = "source_file", "row_number"
BAD_ROW_COLUMNS = (SOURCE_COLUMN, ROW_COLUMN, REASON_COLUMN)
# Small batches are gathered until there is so much for a row group of the file.
_GROUP_ROWS, _GROUP_BYTES = 65_536, 16 << 20


def output_file(job: InferenceJob) -> Location:
    """Return the file that this job writes."""
    return Location.parse(_file(job, job.output))


def bad_rows_file(job: InferenceJob) -> Location:
    """Return the file to which rows go that are put aside."""
    return Location.parse(_file(job, job.bad_rows_output))


def expect_writable(job: InferenceJob) -> None:
    """Raise OutputError if the output, or that of bad rows, cannot be written; neither is touched."""
    for target in (output_file(job), bad_rows_file(job))[: 1 + job.quarantines]:
        prefix = f".{target.name}.{job.key[:12]}-"  # what a killed try leaves is removed like its unfinished output
        if target.is_local:
            expect_writable_folder(Path(target.parent), target.shown, prefix)
        else:
            expect_writable_store(target.fs, target.parent, target.shown, prefix)


def _file(job: InferenceJob, output: str) -> str:
    return f"{output.rstrip('/')}/{job.key}.parquet" if job.appends else output


def metadata_fields(job: InferenceJob) -> list[pa.Field]:
    """Return the columns that tell where predictions come from."""
    import pyarrow as pa

    types = {"model_name": pa.string(), "model_version": pa.int64(), "scored_at": pa.timestamp("us", "UTC")}
    return [pa.field(name, types[name]) for name in job.metadata_columns]


def metadata_arrays(job: InferenceJob, version: ModelVersion, rows: int) -> list[pa.Array]:
    """Return these columns for some rows."""
    import pyarrow as pa

    values = {"model_name": version.name, "model_version": version.version, "scored_at": job.scored_at}
    return [pa.repeat(pa.scalar(values[item.name], item.type), rows) for item in metadata_fields(job)]


class Sink:
    """Writes Parquet on a thread of its own, at most one batch behind."""

    def __init__(self, file: Any, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._thread = thread
        self._pending: Future[None] | None = None
        self._writer: Any = None
        self._held: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    @classmethod
    @contextmanager
    def opened(cls, file: Any) -> Generator[Sink, None, None]:
        """Have a sink that writes to an open file."""
        with ThreadPoolExecutor(1, thread_name_prefix="write") as thread:
            sink = cls(file, thread)
            try:
                yield sink
                sink._settle()
                sink._flush()
            finally:
                sink._close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch, when the last one is written; of no rows, it makes the file's columns certain."""
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
            self._held.append(batch)
            self._rows, self._bytes = self._rows + batch.num_rows, self._bytes + batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Write what is held as one row group: whoever reads the file pays for each."""
        import pyarrow as pa

        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held))
        self._held, self._rows, self._bytes = [], 0, 0


class BadRows:
    """Rows that are put aside: a file that is there if there are any, and gone if there are none."""

    def __init__(self, job: InferenceJob, kept: Sequence[str]) -> None:
        self._job = job
        self._kept = kept
        self._stack = ExitStack()
        self._sink: Sink | None = None
        self.count = 0
        self.first: str | None = None

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, part: Part, bad: Sequence[tuple[int, str]]) -> None:
        """Put rows of a part aside.

        :param bad: number in the part and reason of each
        """
        import pyarrow as pa

        if not bad:
            return
        if self.first is None:
            index, reason = bad[0]
            self.first = safe_text(reason, part.batch.slice(index, 1), part.batch.schema.names)
        self.count += len(bad)
        rows = part.batch.take([index for index, _ in bad])
        columns = {name: rows.column(name) for name in self._kept}
        columns[SOURCE_COLUMN] = pa.repeat(part.file.shown, len(bad))
        columns[ROW_COLUMN] = pa.array([part.first_row + index for index, _ in bad], pa.int64())
        columns[REASON_COLUMN] = pa.array([reason for _, reason in bad], pa.string())
        self._opened().write(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))

    def remove_earlier(self) -> None:
        """Remove what an earlier run of this job has put aside, if this one has put nothing aside."""
        if not self.count:
            target = bad_rows_file(self._job)
            with suppress(FileNotFoundError):
                target.fs.rm_file(target.path)

    def _opened(self) -> Sink:
        if self._sink is None:
            file = self._stack.enter_context(new_file(bad_rows_file(self._job), self._job.key))
            self._sink = self._stack.enter_context(Sink.opened(file))
        return self._sink
