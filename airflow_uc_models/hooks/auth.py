"""From an Airflow connection to an httpx.Auth; credentials live there and in request headers, nowhere else."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import httpx

from airflow_uc_models.exceptions import ConnectionConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection


class BearerAuth(httpx.Auth):
    """Send a fixed token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the Authorization header."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def mlflow_auth(connection: Connection, extra: Mapping[str, Any]) -> httpx.Auth | None:
    """Return token or basic auth of an ``mlflow`` connection, or None where it has neither."""
    token = extra.get("token")
    if token and connection.login:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has both a login and a token; an MLflow server takes one of them."
        )
    if token:
        return BearerAuth(str(token))
    if connection.login:
        return httpx.BasicAuth(connection.login, connection.password or "")
    if connection.password:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has a password but no login. Put a bearer token into the field "
            "'Token' (extra 'token')."
        )
    return None
