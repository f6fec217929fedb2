"""Environments on disk: each is built once, used by many tasks at a time, and removed when others need its place.

A folder per environment, and beside it a lock file, which is held in shared mode while the environment is used and
alone while it is built or removed. A marker file is written last, so an unfinished environment counts for nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airflow_uc_models.exceptions import InvalidArgumentError, ModelEnvironmentError

log = logging.getLogger(__name__)

_MARKER = "environment.json"
SECTION, FOLDER_OPTION, SIZE_OPTION = "uc_models", "environments_folder", "environments_max_gb"
_DEFAULT_GB = 10.0


@dataclass(frozen=True)
class EnvironmentCache:
    """Environments in one folder, which tasks of one worker or of several share.

    :param most_bytes: after a build, environments that were not used for the longest time are removed until all take
        no more than this; one that is in use stays
    """

    folder: Path
    most_bytes: int

    @classmethod
    def configured(cls) -> EnvironmentCache:
        """Return the cache that the section ``[uc_models]`` of Airflow's configuration names."""
        from airflow_uc_models.compat import conf

        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "airflow-uc-models" / "environments"
        folder = conf.get(SECTION, FOLDER_OPTION, fallback=None) or str(default)
        gigabytes = conf.get(SECTION, SIZE_OPTION, fallback=None) or _DEFAULT_GB
        try:
            most_bytes = int(float(gigabytes) * 1e9)
        except (ValueError, OverflowError):
            raise InvalidArgumentError(f"[{SECTION}] {SIZE_OPTION} must be a number, not {gigabytes!r}.") from None
        try:
            return cls(Path(folder).expanduser().absolute(), most_bytes)
        except RuntimeError:
            raise InvalidArgumentError(
                f"Environments of models have no place: this user has no home folder. Set [{SECTION}] {FOLDER_OPTION} "
                "in Airflow's configuration, or env_manager='local'."
            ) from None

    @contextmanager
    def environment(self, key: str, build: Callable[[Path, int], None]) -> Iterator[Path]:
        """Have an environment for the time of the block, built before if there is none.

        :param key: names what is in it
        :param build: fills a new folder; gets a file descriptor, too, for the processes it starts to hold: until the
            last one has ended nobody else works on the folder, even if this task is killed
        """
        place = self.folder / key
        with self._lock_file(key) as lock:
            while True:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if self._is_complete(place):
                    break
                fcntl.flock(lock, fcntl.LOCK_UN)
                self._build(place, lock, build)
            _note_use(place)
            yield place

    @contextmanager
    def existing(self, key: str) -> Iterator[Path | None]:
        """Have an environment for the time of the block if it is built already; else None, at once."""
        if not self._is_complete(self.folder / key):
            yield None
            return
        with self._lock_file(key) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                is_there = self._is_complete(self.folder / key)
                if is_there:
                    _note_use(self.folder / key)
            except BlockingIOError:
                is_there = False
            yield self.folder / key if is_there else None

    def remember(self, about: str, key: str) -> None:
        """Note which environment somebody has used; a hint, which may be wrong by the time it is read.

        :param about: who
        """
        note = self._note(about)
        if self.recall(about) != key:
            temporary = note.with_suffix(f".{os.getpid()}.tmp")
            with suppress(OSError):
                temporary.write_text(key, encoding="utf-8")
                temporary.replace(note)

    def recall(self, about: str) -> str | None:
        """Return what ``remember`` noted last; None if nothing."""
        with suppress(OSError):
            return self._note(about).read_text(encoding="utf-8")
        return None

    def _note(self, about: str) -> Path:
        return self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.note"

    def _build(self, place: Path, lock: IO[str], build: Callable[[Path, int], None]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for another task that builds the environment %s", place)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if self._is_complete(place):
            return
        _remove(place)
        try:
            build(place, lock.fileno())
        except BaseException:
            _remove(place)
            raise
        size = sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir())
        temporary = place / f"{_MARKER}.tmp"
        temporary.write_text(json.dumps({"bytes": size}), encoding="utf-8")
        temporary.replace(place / _MARKER)
        if not self._is_complete(place):
            raise ModelEnvironmentError(f"The environment {place} was built, and there is no Python in it.")
        try:
            self._make_room(place)
        except (OSError, ModelEnvironmentError) as error:  # the environment is good, all the same
            log.warning("Old environments could not be removed: %s", error)

    def _make_room(self, newest: Path) -> None:
        """Remove what no task uses: leftovers first, then what was not used for the longest time."""
        by_age: list[tuple[float, int, Path]] = []
        for place in self.folder.iterdir():
            if place.is_dir() and place != newest:
                if self._is_complete(place):
                    by_age.append((_last_use(place), _size(place), place))
                else:
                    self._remove_unused(place)
        for note in self.folder.glob("*.note"):
            with suppress(FileNotFoundError):  # others make room, too
                if not (self.folder / note.read_text(encoding="utf-8") / _MARKER).exists():
                    note.unlink()
        total = _size(newest) + sum(size for _, size, _ in by_age)
        if _size(newest) > self.most_bytes:
            log.warning("The environment %s alone takes %.1f GB, more than the cache may", newest, _size(newest) / 1e9)
        for _, size, place in sorted(by_age):
            if total <= self.most_bytes:
                break
            if self._remove_unused(place):
                total -= size

    def _remove_unused(self, place: Path) -> bool:
        with self._lock_file(place.name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            log.info("Removing the environment %s to make room", place)
            _remove(place)
        return True

    @contextmanager
    def _lock_file(self, key: str) -> Iterator[IO[str]]:
        # Never removed: whoever waits for a removed one would not see the next one.
        try:
            lock = self._opened(self.folder / f"{key}.lock")
        except OSError as error:
            raise ModelEnvironmentError(
                f"Environments of models cannot be kept in {self.folder}: {error}. Set [{SECTION}] {FOLDER_OPTION} in "
                "Airflow's configuration to a folder that this worker may write to, or env_manager='local'."
            ) from error
        with lock:
            yield lock

    def _opened(self, file: Path) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return file.open("a")
        except OSError:
            # What somebody has built there can be used also by those who may only read.
            if not self._is_complete(file.with_suffix("")):
                raise
            return file.open()

    @staticmethod
    def _is_complete(place: Path) -> bool:
        # The interpreter is a link, and what it points to may have gone with an update of the worker.
        return (place / _MARKER).is_file() and (place / "bin" / "python").exists()


def _remove(place: Path) -> None:
    (place / _MARKER).unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        shutil.rmtree(place)


def _size(place: Path) -> int:
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads((place / _MARKER).read_text(encoding="utf-8"))["bytes"])
    return 0


def _note_use(place: Path) -> None:
    with suppress(OSError):  # another user has built it, or nobody may write there
        os.utime(place / _MARKER)


def _last_use(place: Path) -> float:
    with suppress(OSError):
        return (place / _MARKER).stat().st_mtime
    return 0.0
