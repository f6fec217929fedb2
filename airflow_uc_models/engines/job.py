"""What is to be scored, the same for all engines, and what an engine can do of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.exceptions import InvalidArgumentError

OVERWRITE, APPEND = "overwrite", "append"
FAIL, QUARANTINE = "fail", "quarantine"
# What an output tells of its origin, on request.
METADATA_COLUMNS = ("model_name", "model_version", "scored_at")
# The column by which an appended output tells its Dag runs apart, where one table holds several.
RUN_COLUMN = "dag_run_key"
REASON_COLUMN = "reason"
ENV_MANAGERS = ("local", "uv", "virtualenv")
# Two or three names with dots and nothing of a path; or names in backticks.
_TABLE = re.compile(r"(?:[\w-]+|`[^`]+`)(?:\.(?:[\w-]+|`[^`]+`)){1,2}")
_FILE = re.compile(r"\.(parquet|csv|gz|bz2|zst|json|orc|avro)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceJob:
    """What is to be scored, whatever the engine.

    :param input: where the rows are: a path, a URI or a table
    :param output: where rows and predictions go
    :param input_format: ``parquet`` or ``csv``; None tells it by the file names
    :param csv: how CSV files of the input are written
    :param params: parameters of the signature that the model is given; None for their defaults
    :param batch_size: rows that are predicted at once; None leaves it to the engine
    :param keep_columns: input columns that the output has, too; None for all
    :param metadata_columns: which of METADATA_COLUMNS the output has
    :param signature_required: refuse a model without a signature
    :param mode: ``overwrite``: the output is this job's alone; ``append``: it stands beside those of other runs
    :param partition_by: columns of the output by which its files lie in folders
    :param on_bad_rows: ``fail``, or ``quarantine``: put rows aside that the model cannot take
    :param env_manager: where the model's packages come from; None chooses by its requirements
    :param options: what only this engine knows
    :param deferrable: a job that runs elsewhere may leave the worker
    :param key: the task key: the same for all tries and repetitions of one task of one Dag run. Marks what an
        unfinished try leaves behind and, in mode ``append``, what this run wrote before
    :param scored_at: one time for all rows
    """

    input: str
    output: str
    input_format: str | None = None
    csv: CsvOptions = field(default_factory=CsvOptions)
    params: Mapping[str, Any] | None = None
    batch_size: int | None = None
    keep_columns: tuple[str, ...] | None = None
    metadata_columns: tuple[str, ...] = ()
    signature_required: bool = True
    mode: str = OVERWRITE
    partition_by: tuple[str, ...] = ()
    on_bad_rows: str = FAIL
    env_manager: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    deferrable: bool = False
    key: str = "manual"
    scored_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def quarantines(self) -> bool:
        """Whether bad rows are put aside."""
        return self.on_bad_rows == QUARANTINE

    @property
    def appends(self) -> bool:
        """Whether the output of other runs stays."""
        return self.mode == APPEND

    @property
    def bad_rows_output(self) -> str:
        """Where bad rows go: beside the output."""
        if is_table(self.output):
            return f"{self.output[:-1]}_bad_rows`" if self.output.endswith("`") else f"{self.output}_bad_rows"
        stem = self.output.rstrip("/")
        if stem.endswith(".parquet"):
            return f"{stem.removesuffix('.parquet')}.bad_rows.parquet"
        return f"{stem}.bad_rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapabilities:
    """What an engine can do; the rest is refused before anything is asked of anybody.

    :param name: the engine's name
    :param paths: it reads and writes files
    :param tables: it reads and writes tables
    :param formats: input formats of files
    :param modes: how it writes
    :param partition_by: it writes partitions
    :param quarantine: it puts bad rows aside
    :param params: it gives the model parameters
    :param batch_size: it lets the batch size be chosen
    :param env_managers: where it can take a model's packages from; none where that is not its choice
    :param options: the engine options it knows
    :param workspace: it works in the Databricks workspace of the connection
    """

    name: str
    paths: bool = False
    tables: bool = False
    formats: tuple[str, ...] = ()
    modes: tuple[str, ...] = (OVERWRITE, APPEND)
    partition_by: bool = False
    quarantine: bool = True
    params: bool = True
    batch_size: bool = False
    env_managers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    workspace: bool = False

    def check(self, job: InferenceJob) -> None:
        """Raise InvalidArgumentError for a job that no engine could do, or this one cannot; all that is wrong."""
        if problems := [*_mistakes(job), *self._lacks(job)]:
            listed = "; ".join(problems)
            raise InvalidArgumentError(f"The engine {self.name!r} cannot do this: {listed}.")

    def _lacks(self, job: InferenceJob) -> list[str]:
        found = [self._place(role, value) for role, value in (("input", job.input), ("output", job.output))]
        found.append("it cannot give params to the model" if job.params and not self.params else "")
        reads_csv = "csv" in self.formats and job.input_format != "parquet"
        found.append("" if reads_csv or job.csv == CsvOptions() else "csv_options are for CSV files only")
        if job.input_format is not None and job.input_format not in self.formats:
            known = " or ".join(self.formats) or "none, as it reads tables"
            found.append(f"input_format must be {known}, not {job.input_format!r}")
        if job.mode in (OVERWRITE, APPEND) and job.mode not in self.modes:
            found.append(f"mode must be {' or '.join(self.modes)}, not {job.mode!r}")
        if job.partition_by and not self.partition_by:
            found.append("partition_by is not among what it can do; engine='spark' and engine='databricks' can")
        if job.quarantines and not self.quarantine:
            found.append("it has no on_bad_rows='quarantine'")
        if job.batch_size is not None and not self.batch_size:
            found.append("it chooses its batch_size itself")
        if job.env_manager in ENV_MANAGERS and job.env_manager not in self.env_managers:
            known = " or ".join(self.env_managers) or "left out, as it is not its choice"
            found.append(f"env_manager must be {known}, not {job.env_manager!r}")
        if unknown := [key for key in job.options if key not in self.options]:
            known = ", ".join(self.options) or "none"
            found.append(f"engine_options has {', '.join(map(repr, unknown))}; it knows {known}")
        return [text for text in found if text]

    def _place(self, role: str, value: str) -> str:
        if not value.strip():
            return f"{role} is empty"
        if is_table(value):
            return "" if self.tables else f"{role} {value} is a table; it takes paths (./{value} is a file)"
        return "" if self.paths else f"{role} {value} is a path; it takes tables (catalog.schema.table)"


def is_table(text: str) -> bool:
    """Whether an input or output names a table: ``schema.table`` or ``catalog.schema.table``, not a file or folder."""
    return bool(_TABLE.fullmatch(text.strip())) and not _FILE.search(text.strip())


def _mistakes(job: InferenceJob) -> list[str]:
    """Return what no engine could do."""
    found = []
    if job.batch_size is not None and job.batch_size < 1:
        found.append(f"batch_size must be at least 1, not {job.batch_size}")
    for name, value, allowed in (
        ("mode", job.mode, (OVERWRITE, APPEND)),
        ("on_bad_rows", job.on_bad_rows, (FAIL, QUARANTINE)),
        ("env_manager", job.env_manager, (None, *ENV_MANAGERS)),
    ):
        if value not in allowed:
            known = " or ".join(repr(item) for item in allowed if item)
            found.append(f"{name} must be {known}, not {value!r}")
    if unknown := [name for name in job.metadata_columns if name not in METADATA_COLUMNS]:
        found.append(f"metadata_columns has {', '.join(unknown)}; there are {', '.join(METADATA_COLUMNS)}")
    if taken := [name for name in job.keep_columns or () if name in (*job.metadata_columns, RUN_COLUMN)]:
        found.append(f"keep_columns has {', '.join(taken)}, which the output bears already")
    return found
