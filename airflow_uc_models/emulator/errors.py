"""Errors as a Databricks workspace words them: a status, a code and a text."""

from __future__ import annotations

from starlette.responses import JSONResponse


class ApiError(Exception):
    """Becomes the answer ``{"error_code": ..., "message": ...}``.

    :param status: the HTTP status
    :param code: the ``error_code``; a number where the gateway, not the service, answers
    """

    def __init__(self, status: int, code: str | int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse({"error_code": self.code, "message": self.message}, self.status)


def invalid(message: str) -> ApiError:
    """Build the refusal of a parameter."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str, code: str = "RESOURCE_DOES_NOT_EXIST") -> ApiError:
    """Build the answer for what is not there."""
    return ApiError(404, code, message)


def exists(message: str) -> ApiError:
    """Build the answer for what is there already; MLflow's protocol gives it status 400."""
    return ApiError(400, "RESOURCE_ALREADY_EXISTS", message)


def denied(message: str) -> ApiError:
    """Build the answer for a lacking privilege."""
    return ApiError(403, "PERMISSION_DENIED", message)


def wrong_state(message: str) -> ApiError:
    """Build the answer for an operation that the object's state does not allow."""
    return ApiError(400, "INVALID_STATE", message)
