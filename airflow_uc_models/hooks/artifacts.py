"""Model files: read, download, upload, load. The only file that imports mlflow.

mlflow takes server and credentials from environment variables and module globals. ``mlflow_session`` sets them for
the length of one block and puts all of them back, under a lock, so that one task can use two connections and
nothing outlives it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import (
    ModelContentError,
    NotFoundError,
    RegistryUnavailableError,
    UCModelsError,
    classify,
)
from airflow_uc_models.hooks.auth import mlflow_variables
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry.registration import TASK_KEY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

log = logging.getLogger(__name__)

MLMODEL = "MLmodel"
# What a session sets where the user has not: mlflow's own retries would hold a worker for minutes.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
)
_session_lock = threading.RLock()


@contextmanager
def mlflow_session(registry_conn_id: str | ModelRegistryHook) -> Generator[str, None, None]:
    """Let mlflow talk to the server of an Airflow connection inside the block; yields its tracking URI.

    ::

        with mlflow_session("mlflow_default"):
            mlflow.sklearn.log_model(model, name="model")

    Tracking and registry URI, active experiment and every ``MLFLOW_*`` variable are put back afterwards. One
    session runs at a time in a process.

    :param registry_conn_id: the connection, or a hook on it
    """
    hook = registry_conn_id if isinstance(registry_conn_id, ModelRegistryHook) else ModelRegistryHook(registry_conn_id)
    endpoint = hook.endpoint
    with _session_lock:
        before = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}
        _set_variables(endpoint)
        try:
            with _globals_restored():
                import mlflow

                mlflow.set_tracking_uri(endpoint.address)
                mlflow.set_registry_uri(endpoint.address)
                yield endpoint.address
        finally:
            for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
                del os.environ[key]
            os.environ.update(before)


def version_mlmodel(hook: ModelRegistryHook, version: ModelVersion) -> dict[str, Any]:
    """Return the parsed MLmodel file of a version; ModelContentError if there is none."""
    uri = hook.run(hook.registry.get_model_version_download_uri(version.name, version.version))
    return mlmodel_at(hook, uri)


def mlmodel_at(hook: ModelRegistryHook, artifact_uri: str) -> dict[str, Any]:
    """Return the parsed MLmodel file below an artifact URI of the hook's server."""
    with mlflow_session(hook), _mlflow_errors(f"read {MLMODEL} of {artifact_uri}", hook.endpoint):
        repository = _repository(artifact_uri, hook.endpoint)
        names = {item.path for item in repository.list_artifacts()}
        if MLMODEL not in names:
            raise ModelContentError(_no_mlmodel(artifact_uri, is_empty=not names))
        with tempfile.TemporaryDirectory(prefix="mlmodel-") as folder:
            return read_mlmodel(Path(repository.download_artifacts(MLMODEL, folder)).parent)


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """Return the parsed MLmodel file of a local model folder."""
    import yaml

    if not folder.is_dir():
        raise ModelContentError(f"{folder} is not a folder on this worker; a model folder with an {MLMODEL} is needed.")
    file = folder / MLMODEL
    if not file.is_file():
        raise ModelContentError(_no_mlmodel(str(folder), is_empty=not any(folder.iterdir())))
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelContentError(f"{file} is not readable YAML: {error}") from error
    if not isinstance(content, dict) or not content.get("flavors"):
        raise ModelContentError(f"{file} names no flavor; it was not written by mlflow.")
    return content


def download_version(hook: ModelRegistryHook, version: ModelVersion, destination: Path) -> Path:
    """Download all files of a version into a folder, which is made; returns the folder that holds MLmodel."""
    uri = hook.run(hook.registry.get_model_version_download_uri(version.name, version.version))
    return download_files(hook, uri, destination)


def download_files(hook: ModelRegistryHook, artifact_uri: str, destination: Path) -> Path:
    """Download a model's files from an artifact URI of the hook's server."""
    destination.mkdir(parents=True, exist_ok=True)
    with mlflow_session(hook), _mlflow_errors(f"download {artifact_uri}", hook.endpoint):
        folder = Path(_repository(artifact_uri, hook.endpoint).download_artifacts("", str(destination)))
    # mlflow adds this file about where it downloaded from; it is no part of the model.
    (folder / "registered_model_meta").unlink(missing_ok=True)
    if not (folder / MLMODEL).is_file():
        raise ModelContentError(_no_mlmodel(artifact_uri, is_empty=not any(folder.iterdir())))
    return folder


def upload_logged_model(hook: ModelRegistryHook, folder: Path, name: str, key: str) -> str:
    """Store a local model folder on an MLflow server as a logged model and return its id.

    A server takes no version whose source it cannot vouch for, so a folder becomes a logged model first.

    :param name: the registered model it is for; names the experiment, too
    :param key: the task key; an upload that an earlier try finished is used again, an unfinished one is deleted
    """
    with mlflow_session(hook), _mlflow_errors(f"upload {folder}", hook.endpoint):
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment_id = _experiment(client, f"airflow_uc_models/{name}")
        earlier = client.search_logged_models([experiment_id], filter_string=f"tags.{TASK_KEY_TAG} = '{key}'")
        for model in earlier:
            if str(model.status) == "READY":
                return str(model.model_id)
            client.delete_logged_model(model.model_id)
        short_name = name.rpartition(".")[2].translate(str.maketrans("/:.%\"'", "______"))
        made = client.create_logged_model(experiment_id, name=short_name, tags={TASK_KEY_TAG: key})
        try:
            client.log_model_artifacts(made.model_id, str(folder))
            client.finalize_logged_model(made.model_id, "READY")
        except BaseException:
            with suppress(Exception):
                client.delete_logged_model(made.model_id)
            raise
        return str(made.model_id)


def load_pyfunc(folder: Path) -> PyFuncModel:
    """Load a downloaded model for prediction."""
    import mlflow.pyfunc

    try:
        model: PyFuncModel = mlflow.pyfunc.load_model(str(folder))
    except ImportError as error:
        raise ModelContentError(
            f"The model in {folder} needs {error.name or error}, which is not installed on this worker; its "
            "requirements.txt lists what it was made with."
        ) from error
    return model


def _repository(artifact_uri: str, endpoint: Endpoint) -> ArtifactRepository:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(artifact_uri, tracking_uri=endpoint.address, registry_uri=endpoint.address)


def _experiment(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # somebody else was faster
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _set_variables(endpoint: Endpoint) -> None:
    for key in _CREDENTIALS:
        os.environ.pop(key, None)
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)
    os.environ.update(mlflow_variables(endpoint.connection, endpoint.extra, endpoint.transport.verify))


@contextmanager
def _globals_restored() -> Generator[None, None, None]:
    """Put back what mlflow's fluent API keeps in module globals; it offers no way to read whether they are set."""
    from mlflow.tracking import fluent
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as tracking

    kept: list[tuple[Any, str, Any]] = [
        (module, name, getattr(module, name, None))
        for module, name in (
            (tracking, "_tracking_uri"),
            (registry, "_registry_uri"),
            (fluent, "_active_experiment_id"),
        )
    ]
    try:
        yield
    finally:
        tracking.set_tracking_uri(kept[0][2])  # also resets the tracer that remembers the URI
        for module, name, value in kept:
            setattr(module, name, value)


@contextmanager
def _mlflow_errors(action: str, endpoint: Endpoint) -> Generator[None, None, None]:
    """Turn what mlflow raises into this package's errors."""
    import requests
    from mlflow.exceptions import MlflowException

    def told(status: int | None, code: str | None, text: str) -> UCModelsError:
        message = f"Could not {action} on the {endpoint.registry.capabilities.label} at {endpoint.address}: {text}"
        if status is None and code is None:
            return RegistryUnavailableError(message)
        error_class = NotFoundError if status == 404 else classify(status or 500, code)
        return error_class(message, status=status, error_code=code)

    try:
        yield
    except MlflowException as error:
        text = str(error.message)
        raise told(error.get_http_status_code(), error.error_code, text) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise told(status, None, str(error)) from error
    except requests.RequestException as error:
        raise told(None, None, str(error)) from error


def _no_mlmodel(where: str, *, is_empty: bool) -> str:
    found = "is empty" if is_empty else f"holds no {MLMODEL} file"
    return f"{where} {found}; it is not a model that mlflow wrote."
