"""From a registry's answer to a JSON object or the right error, worded for the person who must act on it."""

from __future__ import annotations

import re
from typing import Any

from airflow_uc_models.exceptions import (
    InvalidRequestError,
    PermissionDeniedError,
    RegistryError,
    UnauthenticatedError,
    classify,
)
from airflow_uc_models.registry.call import Request, Response

_EXCERPT = 400
_BAD_TOKEN = re.compile(
    r"\b(invalid|expired|revoked) (\w+ )?token|\btoken (is |has |was )?(been )?(invalid|expired|revoked)|expired ?jwt",
    re.IGNORECASE,
)
_NO_REGISTRY = "That is not how a model registry answers: check host, port and path prefix of {connection}."


def expect_object(response: Response, request: Request, label: str) -> dict[str, Any]:
    """Return the JSON object of a successful answer; raise the error class that fits any other."""
    body = response.body()
    if 200 <= response.status < 300 and body is not None:
        return body
    raise error_of(response, request, label)


def unreadable(response: Response, request: Request, label: str, error: Exception) -> RegistryError:
    """Build the error for a successful answer that lacks what was asked for."""
    said = _excerpt(response.text.strip() or "an empty body")
    return InvalidRequestError(
        f"Could not {request.action}: the {label} answered {response.status} without what was asked for "
        f"({type(error).__name__}: {error}): {said} {_NO_REGISTRY.format(connection=response.connection)}",
        status=response.status,
    )


def error_of(response: Response, request: Request, label: str) -> RegistryError:
    """Build the error for an answer: what was asked, what was answered, what is missing."""
    body = response.body() or {}
    code = body.get("error_code")
    code = code if isinstance(code, str) else None
    said = _excerpt(str(body.get("message") or response.text.strip() or "no text"))
    error_class = UnauthenticatedError if is_refused_token(response.status, said) else classify(response.status, code)
    message = f"Could not {request.action}: the {label} answered {response.status}"
    message += f" {code}: {said}" if code else f": {said}"
    if not message.endswith((".", "!", "?")):
        message += "."
    return error_class(message + _advice(error_class, response, request, code), status=response.status, error_code=code)


def is_refused_token(status: int, text: str) -> bool:
    """Whether an answer refuses the token: Databricks says so with 403, too (databricks-sdk-go#1046)."""
    return status == 401 or (status == 403 and bool(_BAD_TOKEN.search(text)))


def _advice(error_class: type[RegistryError], response: Response, request: Request, code: str | None) -> str:
    if issubclass(error_class, PermissionDeniedError):
        lacks = f" The principal of {response.connection} lacks a privilege."
        return f" It needs {request.needs}." if request.needs else lacks
    if issubclass(error_class, UnauthenticatedError):
        return f" Check the login, password or token of {response.connection}."
    if 300 <= response.status < 400:
        target = response.headers.get("location", "?")
        return f" It redirects to {target}; put the final address into {response.connection}."
    if code is None and response.status < 500 and response.status != 429:
        return f" {_NO_REGISTRY.format(connection=response.connection)}"
    return ""


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."
