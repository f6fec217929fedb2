"""Where mlflow finds the files of a model version in Unity Catalog on Databricks.

The workspace names one of three ways, and mlflow has a repository for each: its Files API, presigned addresses, or
cloud storage with credentials for a while. mlflow makes them from profiles and environment variables. Here they never
see the credentials of the connection: what they ask the workspace goes through its own transport or client, which put
headers on each request and renew a token that is refused, so that nothing expires in long work.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import RegistryError, RegistryUnavailableError
from airflow_uc_models.hooks import model_files_cloud
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.hooks.masking import mask_credentials
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transport import SyncRun
from airflow_uc_models.hooks.workspace import workspace_client
from airflow_uc_models.registry import databricks_files
from airflow_uc_models.registry.databricks_files import Address, Entry
from airflow_uc_models.registry.mlflow_rest import MlflowRestRegistry

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
# databricks-sdk holds the part of a file that it uploads, and more, in memory: so many files at once, or so many parts
# of one, of so many bytes; files that would have more parts than clouds take are left to its own choice.
_FILES, _PARTS, _PART_BYTES, _MAX_PARTS = 3, 6, 6 << 20, 10_000


def repository(hook: ModelRegistryHook, version: ModelVersion, run: SyncRun, *, write: bool) -> ArtifactRepository:
    """Return mlflow's repository for the files of a version.

    :param run: drives calls to the workspace, for as long as the repository is used
    :param write: files will be uploaded
    """
    registry = hook.registry
    assert isinstance(registry, MlflowRestRegistry)  # noqa: S101 - the caller chose this module by it
    if _wants_files_api(hook, registry):
        return _files_api(hook.endpoint, version)

    def credentials() -> dict[str, Any]:
        vended = run(registry.temporary_credentials(version.name, version.version, write=write))
        mask_credentials(vended)
        return vended

    first = credentials()
    if first.get("storage_mode") == "DEFAULT_STORAGE":
        return _presigned(hook, registry, version, run)
    from mlflow.protos.databricks_uc_registry_messages_pb2 import TemporaryCredentials

    location = version.storage_location or hook.run(
        registry.get_model_version_download_uri(version.name, version.version)
    )
    return model_files_cloud.repository(location, TemporaryCredentials, credentials, first=first)


def _wants_files_api(hook: ModelRegistryHook, registry: MlflowRestRegistry) -> bool:
    """Decide as mlflow does: its environment variable, else the workspace, else no."""
    from mlflow import environment_variables

    # mlflow >= 3.9 has the variable; an earlier one asks the workspace only
    variable = getattr(environment_variables, "MLFLOW_USE_DATABRICKS_SDK_MODEL_ARTIFACTS_REPO_FOR_UC", None)
    if variable is not None and variable.defined:
        return bool(variable.get())
    try:
        return hook.run(registry.files_api_enabled())
    except RegistryUnavailableError:
        raise  # nor would it give credentials now
    except RegistryError as error:
        log.warning("The workspace does not tell how model files are transferred; trying cloud storage (%s)", error)
        return False


def _files_api(endpoint: Endpoint, version: ModelVersion) -> ArtifactRepository:
    from mlflow.store.artifact.cloud_artifact_repo import CloudArtifactRepository
    from mlflow.store.artifact.databricks_sdk_models_artifact_repo import DatabricksSDKModelsArtifactRepository

    class FilesRepository(DatabricksSDKModelsArtifactRepository):
        def __init__(self) -> None:
            self.model_name, self.model_version = version.name, str(version.version)
            self.model_base_path = f"/Models/{version.name.replace('.', '/')}/{version.version}"
            self.client = workspace_client(endpoint)
            self.parallelism = 1
            CloudArtifactRepository.__init__(self, self.model_base_path)

        @property
        def max_workers(self) -> int:
            return _FILES

        def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
            files = sum(1 for file in Path(local_dir).rglob("*") if file.is_file())
            self.parallelism = max(1, _PARTS // max(1, files))
            super().log_artifacts(local_dir, artifact_path)

        def _upload_to_cloud(
            self, cloud_credential_info: Any, src_file_path: str, artifact_file_path: str | None = None
        ) -> None:
            if not hasattr(self.client.files, "upload_from"):  # databricks-sdk before 0.72
                super()._upload_to_cloud(cloud_credential_info, src_file_path, artifact_file_path)
            else:
                _upload_from(
                    self.client, f"{self.model_base_path}/{artifact_file_path}", src_file_path, self.parallelism
                )

        def _download_file(self, remote_file_path: str, local_path: str) -> None:
            # mlflow lists the file's folder first, and reads 100 MB at once, in each of its threads.
            answer = self.client.files.download(f"{self.model_base_path}/{remote_file_path}")
            with answer.contents as source, Path(local_path).open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)

    return FilesRepository()


def _upload_from(client: WorkspaceClient, path: str, local_path: str, parallelism: int) -> None:
    """Upload a file in parts; what mlflow calls instead holds up to 30 of them in memory, in each of its threads."""
    small = Path(local_path).stat().st_size < _PART_BYTES * _MAX_PARTS
    client.files.upload_from(
        path, local_path, overwrite=True, parallelism=parallelism, part_size=_PART_BYTES if small else None
    )


def _presigned(
    hook: ModelRegistryHook, registry: MlflowRestRegistry, version: ModelVersion, run: SyncRun
) -> ArtifactRepository:
    from mlflow.store.artifact.presigned_url_artifact_repo import PresignedUrlArtifactRepository

    tried: set[str | None] = set()
    timeout = 2 * hook.endpoint.transport.timeout
    reading, writing = (registry.needs(verb, version.name) for verb in ("get_model_version", "create_model_version"))

    class PresignedRepository(PresignedUrlArtifactRepository):
        def _get_write_credential_infos(self, remote_file_paths: list[str]) -> list[Address]:
            paths = (f"{self.artifact_uri}/{path}" for path in remote_file_paths)
            return [run(databricks_files.upload_address(registry, path, writing)) for path in paths]

        def _upload_to_cloud(
            self, cloud_credential_info: Address, src_file_path: str, artifact_file_path: str | None = None
        ) -> None:
            if artifact_file_path in tried:  # its address may have expired meanwhile
                [cloud_credential_info] = self._get_write_credential_infos([artifact_file_path or ""])
            tried.add(artifact_file_path)
            # mlflow reads the whole file into memory; an empty stream would be sent chunked, which stores refuse.
            empty = Path(src_file_path).stat().st_size == 0
            with (
                Path(src_file_path).open("rb") as source,
                _request("put", cloud_credential_info, timeout, b"" if empty else source),
            ):
                pass

        def _download_file(self, remote_file_path: str, local_path: str) -> None:
            # mlflow lists the file's folder first, and reads 100 MB at once, in each of its threads.
            path = f"{self.artifact_uri}/{remote_file_path}"
            address = run(databricks_files.download_address(registry, path, reading))
            with _request("get", address, timeout) as answer, Path(local_path).open("wb") as sink:
                sink.writelines(answer.iter_content(_CHUNK))

        def list_artifacts(self, path: str | None = "") -> list[FileInfo]:
            base = f"{self.artifact_uri}/"
            return _as_infos(run(databricks_files.directory(registry, base + (path or ""), reading)), base)

    return PresignedRepository(None, version.name, version.version)


def _as_infos(entries: Iterable[Entry], base: str) -> list[FileInfo]:
    from mlflow.entities import FileInfo

    infos = [FileInfo(e.path.removeprefix(base), e.is_directory, None if e.is_directory else e.size) for e in entries]
    return sorted(infos, key=lambda info: info.path)


@contextmanager
def _request(method: str, address: Address, timeout: float, data: Any = None) -> Generator[Any, None, None]:
    """Send a file to a presigned address, or get one; once, as whoever calls tries again with a new address."""
    import requests
    from mlflow.utils.request_utils import augmented_raise_for_status, cloud_storage_http_request

    with cloud_storage_http_request(
        method, address.url, max_retries=0, data=data, headers=dict(address.headers), stream=True, timeout=timeout
    ) as response:
        try:
            augmented_raise_for_status(response)
        except requests.HTTPError as error:
            # Addresses are good for a while; on the next try there is a new one.
            error.is_passing = response.status_code in {401, 403}  # type: ignore[attr-defined]
            raise
        yield response
