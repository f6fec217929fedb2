"""Files of an input and the file of an output, on this worker or in an object store."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_uc_models.compat import AirflowNotFoundException
from airflow_uc_models.exceptions import ConnectionConfigError, InputDataError, InvalidArgumentError, TakenOverError

_LOCAL = ("file", "local")


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder.

    :param shown: how messages name it
    :param fs: its fsspec file system
    :param path: its path there
    :param is_local: whether it is on this worker
    """

    shown: str
    fs: Any
    path: str
    is_local: bool

    @classmethod
    def parse(cls, text: str) -> Location:
        """Read a path, or a URI as Airflow's ObjectStoragePath takes it, such as ``s3://conn_id@bucket/key``."""
        text = text.strip()
        if not text:
            raise InvalidArgumentError(
                "A path is empty; give a path on the worker, or a URI like s3://conn_id@bucket/key."
            )
        scheme, is_uri, _ = text.partition("://")
        if not is_uri or scheme in _LOCAL:
            return cls._local(text, scheme if is_uri else "")
        from airflow.sdk import ObjectStoragePath

        try:
            path = ObjectStoragePath(text)
            return cls(text, path.fs, str(path.path).rstrip("/"), is_local=False)
        except AirflowNotFoundException:
            raise ConnectionConfigError(
                f"{text} names an Airflow connection that does not exist. Create it, or leave out what is before the @."
            ) from None
        except ValueError as error:
            raise ConnectionConfigError(
                f"{text} cannot be opened: {error}. Install the Airflow provider that serves {scheme}://."
            ) from error

    @classmethod
    def _local(cls, text: str, scheme: str) -> Location:
        from fsspec.implementations.local import LocalFileSystem

        given = text.removeprefix(f"{scheme}://") if scheme else text
        if scheme and "@" in given.partition("/")[0]:
            raise InvalidArgumentError(
                f"{text} names a connection, which files on the worker do not have; leave it out."
            )
        path = Path(given).expanduser().resolve()
        return cls(str(path), LocalFileSystem(), str(path), is_local=True)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The path of the folder around it."""
        return self.path.rpartition("/")[0] or "/"

    def holds(self, other: Location) -> bool:
        """Whether the other one is this one or lies below it."""
        return type(self.fs) is type(other.fs) and (other.path + "/").startswith(self.path.rstrip("/") + "/")

    def files(self) -> list[Location]:
        """Return the file itself, or the files of the folder by name; hidden ones (``.x``, ``_x``) are left out."""
        if self.fs.isfile(self.path):
            return [self]
        if not self.fs.isdir(self.path):
            raise InputDataError(f"The input {self.shown} does not exist.")
        found: list[str] = []
        folders: list[str] = []
        for path in sorted(str(p).rstrip("/") for p in self.fs.ls(self.path, detail=False)):
            name = path.rpartition("/")[2]
            if name == "_delta_log":
                raise InputDataError(
                    f"The input {self.shown} is a Delta table: some of its Parquet files hold rows that were deleted. "
                    "Write the rows to score to plain Parquet files first."
                )
            if path == self.path or name.startswith((".", "_")):
                continue
            (folders if self.fs.isdir(path) else found).append(path)
        if folders:
            raise InputDataError(
                f"The input folder {self.shown} has folders in it ({_some(folders)}), whose files would be left out; "
                "give a folder that has files only."
            )
        if not found:
            raise InputDataError(f"The input folder {self.shown} has no files.")
        return [Location(f"{self.shown.rstrip('/')}/{p.rpartition('/')[2]}", self.fs, p, self.is_local) for p in found]

    def open_input(self, *, random_access: bool) -> Any:
        """Open the file for Arrow.

        :param random_access: read pieces here and there, as Parquet does; else from front to end
        """
        import pyarrow as pa

        if self.is_local:
            # Not memory-mapped: mapped pages would count as this task's memory.
            return pa.OSFile(self.path, "rb")
        # Reading ahead would fetch megabytes for each column chunk, to throw most of them away.
        options = {"cache_type": "none"} if random_access else {}
        return self.fs.open(self.path, "rb", **options)


def _some(paths: list[str], most: int = 5) -> str:
    names = [path.rpartition("/")[2] for path in paths[:most]]
    return ", ".join(names) + (f" and {len(paths) - most} more" if len(paths) > most else "")


@contextmanager
def new_file(target: Location, key: str) -> Iterator[Any]:
    """Open a new file that takes the target's place when the block ends well, and is gone if it does not.

    It is written beside the target under a hidden name. What killed tries with the same key left there is removed
    first; a try that is still alive then fails to rename its file, and so cannot spoil this one's. A missing folder
    is made on the worker only: object stores need none, and some drivers would make a bucket.

    Raises: TakenOverError where another try with the same key has removed the file, to write its own.
    """
    import pyarrow as pa

    temporary = f"{target.parent.rstrip('/')}/{_mark(target, key)}{secrets.token_hex(4)}.tmp"
    if target.is_local:
        Path(target.parent).mkdir(parents=True, exist_ok=True)
    remove_unfinished(target, key)
    try:
        with pa.OSFile(temporary, "wb") if target.is_local else target.fs.open(temporary, "wb") as file:
            yield file
        _rename(target, temporary)
    except BaseException:
        with suppress(Exception):
            target.fs.rm_file(temporary)
        raise


def _rename(target: Location, temporary: str) -> None:
    try:
        if target.is_local:
            Path(temporary).replace(target.path)
        else:
            target.fs.mv(temporary, target.path)
    except FileNotFoundError as error:
        raise TakenOverError(
            f"{target.shown} was not written: another try of this task runs at the same time and writes it."
        ) from error


def remove_unfinished(target: Location, key: str) -> None:
    """Remove what ``new_file`` with this key has begun and not finished."""
    mark = _mark(target, key)
    target.fs.invalidate_cache(target.parent)
    with suppress(FileNotFoundError):  # an object store has no folder before its first file
        for path in target.fs.ls(target.parent, detail=False):
            if str(path).rpartition("/")[2].startswith(mark):
                target.fs.rm_file(path)


def _mark(target: Location, key: str) -> str:
    return f".{target.name}.{key[:12]}-"
