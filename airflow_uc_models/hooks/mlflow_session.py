"""mlflow on the credentials of an Airflow connection.

mlflow takes server and credentials from environment variables and module globals. ``mlflow_session`` sets them for
the length of one block and puts all of them back, under a lock, so that one task can use two connections and
nothing outlives it.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from airflow_uc_models.exceptions import (
    NotFoundError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UCModelsError,
    UnauthenticatedError,
    classify,
)
from airflow_uc_models.hooks.auth import DatabricksAuth
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.hooks.masking import quiet_libraries
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry.answers import is_refused_token

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
    "MLFLOW_UC_OSS_TOKEN",
)
# databricks-sdk tells the status by the class of the error, or the one that this derives from.
_SDK_STATUS = {
    "BadRequest": 400,
    "Unauthenticated": 401,
    "PermissionDenied": 403,
    "NotFound": 404,
    "ResourceConflict": 409,
    "TooManyRequests": 429,
    "Cancelled": 499,
    "InternalError": 500,
    "NotImplemented": 501,
    "TemporarilyUnavailable": 503,
    "DeadlineExceeded": 504,
}
_lock = threading.RLock()


@contextmanager
def mlflow_session(registry_conn_id: str | ModelRegistryHook) -> Generator[str, None, None]:
    """Let mlflow talk to the server of an Airflow connection inside the block; yields its tracking URI.

    ::

        with mlflow_session("mlflow_default"):
            mlflow.sklearn.log_model(model, name="model")

    Of a ``databricks`` connection it is the workspace: runs and logged models go to its tracking server, registered
    models to Unity Catalog. Of a ``unity_catalog`` connection it is the registry alone; runs go where they go outside
    of the block. Tracking and registry URI, active experiment and every ``MLFLOW_*`` and ``DATABRICKS_*``
    variable are put back afterwards. One session runs at a time in a process.

    :param registry_conn_id: the connection, or a hook on it
    """
    hook = registry_conn_id if isinstance(registry_conn_id, ModelRegistryHook) else ModelRegistryHook(registry_conn_id)
    settings = hook.endpoint.mlflow
    with mlflow_variables_set(settings.variables()), _globals_restored():
        import mlflow

        tracking_uri = settings.tracking_uri or mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(settings.registry_uri)
        yield tracking_uri


def renew_session(endpoint: Endpoint) -> bool:
    """Let mlflow go on with another token inside a session on this endpoint; False if there is none."""
    auth = endpoint.transport.auth
    if not isinstance(auth, DatabricksAuth) or not auth.renew():
        return False
    os.environ.update(endpoint.mlflow.variables())
    _forget_clients()
    return True


@contextmanager
def mlflow_variables_set(
    variables: Mapping[str, str], defaults: Mapping[str, str] | None = None
) -> Generator[None, None, None]:
    """Set environment variables for one block in which nobody else's mlflow runs, instead of the user's credentials."""
    with _lock, quiet_libraries():
        before = {key: value for key, value in os.environ.items() if _is_ours(key) or key in variables}
        try:
            for key in list(os.environ):
                if key in _CREDENTIALS or key.startswith("DATABRICKS_"):
                    del os.environ[key]
            for key, value in {**_DEFAULTS, **(defaults or {})}.items():
                os.environ.setdefault(key, value)
            os.environ.update(variables)
            _forget_clients()
            yield
        finally:
            _forget_clients()
            for key in [key for key in os.environ if _is_ours(key) or key in variables]:
                del os.environ[key]
            os.environ.update(before)


def _forget_clients() -> None:
    """Empty mlflow's cache of clients by host: the next principal would get this one's credentials."""
    module = sys.modules.get("mlflow.utils.rest_utils")
    clear = getattr(getattr(module, "get_workspace_client", None), "cache_clear", None)
    if clear is not None:
        clear()


def _is_ours(key: str) -> bool:
    return key.startswith(("MLFLOW_", "DATABRICKS_"))


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
def mlflow_errors(action: str, endpoint: Endpoint) -> Generator[None, None, None]:
    """Turn what mlflow raises into this package's errors."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise as_registry_error(error, action, endpoint) from None  # it may quote addresses that are credentials


def as_registry_error(error: BaseException, action: str, endpoint: Endpoint, needs: str = "") -> UCModelsError:
    """Return the error of this package for what mlflow, requests or databricks-sdk raised; it names the connection.

    :param needs: the privileges that the action asks for
    """
    if isinstance(error, UCModelsError):
        return error.used(endpoint.connection_label)
    return _as_error(error, action, endpoint, needs).used(endpoint.connection_label)


def _as_error(error: BaseException, action: str, endpoint: Endpoint, needs: str) -> UCModelsError:
    status, code = status_and_code(error)
    # Presigned addresses are credentials.
    text = re.sub(r"\?[^\s'\"<>)]*=[^\s'\"<>)]*", "?...", str(getattr(error, "message", None) or error))
    message = f"Could not {action} on the {endpoint.registry.capabilities.label} at {endpoint.address}: {text}"
    if status is None and code is None:
        return RegistryUnavailableError(message)
    error_class = NotFoundError if status == HTTPStatus.NOT_FOUND else classify(status or 500, code)
    if is_refused_token(status or 0, text):
        error_class = UnauthenticatedError
    if needs and issubclass(error_class, PermissionDeniedError):
        message += f" It needs {needs}."
    if issubclass(error_class, UnauthenticatedError):
        message += f" Check the login, password or token of {endpoint.connection_label}."
    return error_class(message, status=status, error_code=code)


def is_refused(error: BaseException) -> bool:
    """Whether mlflow, requests or databricks-sdk raised it because the token was refused."""
    if isinstance(error, UCModelsError):
        return isinstance(error, UnauthenticatedError)
    status, _ = status_and_code(error)
    return is_refused_token(status or 0, str(error))


def status_and_code(error: BaseException) -> tuple[int | None, str | None]:
    """Return the status of the answer and its error code; whatever is no text there is no code."""
    code = getattr(error, "error_code", None)
    code = code if isinstance(code, str) and code else None
    if type(error).__module__.startswith("databricks.sdk"):
        known = (_SDK_STATUS.get(base.__name__) for base in type(error).__mro__)
        return next((status for status in known if status), None), code
    if isinstance(answer := getattr(error, "response", None), dict):  # of botocore
        found = answer.get("ResponseMetadata") or {}
        return found.get("HTTPStatusCode"), (answer.get("Error") or {}).get("Code")
    if type(error).__module__.startswith(("azure.", "google.")):
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        return int(status) if isinstance(status, int) else None, code
    if hasattr(error, "get_http_status_code"):
        body = getattr(error, "json", None)  # of a RestException, which takes a number for an internal error
        number = body.get("error_code") if isinstance(body, dict) else None
        if isinstance(number, int) and 400 <= number < 600:
            return number, None
        return error.get_http_status_code(), code
    return getattr(getattr(error, "response", None), "status_code", None), None
