"""From an Airflow connection to an endpoint: which registry it is, how to reach it, where its pages are."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_uc_models.exceptions import ConnectionConfigError
from airflow_uc_models.hooks.auth import mlflow_auth
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.mlflow_rest import MlflowRestRegistry

if TYPE_CHECKING:
    from airflow.sdk import Connection

_YEAR = 365 * 24 * 3600.0
_TRUE, _FALSE = {"true", "1", "yes", ""}, {"false", "0", "no"}


@dataclass(frozen=True)
class Endpoint:
    """A registry and the way to it.

    :param conn_id: the Airflow connection it was made from
    :param registry: the protocol to speak
    :param transport: how to reach it
    :param web_url: where people's browsers reach its pages
    :param connection: login, password and host, for those who must hand them to mlflow
    :param extra: the connection's extra, read once
    """

    conn_id: str
    registry: Registry
    transport: Transport
    web_url: str
    connection: Connection = field(repr=False)
    extra: Mapping[str, Any] = field(repr=False)

    @property
    def address(self) -> str:
        """The server's address, without credentials."""
        return self.transport.base_url

    def is_same_server(self, other: Endpoint) -> bool:
        """Whether the two reach one and the same registry."""
        return (self.address, self.registry.capabilities) == (other.address, other.registry.capabilities)

    def model_version_url(self, name: str, version: int | None) -> str:
        """Return the page of a model version, or of the model."""
        path = f"{self.web_url}/#/models/{quote(name, safe='')}"
        return path if version is None else f"{path}/versions/{version}"


def endpoint_of(connection: Connection, extra: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint of a connection; ConnectionConfigError if it is of another type or incomplete."""
    try:
        build = _BUILDERS[connection.conn_type or ""]
    except KeyError:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} is of type {connection.conn_type!r}; a model registry needs one of: "
            f"{', '.join(sorted(_BUILDERS))}."
        ) from None
    return build(connection, extra)


def _mlflow(connection: Connection, extra: Mapping[str, Any]) -> Endpoint:
    registry = MlflowRestRegistry()
    base_url = _base_url(connection)
    transport = Transport(
        base_url=base_url,
        auth=mlflow_auth(connection, extra),
        verify=_verify(connection.conn_id, extra, base_url),
        timeout=_seconds(connection.conn_id, extra, "timeout", 30.0, least=0.001),
        max_retry_seconds=_seconds(connection.conn_id, extra, "max_retry_seconds", 60.0),
        label=registry.capabilities.label,
        hint=f"Is the server running, and are host and port of connection {connection.conn_id!r} right?",
    )
    web_url = str(extra.get("web_url") or base_url).rstrip("/")
    return Endpoint(connection.conn_id, registry, transport, web_url, connection, extra)


_BUILDERS: dict[str, Callable[[Connection, Mapping[str, Any]], Endpoint]] = {"mlflow": _mlflow}


def _base_url(connection: Connection) -> str:
    """Put host, port and schema together; the host field may hold a whole URL."""
    host = (connection.host or "").strip()
    if not host:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has no host; give the server's address, such as http://mlflow:5000."
        )
    if "@" in host:  # before any message could quote it
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has credentials inside the host; put them into login and password."
        )
    try:
        parts = urlsplit(host if "://" in host else f"{connection.schema or 'http'}://{host}")
        port = parts.port or connection.port
    except ValueError as error:
        raise ConnectionConfigError(f"Connection {connection.conn_id!r}: {host!r} is no address: {error}.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r}: {host!r} is no http or https address; an MLflow server is reached "
            "as http://host:port. A database or file store is not a server: start one with `mlflow server`."
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _verify(conn_id: str, extra: Mapping[str, Any], base_url: str) -> ssl.SSLContext | bool:
    value = extra.get("verify", True)
    text = str(value if value is not None else "").strip()
    if text.lower() in _FALSE or base_url.startswith("http://"):
        return False
    if text.lower() in _TRUE:
        return True
    if not Path(text).is_file():
        raise ConnectionConfigError(
            f"Connection {conn_id!r}: 'verify' is {text!r}, which is neither true, false nor a readable CA bundle."
        )
    try:
        return ssl.create_default_context(cafile=text)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConnectionConfigError(
            f"Connection {conn_id!r}: 'verify' is {text!r}, which holds no certificates: {error}."
        ) from None


def _seconds(conn_id: str, extra: Mapping[str, Any], key: str, default: float, least: float = 0) -> float:
    value = extra.get(key)
    if value in (None, ""):
        return default
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not least <= seconds < _YEAR:
        raise ConnectionConfigError(
            f"Connection {conn_id!r}: extra {key!r} must be a number of seconds, not {value!r}."
        )
    return seconds
