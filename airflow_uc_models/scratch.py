"""Temporary folders that outlive no task for long, even if its process is killed.

Each holds a file ``owner`` that its process keeps locked, and that says for which task it is. The operating system
drops the lock when the process ends, however it ends. So a folder whose lock can be taken has no owner any more: the
retry of its task removes it, and any later task of this package, once it is a day old. Only real folders of the same
user with the right name are looked at; several workers may share the place.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = re.compile(r"\.?uc-models-[a-z]+-\w+")
_OWNER = "owner"
_DAY = 24 * 3600.0
_task: ContextVar[str] = ContextVar("uc_models_task", default="")


@contextmanager
def scratch_folder(purpose: str, parent: Path | None = None) -> Generator[Path, None, None]:
    """Have an empty folder inside the block.

    :param purpose: one lower-case word, part of its name
    :param parent: where to make it, hidden; the system's folder for temporary files if not given
    """
    if parent is not None:
        sweep(parent)
    root = Path(tempfile.mkdtemp(prefix=f"{'.' if parent else ''}uc-models-{purpose}-", dir=parent))
    owner = os.open(root / _OWNER, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX)
        os.write(owner, _task.get().encode())
        files = root / "files"
        files.mkdir()
        yield files
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(owner)


@contextmanager
def scratch_of_task(task: str) -> Generator[None, None, None]:
    """Make folders for this task inside the block; what its earlier tries left is removed first.

    :param task: what all tries of a task instance have in common, and no other one has
    """
    token = _task.set(task)
    try:
        sweep()
        yield
    finally:
        _task.reset(token)


def sweep(place: Path | None = None) -> None:
    """Remove the folders whose processes have ended: those of this task, and those that are a day old."""
    try:
        with os.scandir(place or tempfile.gettempdir()) as entries:
            found = [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name) and _is_ours(entry)]
    except OSError as error:
        log.debug("Nothing is swept: %s", error)
        return
    for root in found:
        try:
            _remove_if_left(root)
        except OSError as error:
            log.debug("%s stays: %s", root, error)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _remove_if_left(root: Path) -> None:
    age = time.time() - root.stat().st_mtime
    try:
        owner = os.open(root / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # just being made, or its process was killed while it was
        if age > _DAY:
            shutil.rmtree(root)
        return
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        task = os.read(owner, 10_000).decode("utf-8", "replace")
        if age > _DAY or (task and task == _task.get()):
            log.info("Removing %s, left by a task whose process was killed", root)
            shutil.rmtree(root)
    except BlockingIOError:
        pass  # in use
    finally:
        os.close(owner)
