"""Errors of this package, and the one function that tells which of them an HTTP answer is.

::

    UCModelsError
    |-- InvalidNameError              a name, alias, version or URI that no registry would take (also ValueError)
    |-- InvalidArgumentError          parameters that contradict each other or break a registry's rule
    |-- ConnectionConfigError         the Airflow connection cannot serve this purpose
    |-- UnsupportedOperationError     the registry has no such operation
    |-- ModelContentError             the model itself: no MLmodel, no signature, wrong columns
    |-- ModelEnvironmentError         the environment of the model's packages could not be built or started
    |-- InputDataError                the rows to score: missing, unreadable, values of another type
    |-- OutputError                   a place to write to: no permission, no space, no folder
    |   `-- OutputUnavailableError    the same, for a failure that may pass
    |-- PredictionError               the model failed on rows, or gave something that is no prediction for each
    |-- AliasConflictError            an alias did not point where it had to
    |-- ModelVersionFailedError       a version ended in FAILED_REGISTRATION
    `-- RegistryError                 the registry answered, or failed to
        |-- NotFoundError
        |-- AlreadyExistsError
        |-- PermissionDeniedError
        |-- UnauthenticatedError
        |-- InvalidRequestError
        |-- ConflictError             a passing conflict, such as a concurrent write
        |   `-- TakenOverError        another try of the same task does the work
        `-- RegistryUnavailableError  429, 5xx, timeouts and resets that outlived their retries
            `-- UnknownEffectError    the same, for a write that may or may not have happened

``permanent`` says that a retry of the task cannot help; operators then fail without using up their retries.

Errors about what a registry has or answered name the Airflow connection: whoever talks to the registry puts it on the
error with ``used``, in one place for workers and triggers.
"""

from __future__ import annotations

from typing import ClassVar, Self


class UCModelsError(Exception):
    """Base of all errors that this package raises on purpose."""

    permanent: ClassVar[bool] = True
    names_connection: ClassVar[bool] = False
    connection: str = ""

    def used(self, connection: str) -> Self:
        """Name the connection that led here, such as ``connection 'mlflow_dev'``, unless the error names one."""
        if self.names_connection and not self.connection:
            self.connection = connection
        return self

    def __str__(self) -> str:
        text = super().__str__()
        if not self.connection or self.connection in text:
            return text
        label, _, conn_id = self.connection.rpartition(" ")
        return f"{text}{'' if text.endswith(('.', '!', '?')) else '.'} {label.capitalize()}: {conn_id}."


class InvalidNameError(UCModelsError, ValueError):
    """A name, alias, version or URI that no registry would take."""


class InvalidArgumentError(UCModelsError, ValueError):
    """Parameters that contradict each other or break a rule of the registry."""


class ConnectionConfigError(UCModelsError):
    """The Airflow connection is of the wrong type or lacks what is needed."""


class UnsupportedOperationError(UCModelsError):
    """The registry has no such operation."""

    names_connection = True


class ModelContentError(UCModelsError):
    """The model's files are not what was asked for: no MLmodel, no signature, other columns."""

    names_connection = True


class ModelEnvironmentError(UCModelsError):
    """The environment of the model's own packages could not be built, or the model's process not be started."""

    permanent = False


class InputDataError(UCModelsError):
    """The rows to score are missing, unreadable, or hold values of another type."""


class OutputError(UCModelsError):
    """What is to be written cannot be: a missing permission, a full disk, a file where a folder must be."""


class OutputUnavailableError(OutputError):
    """The place to write to did not answer, or refused in a way that may pass."""

    permanent = False


class PredictionError(UCModelsError):
    """The model failed on some rows, or returned something other than one prediction for each."""

    permanent = False


class AliasConflictError(UCModelsError):
    """The alias points, or came to point, to another version than this operation relied on."""

    names_connection = True


class ModelVersionFailedError(UCModelsError):
    """The model version ended in FAILED_REGISTRATION."""

    names_connection = True


class RegistryError(UCModelsError):
    """The registry's answer was an error.

    :param message: what was asked, what was answered and what can be done about it
    :param status: the HTTP status, or None where no answer came
    :param error_code: the registry's own code, such as ``RESOURCE_DOES_NOT_EXIST``
    """

    names_connection = True

    def __init__(self, message: str, *, status: int | None = None, error_code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code


class NotFoundError(RegistryError):
    """The model, version, alias, run, schema or catalog does not exist."""


class AlreadyExistsError(RegistryError):
    """A model of that name exists."""


class PermissionDeniedError(RegistryError):
    """The principal of the connection lacks a privilege."""


class UnauthenticatedError(RegistryError):
    """The registry did not accept the credentials of the connection."""


class InvalidRequestError(RegistryError):
    """The registry refused the request as invalid."""


class ConflictError(RegistryError):
    """A concurrent change got in the way; trying again can help."""

    permanent = False


class TakenOverError(ConflictError):
    """Another try of the same task instance runs and does the work, or has done it."""


class RegistryUnavailableError(RegistryError):
    """The registry gave no usable answer, though asked repeatedly."""

    permanent = False


class UnknownEffectError(RegistryUnavailableError):
    """No answer to a write that must not be repeated blindly: it may or may not have happened."""


# error_code first, then status: stores disagree on the status of one and the same condition
# (RESOURCE_ALREADY_EXISTS is 400 in MLflow, ALREADY_EXISTS 409 in Unity Catalog).
_BY_CODE: dict[str, type[RegistryError]] = {
    "RESOURCE_DOES_NOT_EXIST": NotFoundError,
    "NOT_FOUND": NotFoundError,
    "METASTORE_DOES_NOT_EXIST": NotFoundError,
    "CATALOG_DOES_NOT_EXIST": NotFoundError,
    "SCHEMA_DOES_NOT_EXIST": NotFoundError,
    "CATALOG_NOT_FOUND": NotFoundError,
    "SCHEMA_NOT_FOUND": NotFoundError,
    "RESOURCE_ALREADY_EXISTS": AlreadyExistsError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "CUSTOMER_UNAUTHORIZED": UnauthenticatedError,
    "INVALID_PARAMETER_VALUE": InvalidRequestError,
    "INVALID_ARGUMENT": InvalidRequestError,
    "INVALID_STATE": InvalidRequestError,
    "FAILED_PRECONDITION": InvalidRequestError,
    "BAD_REQUEST": InvalidRequestError,
    "RESOURCE_CONFLICT": ConflictError,
    "ABORTED": ConflictError,
    "REQUEST_LIMIT_EXCEEDED": RegistryUnavailableError,
    "RESOURCE_EXHAUSTED": RegistryUnavailableError,
    "TEMPORARILY_UNAVAILABLE": RegistryUnavailableError,
}
_BY_ENDING: dict[str, type[RegistryError]] = {
    "_DOES_NOT_EXIST": NotFoundError,
    "_NOT_FOUND": NotFoundError,
    "_ALREADY_EXISTS": AlreadyExistsError,
}
_BY_STATUS: dict[int, type[RegistryError]] = {
    400: InvalidRequestError,
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    408: RegistryUnavailableError,
    409: ConflictError,
    429: RegistryUnavailableError,
    501: InvalidRequestError,
}


def classify(status: int, error_code: object) -> type[RegistryError]:
    """Return the error class of an answer; the registry's code decides before the HTTP status does.

    A code that is no text (gateways answer with a number) says nothing that the status does not.

    A 404 without a code comes from something that is no registry (a wrong host or path prefix): it is never
    NotFoundError, or ``missing_ok=True`` would take a wrong address for a missing model.
    """
    code = error_code if isinstance(error_code, str) else ""
    if code in _BY_CODE:
        return _BY_CODE[code]
    for ending, error_class in _BY_ENDING.items():  # one code for each kind of securable
        if code.endswith(ending) and code != "ENDPOINT_NOT_FOUND":
            return error_class
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return RegistryUnavailableError if status >= 500 else InvalidRequestError
