"""Putting a model's files where a user wants them: a folder on the worker or a place in an object store."""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path

from airflow_uc_models.entities import PENDING_REGISTRATION, ModelVersion
from airflow_uc_models.exceptions import ConflictError, InvalidArgumentError, ModelVersionFailedError
from airflow_uc_models.hooks.artifacts import MLMODEL, download_version
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.scratch import scratch_folder
from airflow_uc_models.writing import expect_writable_folder, expect_writable_store, writing

_RENAMES = 10


def download_to(hook: ModelRegistryHook, version: ModelVersion, destination: str) -> str:
    """Download a version to a folder or an object-store URI and return where it is."""
    if not destination:
        raise InvalidArgumentError("destination is empty; give a folder or an object-store URI.")
    if not version.is_ready:  # while it is pending, a retry of the task may find it READY
        error_class = ConflictError if version.status == PENDING_REGISTRATION else ModelVersionFailedError
        raise error_class(f"{version.name}/{version.version} is {version.status}; it has no complete files.")
    if "://" in destination and not destination.startswith("file://"):
        return _to_object_store(hook, version, destination)
    return _to_folder(hook, version, Path(destination.removeprefix("file://")))


def _to_folder(hook: ModelRegistryHook, version: ModelVersion, folder: Path) -> str:
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / MLMODEL).is_file())):
        raise InvalidArgumentError(f"{folder} exists and holds no model; it was left alone. Give another destination.")
    expect_writable_folder(folder.parent, str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder("download", folder.parent) as scratch:
        fetched = download_version(hook, version, scratch / "new")
        _replace(folder, fetched, scratch)
    return str(folder)


def _replace(folder: Path, new: Path, scratch: Path) -> None:
    """Put a whole folder in the place of another one, also while somebody else does the same."""
    for attempt in range(_RENAMES):
        with suppress(FileNotFoundError):
            folder.rename(scratch / f"old{attempt}")
        try:
            new.rename(folder)
        except OSError as error:
            # Somebody else's new one has come between the two renames, and is moved away, too.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    raise ConflictError(f"{folder} could not be replaced: other tasks write there all the time.")


def _to_object_store(hook: ModelRegistryHook, version: ModelVersion, uri: str) -> str:
    from airflow.sdk import ObjectStoragePath

    target = ObjectStoragePath(uri)
    try:
        filesystem = target.fs
    except ValueError as error:  # no provider for this scheme
        raise InvalidArgumentError(f"destination {uri!r} can't be written: {error}.") from error
    with writing(uri):
        target.mkdir(parents=True, exist_ok=True)
    expect_writable_store(filesystem, target.path, uri)
    with scratch_folder("model") as scratch:
        fetched = download_version(hook, version, scratch / "new")
        # MLmodel last: a folder without it is no model, so an interrupted upload is not taken for one.
        files = sorted((f for f in fetched.rglob("*") if f.is_file()), key=lambda f: f.name == MLMODEL)
        for file in files:
            copy = target / file.relative_to(fetched).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as source, filesystem.open(copy.path, "wb") as sink:
                shutil.copyfileobj(source, sink, 1024 * 1024)
    return uri
