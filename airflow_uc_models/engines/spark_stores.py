"""What changes the places of folders and tables for a Spark job of batch inference.

Part of the script that is shipped to Databricks: nothing but PySpark is imported.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from airflow_uc_models.engines.spark_plan import RUN_COLUMN, JobError, quoted, table_parts, tick

NEW, OLD, OLD_PART = "new", "old", "old_part"


@dataclass(frozen=True)
class Beside:
    """Something that a job has put beside its output, hidden from readers.

    :param key: the run's
    :param ending: NEW is not complete or not yet in place; OLD and OLD_PART stood in the output's, or a part's, place
    """

    place: str
    key: str
    ending: str


class Store(Protocol):
    """Where folders or tables have names that can be changed."""

    def name_beside(self, place: str, key: str, token: str, ending: str) -> str:
        """Return a name for what stands beside the output."""

    def beside(self, place: str) -> list[Beside]:
        """Return what jobs have put beside the output."""

    def exists(self, place: str) -> bool:
        """Whether there is such a folder or table."""

    def rename(self, place: str, to: str) -> None:
        """Give it another name; there is nothing of that name."""

    def drop(self, place: str) -> None:
        """Remove it, if it is there."""


class Files:
    """Folders: hidden ones begin with a dot, which readers leave out."""

    def name_beside(self, place: str, key: str, token: str, ending: str) -> str:
        parent, slash, name = place.rstrip("/").rpartition("/")
        return f"{parent}{slash}.{name}.{key}-{token}.{ending}"

    def beside(self, place: str) -> list[Beside]:
        parent, slash, name = place.rstrip("/").rpartition("/")
        return _parsed(
            rf"\.{re.escape(name)}\.(\w+)-\w+\.(\w+)", f"{parent}{slash}", self.names(parent or slash or ".")
        )

    def names(self, folder: str) -> list[str]:
        """Return what is in a folder; nothing if there is none."""
        raise NotImplementedError

    def exists(self, place: str) -> bool:
        raise NotImplementedError

    def rename(self, place: str, to: str) -> None:
        raise NotImplementedError

    def drop(self, place: str) -> None:
        raise NotImplementedError


def _parsed(pattern: str, prefix: str, names: Iterable[str]) -> list[Beside]:
    found = [(name, re.fullmatch(pattern, name)) for name in names]
    return [Beside(prefix + name, match[1], match[2]) for name, match in found if match]


class HadoopFiles(Files):
    """Folders on whatever file system the session's Hadoop knows."""

    def __init__(self, spark: Any) -> None:
        self._jvm = spark._jvm  # noqa: SLF001 - PySpark has no other way there
        self._conf = spark._jsc.hadoopConfiguration()  # noqa: SLF001

    def _path(self, place: str) -> tuple[Any, Any]:
        path = self._jvm.org.apache.hadoop.fs.Path(place)
        return path.getFileSystem(self._conf), path

    def names(self, folder: str) -> list[str]:
        fs, path = self._path(folder)
        return [str(item.getPath().getName()) for item in fs.listStatus(path)] if fs.exists(path) else []

    def exists(self, place: str) -> bool:
        fs, path = self._path(place)
        return bool(fs.exists(path))

    def rename(self, place: str, to: str) -> None:
        fs, path = self._path(place)
        target = self._path(to)[1]
        fs.mkdirs(target.getParent())
        # Hadoop would move a folder into one that is there.
        if fs.exists(target) or not fs.rename(path, target):
            raise JobError(f"{place} could not be renamed to {to}. Does another job write there?")

    def drop(self, place: str) -> None:
        fs, path = self._path(place)
        if fs.exists(path) and not fs.delete(path, True):
            raise JobError(f"{place} could not be removed.")


class MountedFiles(Files):
    """Folders that Python sees, such as volumes on Databricks."""

    def names(self, folder: str) -> list[str]:
        path = _mounted(folder)
        return [item.name for item in path.iterdir()] if path.is_dir() else []

    def exists(self, place: str) -> bool:
        return _mounted(place).exists()

    def rename(self, place: str, to: str) -> None:
        target = _mounted(to)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise JobError(f"{place} could not be renamed to {to}. Does another job write there?")
        _mounted(place).rename(target)

    def drop(self, place: str) -> None:
        path = _mounted(place)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _mounted(place: str) -> Path:
    return Path(place.removeprefix("dbfs:"))


class SessionCatalog:
    """Tables of the session's own catalog."""

    def __init__(self, spark: Any) -> None:
        self._spark = spark

    def name_beside(self, place: str, key: str, token: str, ending: str) -> str:
        *schema, name = table_parts(place)
        return ".".join(tick(part) for part in (*schema, f"{name}__airflow_{key}_{token}_{ending}"))

    def beside(self, place: str) -> list[Beside]:
        *schema, name = table_parts(place)
        schema_name = ".".join(map(tick, schema))
        if not self._spark.catalog.databaseExists(schema_name):
            raise JobError(f"There is no schema {schema_name} for the output {place}; create it first.")
        names = [row["tableName"] for row in self._spark.sql(f"SHOW TABLES IN {schema_name}").collect()]
        pattern = rf"(?i){re.escape(name)}__airflow_([^_]+)_[^_]+_(new|old|old_part)"
        found = _parsed(pattern, "", names)
        return [Beside(".".join(map(tick, [*schema, item.place])), item.key, item.ending) for item in found]

    def exists(self, place: str) -> bool:
        return bool(self._spark.catalog.tableExists(quoted(place)))

    def rename(self, place: str, to: str) -> None:
        self._spark.sql(f"ALTER TABLE {quoted(place)} RENAME TO {quoted(to)}")

    def drop(self, place: str) -> None:
        self._spark.sql(f"DROP TABLE IF EXISTS {quoted(place)}")


def swap(store: Store, new: str, target: str, name_old: Callable[[], str]) -> None:
    """Let ``new`` take the target's place by two renames, and remove what stood there.

    :param name_old: gives a name for the time between the renames
    """
    old = name_old() if store.exists(target) else None
    if old is not None:
        store.rename(target, old)
    try:
        store.rename(new, target)
    except BaseException:
        if old is not None:
            store.rename(old, target)
        raise
    if old is not None:
        store.drop(old)


def recover(store: Store, place: str, target: str, key: str, *, is_part: bool) -> None:
    """Put back what a killed job has moved away, and remove what killed tries of this run have left.

    Without a target, its OLD tells that a job was killed between its two renames, whoever's it was. An OLD beside a
    target was only not yet removed.

    :param is_part: the target is this run's part of the place; those of other runs are theirs to mend
    """
    for item in store.beside(place):  # before the target is looked for: it may just come into its place
        if item.ending == NEW:
            if item.key == key:
                store.drop(item.place)
        elif item.ending == (OLD_PART if is_part else OLD) and (item.key == key or not is_part):
            if store.exists(target):
                store.drop(item.place)
            else:
                store.rename(item.place, target)


@contextmanager
def unless_another_did(store: Store, place: str) -> Iterator[list[bool]]:
    """Have a table made in the block; it is no error if another run was faster.

    Gives a list that is empty if this block has not made it.
    """
    made = [True]
    try:
        yield made
    except Exception:  # formats with transactions have errors of their own
        if not store.exists(place):
            raise
        made.clear()


def refuse_other_columns(place: str, found: Any, frame: Any, partitions: Sequence[str] = ()) -> None:
    """Raise JobError with the list of what differs; types of partitions of files are guessed from folder names."""
    old = {field.name: field.dataType.simpleString() for field in found if field.name != RUN_COLUMN}
    new = {field.name: field.dataType.simpleString() for field in frame.schema if field.name != RUN_COLUMN}
    problems = [f"{name!r} is {old[name]} there and missing here" for name in old if name not in new]
    problems += [f"{name!r} is {new[name]} here and missing there" for name in new if name not in old]
    problems += [
        f"{name!r} is {old[name]} there and {kind} here"
        for name, kind in new.items()
        if name in old and old[name] != kind and name not in partitions
    ]
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise JobError(f"Rows cannot be appended to {place}, which has other columns:{listed}")


def table_provider(spark: Any, table: str) -> str | None:
    """Return the format of a table; None if there is no such table."""
    if not spark.catalog.tableExists(quoted(table)):
        return None
    rows = {row[0]: row[1] for row in spark.sql(f"DESCRIBE TABLE EXTENDED {quoted(table)}").collect()}
    if "VIEW" in str(rows.get("Type", "")).upper():
        raise JobError(f"The output {table} is a view; name a table.")
    return str(rows.get("Provider", "")).lower()


def default_provider(spark: Any) -> str:
    """Return the format of new tables."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ or "databricks" in type(spark).__module__:
        return "delta"
    return str(spark.conf.get("spark.sql.sources.default", "parquet")).lower()


def check_remote_folder(job: Any) -> None:
    """Raise JobError for a job that cannot write files where nothing can be renamed."""
    if not job.appends or job.partition_by or job.quarantines:
        raise JobError(
            "Over Spark Connect, files can only be written with mode='append', without partition_by and with "
            f"on_bad_rows='fail': folders cannot be renamed there. Write {job.output} as a table instead."
        )
