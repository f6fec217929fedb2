"""Where a Spark job of batch inference puts its rows, so that they appear as a whole or not at all.

``Folders``          Parquet files: written to a hidden folder beside the output, then renamed
``RemoteFolders``    the same where nothing can be renamed (Spark Connect): Spark itself replaces one partition
``SessionTables``    tables that are plain files: written as a table beside the output, then renamed or copied
``CatalogTables``    tables with transactions (Delta, Iceberg): one transaction

Part of the script that is shipped to Databricks: nothing but PySpark is imported.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from airflow_uc_models.engines.spark_plan import RUN_COLUMN, JobError, Params, is_table, quoted, table_parts, tick
from airflow_uc_models.engines.spark_stores import (
    NEW,
    OLD,
    OLD_PART,
    Files,
    HadoopFiles,
    MountedFiles,
    SessionCatalog,
    Store,
    check_remote_folder,
    default_provider,
    recover,
    refuse_other_columns,
    swap,
    table_provider,
    unless_another_did,
)

_ATOMIC = ("delta", "iceberg")
VOLUMES = ("/Volumes/", "dbfs:/Volumes/")


class Places(Protocol):
    """Ways to write an output; ``place`` is the output or the one of bad rows."""

    def recover(self, place: str) -> None:
        """Finish or undo what a killed try has left."""

    def draft(self, frame: Any) -> Any:
        """Write a frame to where nobody looks, and return it as read from there."""

    def check(self, frame: Any, place: str) -> None:
        """Raise JobError if a frame cannot be appended to what is there."""

    def replace(self, frame: Any, place: str) -> int:
        """Let a frame take the place of the output, or of what this run has in it; return the number of rows."""

    def remove(self, place: str) -> None:
        """Remove the output, or what this run has in it."""

    def close(self) -> None:
        """Remove what was written for the time of the job only."""


def places_of(spark: Any, job: Params) -> Places:
    """Return the way to write the job's output; JobError if there is none that keeps it whole."""
    if is_table(job.output):
        return _tables_of(spark, job)
    if not is_remote(spark):
        return Folders(spark, job, HadoopFiles(spark))
    # Where Python runs in the workspace; over Databricks Connect it does not.
    if job.output.startswith(VOLUMES) and "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return Folders(spark, job, MountedFiles())
    return RemoteFolders(spark, job)


def _tables_of(spark: Any, job: Params) -> Places:
    provider, parts = table_provider(spark, job.output), table_parts(job.output)
    in_session = len(parts) == 2 or parts[0] == "spark_catalog"
    if (provider or default_provider(spark)) in _ATOMIC or (provider is None and not in_session):
        return CatalogTables(spark, job, provider or (default_provider(spark) if in_session else None))
    if in_session:
        return SessionTables(spark, job)
    raise JobError(
        f"The output {job.output} is a table of type {provider or 'unknown'}; of tables in such a catalog, only Delta "
        "and Iceberg ones can be replaced as a whole. Write to another table."
    )


def is_remote(spark: Any) -> bool:
    """Whether the session is one of Spark Connect, which gives no way into the driver."""
    return "connect" in type(spark).__module__


class _Beside:
    """What folders and tables beside the output have in common.

    :param store: where the output is
    """

    def __init__(self, spark: Any, job: Params, store: Store) -> None:
        self.spark, self.job, self.store = spark, job, store
        self._written: list[str] = []

    def target(self, place: str) -> str:
        """Return what this run replaces of a place."""
        return place

    def recover(self, place: str) -> None:
        recover(self.store, place, self.target(place), self._key, is_part=self.job.appends)

    def remove(self, place: str) -> None:
        self.store.drop(self.target(place))

    def close(self) -> None:
        while self._written:
            with suppress(Exception):  # the next try removes it
                self.store.drop(self._written.pop())

    @property
    def _key(self) -> str:
        return self.job.key[:12]

    def _new(self, place: str) -> str:
        name = self._name(place, NEW)
        self._written.append(name)
        return name

    def _name(self, place: str, ending: str) -> str:
        return self.store.name_beside(place, self._key, secrets.token_hex(4), ending)

    def _swap(self, new: str, place: str) -> None:
        ending = OLD_PART if self.job.appends else OLD
        swap(self.store, new, self.target(place), lambda: self._name(place, ending))


class Folders(_Beside):
    """Parquet files in a folder; what is appended lies in a folder of the run in it."""

    def __init__(self, spark: Any, job: Params, files: Files) -> None:
        super().__init__(spark, job, files)
        self._files = files

    def target(self, place: str) -> str:
        return f"{place.rstrip('/')}/{RUN_COLUMN}={self.job.key}" if self.job.appends else place

    def draft(self, frame: Any) -> Any:
        return self._read(frame, self._write(frame, self.job.output, ()))

    def check(self, frame: Any, place: str) -> None:
        if self.job.appends:
            self._refuse_other_columns(frame, place, self._files.names(place))

    def replace(self, frame: Any, place: str) -> int:
        self.check(frame, place)
        new = self._write(frame, place, self._partitions(frame))
        rows = self._read(frame, new).count()
        self._swap(new, place)
        return int(rows)

    def _partitions(self, frame: Any) -> list[str]:
        return [name for name in self.job.partition_by if name in frame.columns]

    def _write(self, frame: Any, place: str, partitions: Sequence[str]) -> str:
        new = self._new(place)
        writer = frame.write.partitionBy(*partitions) if partitions else frame.write
        writer.parquet(new)
        return new

    def _read(self, frame: Any, folder: str) -> Any:
        return self.spark.read.schema(frame.schema).parquet(folder)

    def _refuse_other_columns(self, frame: Any, place: str, names: Sequence[str]) -> None:
        own, beginning = f"{RUN_COLUMN}={self.job.key}", f"{RUN_COLUMN}="
        names = [name for name in names if not name.startswith((".", "_"))]
        if strange := [name for name in names if not name.startswith(beginning)]:
            raise JobError(
                f"The output {place} holds {strange[0]}, which mode='append' has not written: it keeps each run in a "
                f"folder {beginning}... Append to another folder."
            )
        if others := [name for name in names if name != own]:
            found = self.spark.read.option("basePath", place).parquet(f"{place.rstrip('/')}/{others[0]}").schema
            refuse_other_columns(place, found, frame, self.job.partition_by)


class RemoteFolders:
    """Parquet files where nothing can be renamed: Spark replaces the run's partition when the job has succeeded."""

    def __init__(self, spark: Any, job: Params) -> None:
        check_remote_folder(job)
        self.spark, self.job = spark, job

    def recover(self, place: str) -> None:
        """Spark has left nothing that shows."""

    def draft(self, frame: Any) -> Any:
        raise NotImplementedError

    def check(self, frame: Any, place: str) -> None:
        raise NotImplementedError

    def remove(self, place: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """There is nothing but the output."""

    def replace(self, frame: Any, place: str) -> int:
        from pyspark.errors import AnalysisException
        from pyspark.sql import Observation
        from pyspark.sql import functions as F  # noqa: N812

        with suppress(AnalysisException):  # there is no output yet
            refuse_other_columns(place, self.spark.read.parquet(place).schema, frame)
        counted = Observation()
        tagged = frame.observe(counted, F.count(F.lit(1)).alias("rows")).withColumn(RUN_COLUMN, F.lit(self.job.key))
        writer = tagged.write.mode("overwrite").option("partitionOverwriteMode", "dynamic")
        writer.partitionBy(RUN_COLUMN).parquet(place)
        rows = int(counted.get["rows"])
        if not rows:  # then there was no partition to be replaced, and what an earlier try wrote is still there
            part = f"{place.rstrip('/')}/{RUN_COLUMN}={self.job.key}"
            frame.limit(0).write.mode("overwrite").parquet(part)
        return rows


class SessionTables(_Beside):
    """Tables of Parquet files in the session's catalog.

    A new table takes the output's place by two renames. A part is first written as a table beside the output and then
    copied in: a model that fails has changed nothing; a job that is killed while it copies leaves its own part
    incomplete until its next try.
    """

    def __init__(self, spark: Any, job: Params) -> None:
        super().__init__(spark, job, SessionCatalog(spark))

    def draft(self, frame: Any) -> Any:
        name = self._new(self.job.output)
        frame.write.saveAsTable(quoted(name))
        return self.spark.table(quoted(name))

    def replace(self, frame: Any, place: str) -> int:
        if self.job.appends:
            return self._replace_part(frame, place)
        partitions = [name for name in self.job.partition_by if name in frame.columns]
        self._refuse_what_cannot_move(place, partitions)
        new = self._new(place)
        (frame.write.partitionBy(*partitions) if partitions else frame.write).saveAsTable(quoted(new))
        rows = self.spark.table(quoted(new)).count()
        self._swap(new, place)
        return int(rows)

    def check(self, frame: Any, place: str) -> None:
        if self.job.appends and self.store.exists(place):
            self._refuse_others(frame, place, self._partitions_of_parts(frame))

    def _partitions_of_parts(self, frame: Any) -> list[str]:
        return [RUN_COLUMN, *(name for name in self.job.partition_by if name in frame.columns)]

    def _replace_part(self, frame: Any, place: str) -> int:
        from pyspark.sql import functions as F  # noqa: N812

        partitions = self._partitions_of_parts(frame)
        exists = self.store.exists(place)
        if exists:
            self._refuse_others(frame, place, partitions)
        staged = self.draft(frame)
        rows = staged.count()
        if not exists:
            empty = staged.limit(0).withColumn(RUN_COLUMN, F.lit(self.job.key))
            with unless_another_did(self.store, place):
                empty.write.partitionBy(*partitions).saveAsTable(quoted(place))
        self._fill(staged, place, partitions)
        return int(rows)

    def _fill(self, staged: Any, place: str, partitions: Sequence[str]) -> None:
        """Let rows be the run's part, and all of it."""
        spec = f"{tick(RUN_COLUMN)} = '{self.job.key}'"
        order = [name for name in self.spark.table(quoted(place)).columns if name != RUN_COLUMN]
        rest = "".join(f", {tick(name)}" for name in partitions[1:])
        staged.createOrReplaceTempView(view := f"airflow_part_{secrets.token_hex(4)}")
        # A partition of which only the run is told is replaced with all that is in it.
        mode = "spark.sql.sources.partitionOverwriteMode"
        before = self.spark.conf.get(mode)
        try:
            self.spark.conf.set(mode, "static")
            self.spark.sql(
                f"INSERT OVERWRITE TABLE {quoted(place)} PARTITION ({spec}{rest}) "
                f"SELECT {', '.join(map(tick, order))} FROM {view}"
            )
        finally:
            self.spark.conf.set(mode, before)
            self.spark.catalog.dropTempView(view)

    def remove(self, place: str) -> None:
        if not self.job.appends:
            super().remove(place)
        elif self.store.exists(place):
            nothing = self.spark.table(quoted(place)).limit(0)
            self._fill(nothing, place, self._partitions(place))

    def _described(self, place: str) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self.spark.sql(f"DESCRIBE TABLE EXTENDED {quoted(place)}").collect()]

    def _refuse_what_cannot_move(self, place: str, partitions: Sequence[str]) -> None:
        if partitions and self.spark.conf.get("spark.sql.catalogImplementation", "") == "in-memory":
            raise JobError(
                f"The output {place} cannot have partitions: a catalog in memory loses them when a table is renamed. "
                "Leave out partition_by, or use the catalog 'hive' (spark.sql.catalogImplementation)."
            )
        if self.store.exists(place) and ("Type", "EXTERNAL") in self._described(place):
            raise JobError(
                f"The output {place} is an external table, whose files a new table cannot replace as a whole. Write "
                "to a managed table, or to the files' path."
            )

    def _partitions(self, place: str) -> list[str]:
        return [column.name for column in self.spark.catalog.listColumns(quoted(place)) if column.isPartition]

    def _refuse_others(self, frame: Any, place: str, partitions: Sequence[str]) -> None:
        if (found := self._partitions(place)) != list(partitions):
            raise JobError(
                f"Rows cannot be appended to {place}: it is partitioned by {', '.join(found) or 'nothing'}, and each "
                f"run's rows must be a partition: {', '.join(partitions)}. Append to another table."
            )
        refuse_other_columns(place, self.spark.table(quoted(place)).schema, frame)


class CatalogTables:
    """Tables with transactions; one replaces the table, or the rows of this run.

    :param provider: the format of tables that are made; None is the catalog's own
    """

    def __init__(self, spark: Any, job: Params, provider: str | None) -> None:
        self.spark, self.job, self.provider = spark, job, provider
        self._catalog = SessionCatalog(spark)
        self._drafts: list[str] = []

    def recover(self, place: str) -> None:
        recover(self._catalog, place, place, self.job.key[:12], is_part=True)

    def draft(self, frame: Any) -> Any:
        name = self._catalog.name_beside(self.job.output, self.job.key[:12], secrets.token_hex(4), NEW)
        self._drafts.append(name)
        self._writer(frame, quoted(name)).create()
        return self.spark.table(quoted(name))

    def replace(self, frame: Any, place: str) -> int:
        from pyspark.sql import functions as F  # noqa: N812

        partitions = [name for name in self.job.partition_by if name in frame.columns]
        if not self.job.appends:
            self._make(frame, place, partitions, replaces=self._catalog.exists(place))
            return int(self.spark.table(quoted(place)).count())
        frame = frame.withColumn(RUN_COLUMN, F.lit(self.job.key))
        if not self._catalog.exists(place):
            with unless_another_did(self._catalog, place) as made:
                # By this partition Delta tells apart what runs write at the same time.
                self._make(frame, place, [RUN_COLUMN, *partitions])
            if made:
                return int(self._own(place).count())
        self._refuse_others(frame, place)
        frame.writeTo(quoted(place)).overwrite(F.col(RUN_COLUMN) == self.job.key)
        return int(self._own(place).count())

    def check(self, frame: Any, place: str) -> None:
        if self.job.appends and self._catalog.exists(place):
            self._refuse_others(frame, place)

    def _refuse_others(self, frame: Any, place: str) -> None:
        refuse_other_columns(place, self.spark.table(quoted(place)).schema, frame)

    def _make(self, frame: Any, place: str, partitions: Sequence[str], *, replaces: bool = False) -> None:
        from pyspark.sql import functions as F  # noqa: N812

        writer = self._writer(frame, quoted(place))
        writer = writer.partitionedBy(*(F.col(tick(name)) for name in partitions)) if partitions else writer
        _ = writer.createOrReplace() if replaces else writer.create()

    def remove(self, place: str) -> None:
        if not self.job.appends:
            self._catalog.drop(place)
        elif self._catalog.exists(place):
            self.spark.sql(f"DELETE FROM {quoted(place)} WHERE {tick(RUN_COLUMN)} = '{self.job.key}'")

    def close(self) -> None:
        while self._drafts:
            with suppress(Exception):  # the next try removes it
                self._catalog.drop(self._drafts.pop())

    def _writer(self, frame: Any, table: str) -> Any:
        writer = frame.writeTo(table)
        return writer.using(self.provider) if self.provider else writer

    def _own(self, place: str) -> Any:
        rows = self.spark.table(quoted(place))
        return rows.where(rows[RUN_COLUMN] == self.job.key)
