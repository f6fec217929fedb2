"""Where the files of a model version lie on an open-source Unity Catalog server, as a repository of mlflow's.

The server names a place and leaves the bytes to its clients: a folder of its own file system, which the worker must
reach under the same path, or cloud storage with credentials for a while. mlflow's own code for folders is not used: it
deletes folders that it takes for temporary copies, the storage of the version that is being copied among them, and
leaves a file of its own in the storage of a version that it reads.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import ConnectionConfigError, ModelContentError
from airflow_uc_models.hooks import model_files_cloud
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry.unity_catalog_rest import UnityCatalogRestRegistry

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

# What mlflow's own downloads leave in the folder that they read.
_STRAY = "registered_model_meta"


def repository(hook: ModelRegistryHook, version: ModelVersion, *, write: bool) -> ArtifactRepository:
    """Return a repository for the files of a version.

    :param write: files will be uploaded
    """
    location = version.storage_location
    if not location:
        raise ModelContentError(f"{version.uri} has no storage location; the server keeps no files of it.")
    if urlsplit(location).scheme in {"file", ""}:
        return _folder(_reachable(version, Path(unquote(urlsplit(location).path)), write=write), write=write)
    return _cloud_storage(hook, version, location, write=write)


def _reachable(version: ModelVersion, folder: Path, *, write: bool) -> Path:
    if not folder.is_dir():
        raise ConnectionConfigError(
            f"The files of {version.uri} lie in {folder} on the file system of the Unity Catalog server, and this "
            "worker has no such folder. Mount it on the workers under the same path, or give the catalog or schema a "
            "storage_root in cloud storage."
        )
    if not os.access(folder, os.R_OK | os.X_OK | (os.W_OK if write else 0)):
        raise ConnectionConfigError(
            f"The files of {version.uri} lie in {folder}, which this worker's user may not "
            f"{'write to' if write else 'read'}: the Unity Catalog server made the folder. Run both as one user, or "
            "let them share a group by the folder's default ACL."
        )
    return folder


class _Folder:
    """Copies files into and out of one folder, and changes nothing else in it; completed by mlflow's base class."""

    root: Path
    hidden: Path | None

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        from mlflow.entities import FileInfo

        folder = self.root / (path or "")
        found = [f for f in sorted(folder.iterdir()) if f != self.hidden] if folder.is_dir() else []
        return [
            FileInfo(f.relative_to(self.root).as_posix(), f.is_dir(), None if f.is_dir() else f.stat().st_size)
            for f in found
        ]

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        name = Path(local_file).name
        self._upload_to_cloud(None, local_file, f"{artifact_path}/{name}" if artifact_path else name)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        for file in sorted(f for f in Path(local_dir).rglob("*") if f.is_file()):
            name = file.relative_to(local_dir).as_posix()
            self._upload_to_cloud(None, str(file), f"{artifact_path}/{name}" if artifact_path else name)

    def _upload_to_cloud(self, _: Any, src_file_path: str, artifact_file_path: str) -> None:
        # Named as in mlflow's repositories, for those who count files.
        target = self.root / artifact_file_path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(src_file_path, target)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

        if not (self.root / remote_file_path).is_file():
            raise MlflowException(f"There is no {remote_file_path} in {self.root}.", RESOURCE_DOES_NOT_EXIST)
        shutil.copyfile(self.root / remote_file_path, local_path)


def _folder(root: Path, *, write: bool) -> ArtifactRepository:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    class FolderRepository(_Folder, ArtifactRepository):
        """One folder as mlflow's transfers want it."""

    repository = FolderRepository(root.as_uri())
    repository.root, repository.hidden = root, None if write else root / _STRAY
    return repository


def _cloud_storage(hook: ModelRegistryHook, version: ModelVersion, location: str, *, write: bool) -> ArtifactRepository:
    try:
        from mlflow.protos.unity_catalog_messages_pb2 import TemporaryCredentials
    except ImportError:  # MLflow before its native client of Unity Catalog
        from mlflow.protos.unity_catalog_oss_messages_pb2 import TemporaryCredentials  # type: ignore[no-redef,import-not-found]

    registry = hook.registry
    assert isinstance(registry, UnityCatalogRestRegistry)  # noqa: S101 - the caller chose this module by it

    def credentials() -> dict[str, Any]:
        return hook.run(registry.temporary_credentials(version.name, version.version, write=write))

    return model_files_cloud.repository(location, TemporaryCredentials, credentials, is_oss=True)
