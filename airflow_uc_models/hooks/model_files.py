"""The files of a model version where the registry holds a copy of its own: down, up, and checked.

mlflow moves the bytes; here is what it leaves out: a line of progress for people, one more try for a file whose
transfer broke, and a comparison of names and sizes with what lies on the other side.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import ModelContentError, RegistryUnavailableError, UCModelsError
from airflow_uc_models.hooks import model_files_databricks, model_files_open_source
from airflow_uc_models.hooks.auth import DatabricksAuth
from airflow_uc_models.hooks.lineage import emit_download
from airflow_uc_models.hooks.mlflow_session import (
    as_registry_error,
    is_refused,
    mlflow_errors,
    mlflow_variables_set,
    status_and_code,
)
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transport import SyncRun
from airflow_uc_models.registry.mlflow_rest import MlflowRestRegistry

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 10.0
_TRIES = 6
_CLOUDS = ("botocore", "boto3", "s3transfer", "azure.", "google.")
_CLIENTS = ("databricks.sdk", *_CLOUDS)
_PASSING_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}  # of clouds
_STALE_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}


def download(hook: ModelRegistryHook, version: ModelVersion, folder: Path, file: str = "") -> None:
    """Download all files of a version, or one of them, into a folder that exists."""
    with _transfer(hook, version, "Downloading", write=False) as (repository, progress):
        if file:
            repository._download_file(file, str(folder / file))  # noqa: SLF001 - the public way lists folders first
            return
        repository.download_artifacts("", str(folder))
        _compare(progress.listed, _local_sizes(folder), f"the download of {version.uri}")
        progress.finish()
    emit_download(hook, version)


def sizes(hook: ModelRegistryHook, version: ModelVersion) -> dict[str, int | None]:
    """List all files of a version with their bytes, where the server tells them."""
    with _transfer(hook, version, "Listing", write=False) as (repository, _):
        return remote_sizes(repository)


def upload(hook: ModelRegistryHook, version: ModelVersion, folder: Path) -> None:
    """Upload all files of a folder to a version that is still pending."""
    with _transfer(hook, version, "Uploading", write=True) as (repository, progress):
        sizes = _local_sizes(folder)
        progress.files, progress.bytes = len(sizes), sum(sizes.values())
        repository.log_artifacts(str(folder), "")
        if found := _uploaded(repository, version):
            _compare(sizes, found, f"the upload to {version.uri}")
        progress.finish()


def _uploaded(repository: ArtifactRepository, version: ModelVersion) -> dict[str, int | None]:
    """List what was uploaded to a pending version; nothing, with a warning, where the registry does not let see it.

    Each upload was acknowledged. MlflowClient never looks, so no registry has to allow it.
    """
    try:
        found = remote_sizes(repository)
    except Exception as error:
        if not isinstance(error, UCModelsError) and not _is_of_transfer(error):
            raise
        log.warning("The files of %s were uploaded, but cannot be listed to compare them: %s", version.uri, error)
        return {}
    if not found:
        log.warning("The files of %s were uploaded, but the list of them is empty: not compared", version.uri)
    return found


class _Progress:
    """Says every few seconds how far a transfer is, and holds what is known of it."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.listed: dict[str, int | None] = {}
        self.files = self.bytes = self._files_done = self._bytes_done = 0
        self.failed: BaseException | None = None
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._files_done += 1
            self._bytes_done += size
            if time.monotonic() - self._told >= _PROGRESS_SECONDS:
                self._tell(self.what)

    def finish(self) -> None:
        # The task says what it moved; this says how fast.
        self._tell(f"{self.what}: done", logging.DEBUG)

    def _tell(self, what: str, level: int = logging.INFO) -> None:
        self._told = time.monotonic()
        rate = self._bytes_done / max(self._told - self._began, 1e-3) / 1e6
        total = f" of {self.files}" if self.files else ""
        total_mb = f" of {self.bytes / 1e6:,.1f}" if self.bytes else ""
        done = f"{self._files_done}{total} files, {self._bytes_done / 1e6:,.1f}{total_mb} MB"
        log.log(level, "%s: %s, %.1f MB/s", what, done, rate)


@contextmanager
def _transfer(
    hook: ModelRegistryHook, version: ModelVersion, what: str, *, write: bool
) -> Generator[tuple[Any, _Progress], None, None]:
    action = f"transfer the files of {version.uri}"
    with (
        mlflow_variables_set(_variables(hook), _patience(hook)),
        mlflow_errors(action, hook.endpoint),
        hook.endpoint.transport.session() as run,
    ):
        progress = _Progress(f"{what} {version.uri}")
        repository = _repository(hook, version, run, write=write)
        auth = hook.endpoint.transport.auth
        if isinstance(auth, DatabricksAuth):
            renewing(repository, lambda: _renew_keys(repository) or auth.renew())
        _watch(repository, progress, hook.endpoint.transport.max_retry_seconds)
        try:
            yield repository, progress
        except BaseException as error:
            if not _is_of_transfer(error):
                progress.failed = progress.failed or error  # what has not begun will not: a killed task stops at once
                raise
            failed = progress.failed or error  # mlflow tells of all files that failed; the first tells more
            verb = "create_model_version" if write else "get_model_version"
            wanted = hook.registry.needs(verb, version.name)
            # Not from it: it may quote addresses that are credentials.
            raise as_registry_error(failed, action, hook.endpoint, wanted) from None


def _repository(hook: ModelRegistryHook, version: ModelVersion, run: SyncRun, *, write: bool) -> ArtifactRepository:
    if isinstance(hook.registry, MlflowRestRegistry):
        return model_files_databricks.repository(hook, version, run, write=write)
    return model_files_open_source.repository(hook, version, write=write)


def _variables(hook: ModelRegistryHook) -> dict[str, str]:
    """Return how requests, which carries the bytes, gets the connection's proxy and CA bundle."""
    transport = hook.endpoint.transport
    variables: dict[str, str] = {}
    if transport.proxy:
        variables |= {"HTTP_PROXY": transport.proxy, "HTTPS_PROXY": transport.proxy}
    if hook.endpoint.ca_bundle:
        variables["REQUESTS_CA_BUNDLE"] = hook.endpoint.ca_bundle
    return variables


def _patience(hook: ModelRegistryHook) -> dict[str, str]:
    """Return what mlflow shall do unless the user says otherwise: each call is tried twice, as we try again, too."""
    timeout = str(max(1, round(hook.endpoint.transport.timeout)))
    return {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": timeout}


def renewing(repository: Any, renew: Callable[[], bool]) -> None:
    """Let a repository list a folder or move a file once more where its token or keys were refused meanwhile.

    :param renew: gets other ones; False if there are none
    """
    for name in ("list_artifacts", "_download_file", "_upload_to_cloud", "_get_write_credential_infos"):
        if (method := getattr(repository, name, None)) is not None:
            setattr(repository, name, _once_more(method, renew))


def _once_more(method: Callable[..., Any], renew: Callable[[], bool]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            if not (_is_stale(error) and renew()):
                raise
        log.info("The credentials for the files were refused; going on with new ones")
        return method(*args, **kwargs)

    return call


def _is_stale(error: BaseException) -> bool:
    """Whether credentials were refused: a token of the workspace, or keys of a cloud."""
    status, code = status_and_code(error)
    is_of_cloud = type(error).__module__.startswith(_CLOUDS)
    return is_refused(error) or (is_of_cloud and (status in {401, 403} or code in _STALE_CODES))


def _renew_keys(repository: Any) -> bool:
    """Let mlflow's repository ask for keys of the cloud anew; False for one that has none."""
    renew = getattr(repository, "_refresh_credentials", None)
    if renew is None:
        return False
    renew()
    return True


def _watch(repository: Any, progress: _Progress, max_retry_seconds: float) -> None:
    """Count each file that is moved; try again where the connection broke; stop all when one has failed for good."""
    again: Callable[..., Any] = tenacity.Retrying(
        stop=tenacity.stop_any(
            tenacity.stop_after_attempt(_TRIES), tenacity.stop_before_delay(max(max_retry_seconds, 0.001))
        ),
        wait=tenacity.wait_exponential(multiplier=0.5, max=10) + tenacity.wait_random(0, 0.5),
        retry=tenacity.retry_if_exception(_is_passing),
        reraise=True,
    )

    def carefully(move: Callable[[], Any], local_path: str) -> None:
        if progress.failed:
            raise InterruptedError("Not tried, because another file failed.")
        try:
            again(move)
        except BaseException as error:
            progress.failed = progress.failed or error
            raise
        progress.add(Path(local_path).stat().st_size)

    list_one, fetch = repository.list_artifacts, repository._download_file  # noqa: SLF001 - called for each file

    def list_artifacts(path: str | None = None) -> Any:
        found = again(list_one, path)
        progress.listed.update({item.path: item.file_size for item in found if not item.is_dir})
        return found

    def download_one(remote_file_path: str, local_path: str) -> None:
        carefully(partial(fetch, remote_file_path, local_path), local_path)

    repository.list_artifacts, repository._download_file = list_artifacts, download_one  # noqa: SLF001
    if (send := getattr(repository, "_upload_to_cloud", None)) is not None:

        def upload_one(cloud_credential_info: Any, src_file_path: str, artifact_file_path: str | None = None) -> None:
            carefully(partial(send, cloud_credential_info, src_file_path, artifact_file_path), src_file_path)

        repository._upload_to_cloud = upload_one  # noqa: SLF001
    if (addresses := getattr(repository, "_get_write_credential_infos", None)) is not None:
        # mlflow asks for those of all files at once, before it uploads the first
        repository._get_write_credential_infos = partial(again, addresses)  # noqa: SLF001


def _is_of_transfer(error: BaseException) -> bool:
    """Whether mlflow, requests, databricks-sdk or the client of a cloud raised it about a transfer that failed."""
    import requests
    from mlflow.exceptions import MlflowException

    kinds = (MlflowException, requests.RequestException, ConnectionError, TimeoutError)
    return isinstance(error, kinds) or type(error).__module__.startswith(_CLIENTS)


def _is_passing(error: BaseException) -> bool:
    """Whether another try can help: resets, timeouts and answers of a busy server, however they are wrapped."""
    if isinstance(error, UCModelsError):
        return not error.permanent
    text = f"{type(error).__name__} {error}"
    status, code = status_and_code(error)
    return (
        getattr(error, "is_passing", False)
        or isinstance(error, ConnectionError | TimeoutError)
        or (status is not None and (status >= 500 or status in {408, 429}))
        or code in _PASSING_CODES
        or any(word in text for word in ("Connection", "Timeout", "IncompleteRead", "Unavailable", "InternalError"))
    )


def _local_sizes(folder: Path) -> dict[str, int]:
    return {f.relative_to(folder).as_posix(): f.stat().st_size for f in folder.rglob("*") if f.is_file()}


def remote_sizes(repository: ArtifactRepository) -> dict[str, int | None]:
    """List all files of a repository with their bytes, where the server tells them."""

    def below(path: str) -> Iterable[tuple[str, int | None]]:
        for item in repository.list_artifacts(path):
            if item.is_dir:
                yield from below(item.path)
            else:
                yield item.path, item.file_size

    return dict(below(""))


def _compare(expected: dict[str, Any], found: dict[str, Any], what: str) -> None:
    """Raise if a file is missing, strange or of another size; a size that is not told, or as 0, is not compared."""
    missing, strange = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    other = [n for n in set(expected) & set(found) if expected[n] and found[n] and expected[n] != found[n]]
    if missing or strange or other:
        parts = {"missing": missing, "not expected": strange, "of another size": sorted(other)}
        told = "; ".join(f"{key}: {', '.join(names[:5])}" for key, names in parts.items() if names)
        raise RegistryUnavailableError(f"{what[:1].upper()}{what[1:]} is not complete ({told}).")
    if not expected:
        raise ModelContentError(f"{what[:1].upper()}{what[1:]} is empty: there are no files.")
