"""From an Airflow connection to an httpx.Auth; credentials live there and in request headers, nowhere else."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import httpx

from airflow_uc_models.exceptions import ConnectionConfigError

if TYPE_CHECKING:
    import ssl

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
        if not re.fullmatch(r"[!-~]+", str(token)):
            raise ConnectionConfigError(
                f"The token of connection {connection.conn_id!r} holds a space, a line break or another character "
                "that no HTTP header can carry; paste it again."
            )
        return BearerAuth(str(token))
    if connection.login:
        return httpx.BasicAuth(connection.login, connection.password or "")
    if connection.password:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has a password but no login. Put a bearer token into the field "
            "'Token' (extra 'token')."
        )
    return None


def mlflow_variables(connection: Connection, extra: Mapping[str, Any], verify: ssl.SSLContext | bool) -> dict[str, str]:
    """Return the environment variables by which mlflow's own client takes these credentials."""
    variables = {}
    if token := extra.get("token"):
        variables["MLFLOW_TRACKING_TOKEN"] = str(token)
    elif connection.login:
        variables["MLFLOW_TRACKING_USERNAME"] = connection.login
        variables["MLFLOW_TRACKING_PASSWORD"] = connection.password or ""
    if verify is False:
        variables["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
    elif verify is not True:
        variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(extra["verify"])
    return variables
