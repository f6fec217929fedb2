"""The bytes of model versions: a folder per model and version, written and read in pieces."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from airflow_uc_models.emulator.errors import ApiError, invalid, missing

_PIECE = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file or a folder below a version."""

    name: str
    is_directory: bool
    size: int
    modified: int


class FileStore:
    """Files by model id, version and path. A file appears whole or not at all.

    :param root: the folder to keep them in
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, model_id: str, version: int, relative: str) -> Path:
        """Return where a file lies."""
        parts = [part for part in relative.split("/") if part]
        if any(part in {".", ".."} or "\x00" in part for part in parts):
            raise invalid(f"{relative!r} is not a valid path.")
        return self.root.joinpath(model_id, str(version), *parts)

    async def write(self, target: Path, pieces: AsyncIterator[bytes], *, overwrite: bool = True) -> None:
        """Write a file as its bytes come in."""
        self.refuse_overwriting(target, overwrite=overwrite)
        temporary = self.temporary()
        try:
            with temporary.open("wb") as file:
                async for piece in pieces:
                    file.write(piece)
            self.place(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def refuse_overwriting(self, target: Path, *, overwrite: bool) -> None:
        """Raise if a file of that name is in the way."""
        if target.is_dir():
            raise invalid("The file being created is a directory.")
        if target.exists() and not overwrite:
            raise ApiError(409, "ALREADY_EXISTS", "The file being created already exists.")

    def temporary(self) -> Path:
        """Return a new path for a file that is being written."""
        folder = self.root / ".incoming"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def place(self, temporary: Path, target: Path) -> None:
        """Move a finished file to its place."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise invalid(f"{target.parent.name!r} is a file, not a directory.") from None
        temporary.replace(target)

    def join(self, parts: list[Path], target: Path) -> None:
        """Make one file of its parts, which are used up on the way."""
        first = parts[0]
        with first.open("ab") as file:
            for part in parts[1:]:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file, _PIECE)
                part.unlink()
        self.place(first, target)

    def read(self, path: Path, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a file from start to before end."""
        with path.open("rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(_PIECE, end - start))):
                start += len(piece)
                yield piece

    def entries(self, folder: Path) -> list[Entry]:
        """List a folder by name."""
        if not folder.is_dir():
            raise missing("The directory being accessed is not found.", "NOT_FOUND")
        with os.scandir(folder) as found:
            listed = [_entry(item) for item in found]
        return sorted(listed, key=lambda entry: entry.name)

    def remove(self, model_id: str, version: int | None = None) -> None:
        """Delete the files of a version, or of a whole model."""
        folder = self.root / model_id
        shutil.rmtree(folder if version is None else folder / str(version), ignore_errors=True)

    def clear(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def _entry(item: os.DirEntry[str]) -> Entry:
    stat = item.stat()
    size = 0 if item.is_dir() else stat.st_size
    return Entry(item.name, item.is_dir(), size, int(stat.st_mtime * 1000))
