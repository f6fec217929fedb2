"""Whether a place can be written: tried before the work that its output would come from, and told in words if not."""

from __future__ import annotations

import errno
import io
import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from airflow_uc_models.exceptions import OutputError, OutputUnavailableError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    **dict.fromkeys(_FULL, "Free space there, or write elsewhere."),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "Give the worker's user, or the connection, the right to write there."
    ),
    errno.EROFS: "The file system is mounted read-only; write elsewhere.",
    errno.ENOTDIR: "A part of the path is a file; name a path whose parts are folders.",
    errno.EISDIR: "It is a folder; name a file.",
    errno.ENOENT: "Its folder or bucket does not exist and cannot be made; create it first.",
    errno.EEXIST: "A part of the path is a file; name a path whose parts are folders.",
    errno.ENAMETOOLONG: "Give it a shorter name.",
    errno.EFBIG: "The file would exceed the worker's limit for files.",
}
# A block of a disk, so that a full one is found out.
_PROBE = b"\0" * 4096


@contextmanager
def writing(shown: str) -> Generator[None, None, None]:
    """Turn what a file system says inside the block into OutputError; OutputUnavailableError for what may pass.

    :param shown: how messages name the place
    """
    try:
        yield
    except OutputError:
        raise
    except (NotImplementedError, io.UnsupportedOperation) as error:  # fsspec's file systems that can only be read
        raise OutputError(
            f"{shown} cannot be written: its kind of storage can only be read. Write elsewhere."
        ) from error
    except Exception as error:
        number = getattr(error, "errno", None)
        said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        if number not in _ADVICE:
            raise OutputUnavailableError(f"{shown} could not be written: {said}") from error
        raise OutputError(f"{shown} cannot be written: {said.rstrip('.')}. {_ADVICE[number]}") from error


def expect_writable_folder(folder: Path, shown: str, prefix: str = ".probe-") -> None:
    """Write a file into a folder of the worker, or into the nearest one above that is there, and remove it."""
    with writing(shown):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
        number, name = tempfile.mkstemp(".tmp", prefix, folder)
        try:
            os.write(number, _PROBE)
            os.fsync(number)
        finally:
            os.close(number)
            with suppress(FileNotFoundError):  # another try has tidied up
                Path(name).unlink()


def expect_writable_store(fs: Any, folder: str, shown: str, prefix: str = ".probe-") -> None:
    """Do the same in an object store.

    :param fs: an fsspec file system
    """
    path = f"{folder.rstrip('/')}/{prefix}{secrets.token_hex(4)}.tmp"
    with writing(shown):
        with fs.open(path, "wb") as file:
            file.write(_PROBE)
        with suppress(FileNotFoundError):
            fs.rm_file(path)


def full_disk(error: BaseException) -> OutputError | None:
    """Return the error to raise instead, if an error comes from a full disk of the worker."""
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return None
        if isinstance(seen, OSError) and seen.errno in _FULL and not isinstance(error, OutputError):
            where = f" ({seen.filename})" if seen.filename else ""
            return OutputError(f"A disk of the worker is full{where}: {error}. Free space there, or in TMPDIR.")
        seen = seen.__cause__ or seen.__context__
    return None
