"""The error tree, and which error an answer is."""

from __future__ import annotations

import inspect
import re

import pytest

from airflow_uc_models import exceptions
from airflow_uc_models.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RegistryError,
    RegistryUnavailableError,
    UCModelsError,
    UnauthenticatedError,
    UnknownEffectError,
    classify,
)

CLASSES = {
    name: value
    for name, value in vars(exceptions).items()
    if inspect.isclass(value) and issubclass(value, UCModelsError)
}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Depth in the drawing, four columns a level, is depth in the class hierarchy."""
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        if found := re.match(r"    ([ |`]*(?:-- )?)([A-Z]\w+Error)\b", line):
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            drawn[found[2]] = path[depth - 1] if depth else None
    real = {
        name: next((b.__name__ for b in c.__bases__ if issubclass(b, UCModelsError)), None)
        for name, c in CLASSES.items()
    }
    assert drawn == real


def test_what_a_retry_can_mend_is_not_permanent() -> None:
    passing = {name for name, error in CLASSES.items() if not error.permanent}
    assert passing == {
        "ConflictError",
        "ModelEnvironmentError",
        "OutputUnavailableError",
        "PredictionError",
        "RegistryUnavailableError",
        "UnknownEffectError",
        "TakenOverError",
    }


@pytest.mark.parametrize("error", [InvalidNameError, InvalidArgumentError])
def test_bad_arguments_are_value_errors(error) -> None:
    assert issubclass(error, ValueError)


def test_registry_errors_carry_status_and_code() -> None:
    error = NotFoundError("gone", status=404, error_code="RESOURCE_DOES_NOT_EXIST")
    assert (str(error), error.status, error.error_code) == ("gone", 404, "RESOURCE_DOES_NOT_EXIST")
    assert (RegistryError("x").status, RegistryError("x").error_code) == (None, None)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "RESOURCE_DOES_NOT_EXIST", NotFoundError),
        (404, "NOT_FOUND", NotFoundError),
        (400, "METASTORE_DOES_NOT_EXIST", NotFoundError),
        (404, "SCHEMA_NOT_FOUND", NotFoundError),
        (400, "RESOURCE_ALREADY_EXISTS", AlreadyExistsError),
        (409, "ALREADY_EXISTS", AlreadyExistsError),
        (403, "PERMISSION_DENIED", PermissionDeniedError),
        (403, None, PermissionDeniedError),
        (401, "UNAUTHENTICATED", UnauthenticatedError),
        (401, None, UnauthenticatedError),
        (400, "INVALID_PARAMETER_VALUE", InvalidRequestError),
        (400, None, InvalidRequestError),
        (400, "NEVER_HEARD_OF", InvalidRequestError),
        (409, None, ConflictError),
        (409, "ABORTED", ConflictError),
        (429, None, RegistryUnavailableError),
        (429, "REQUEST_LIMIT_EXCEEDED", RegistryUnavailableError),
        (408, None, RegistryUnavailableError),
        (500, None, RegistryUnavailableError),
        (500, "INTERNAL_ERROR", RegistryUnavailableError),
        (503, "TEMPORARILY_UNAVAILABLE", RegistryUnavailableError),
        (599, None, RegistryUnavailableError),
        # no code: something that is no registry answered
        (404, None, InvalidRequestError),
        (404, "NEVER_HEARD_OF", InvalidRequestError),
        (405, None, InvalidRequestError),
        (302, None, InvalidRequestError),
        (200, None, InvalidRequestError),
    ],
)
def test_answers_are_classified_by_code_then_by_status(status, code, kind) -> None:
    assert classify(status, code) is kind


def test_the_code_decides_before_the_status() -> None:
    assert classify(500, "RESOURCE_DOES_NOT_EXIST") is NotFoundError
    assert classify(404, "PERMISSION_DENIED") is PermissionDeniedError


def test_no_answer_is_ever_an_unknown_effect() -> None:
    """That is told by the transport, which knows whether the request may be repeated."""
    assert all(classify(status, None) is not UnknownEffectError for status in range(100, 600))
