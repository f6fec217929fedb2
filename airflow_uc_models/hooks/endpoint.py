"""From an Airflow connection to an endpoint: which registry it is, how to reach it, where its pages are."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_uc_models.exceptions import ConnectionConfigError
from airflow_uc_models.hooks.auth import (
    USER_AGENT,
    DatabricksAuth,
    databricks_variables,
    mlflow_auth,
    mlflow_variables,
    unity_catalog_auth,
    unity_catalog_variables,
)
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.mlflow_rest import UNITY_CATALOG, UNITY_CATALOG_PREFIX, MlflowRestRegistry
from airflow_uc_models.registry.unity_catalog_rest import PREFIX as OPEN_SOURCE_PREFIX
from airflow_uc_models.registry.unity_catalog_rest import UnityCatalogRestRegistry

if TYPE_CHECKING:
    from airflow.sdk import Connection

_YEAR = 365 * 24 * 3600.0
_EXAMPLES = {
    "databricks": "https://adb-1234567890123456.7.azuredatabricks.net",
    "unity_catalog": "http://unity-catalog:8080",
}
_TRUE, _FALSE = {"true", "1", "yes", ""}, {"false", "0", "no"}


@dataclass(frozen=True)
class MlflowSettings:
    """What mlflow is told, to work on the same server.

    :param registry_uri: where registered models are
    :param tracking_uri: where runs and logged models are; None where the server has none
    :param variables: returns the environment variables with the credentials, as they are now
    """

    registry_uri: str
    tracking_uri: str | None
    variables: Callable[[], dict[str, str]] = field(repr=False)


@dataclass(frozen=True)
class Endpoint:
    """A registry and the way to it.

    :param conn_id: the Airflow connection it was made from
    :param registry: the protocol to speak
    :param transport: how to reach it
    :param web_url: where people's browsers reach its pages
    :param page: from that address, a model's name and a version to the page of the version, or of the model
    :param connection: login, password and host, for those who must hand them to mlflow
    :param mlflow: what mlflow is told
    :param ca_bundle: path of the certificates that are trusted instead of the usual ones
    """

    conn_id: str
    registry: Registry
    transport: Transport
    web_url: str
    connection: Connection = field(repr=False)
    mlflow: MlflowSettings
    ca_bundle: str | None
    page: Callable[[str, str, int | None], str] = field(repr=False)

    @property
    def address(self) -> str:
        """The server's address, without credentials."""
        return self.transport.base_url

    @property
    def connection_label(self) -> str:
        """How messages name the connection, such as ``connection 'mlflow_dev'``."""
        return self.transport.connection

    def is_same_server(self, other: Endpoint) -> bool:
        """Whether the two reach one and the same registry."""
        return (self.address, self.registry.capabilities) == (other.address, other.registry.capabilities)

    def model_version_url(self, name: str, version: int | None) -> str:
        """Return the page of a model version, or of the model."""
        return self.page(self.web_url, name, version)


def endpoint_of(connection: Connection, extra: Mapping[str, Any], role: str = "") -> Endpoint:
    """Return the endpoint of a connection; ConnectionConfigError if it is of another type or incomplete.

    :param role: what it is for where a task uses two, such as ``source``; messages say so
    """
    try:
        build = _BUILDERS[connection.conn_type or ""]
    except KeyError:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} is of type {connection.conn_type!r}; a model registry needs one of: "
            f"{', '.join(sorted(_BUILDERS))}."
        ) from None
    endpoint = build(connection, extra)
    label = f"{role} connection {connection.conn_id!r}".lstrip()
    return replace(endpoint, transport=replace(endpoint.transport, connection=label))


def _endpoint(
    connection: Connection,
    extra: Mapping[str, Any],
    registry: Registry,
    base_url: str,
    *,
    mlflow: MlflowSettings,
    page: Callable[[str, str, int | None], str],
    web_url: str | None = None,
    **options: Any,
) -> Endpoint:
    """Put together what endpoints of all kinds have.

    :param web_url: where its pages are unless the connection says so; its address, if not given
    :param options: what else the transport of this kind is told
    """
    conn_id = connection.conn_id
    trust = _trust(conn_id, extra, base_url)
    usual = {"hint": f"Is the server running, and are host and port of connection {conn_id!r} right?"}
    transport = Transport(
        base_url=base_url,
        verify=trust if isinstance(trust, bool) else _certificates(conn_id, trust),
        timeout=_seconds(conn_id, extra, "timeout", 30.0, least=0.001),
        max_retry_seconds=_seconds(conn_id, extra, "max_retry_seconds", 60.0),
        label=registry.capabilities.label,
        **{**usual, **options},
    )
    return Endpoint(
        conn_id=conn_id,
        registry=registry,
        transport=transport,
        web_url=str(extra.get("web_url") or (base_url if web_url is None else web_url)).rstrip("/"),
        connection=connection,
        mlflow=mlflow,
        ca_bundle=None if isinstance(trust, bool) else trust,
        page=page,
    )


def _mlflow(connection: Connection, extra: Mapping[str, Any]) -> Endpoint:
    base_url = _base_url(connection)
    trust = _trust(connection.conn_id, extra, base_url)
    return _endpoint(
        connection,
        extra,
        MlflowRestRegistry(),
        base_url,
        auth=mlflow_auth(connection, extra),
        mlflow=MlflowSettings(base_url, base_url, partial(mlflow_variables, connection, extra, trust)),
        page=_mlflow_page,
    )


def _mlflow_page(web_url: str, name: str, version: int | None) -> str:
    page = f"{web_url}/#/models/{quote(name, safe='')}"
    return page if version is None else f"{page}/versions/{version}"


def _databricks(connection: Connection, extra: Mapping[str, Any]) -> Endpoint:
    """Read a connection of the official provider: Models in Unity Catalog of that workspace."""
    conn_id = connection.conn_id
    if extra.get("registry") not in (None, "", "unity_catalog"):
        raise ConnectionConfigError(
            f"Connection {conn_id!r}: extra 'registry' is {extra['registry']!r}; of a workspace's registries only "
            "unity_catalog is served. Models of the legacy workspace registry are migrated by mlflow's own copy."
        )
    # The provider takes the scheme from the schema field, which people also use for a default SQL schema.
    scheme = connection.schema if connection.schema in {"http", "https"} else "https"
    base_url = _base_url(connection, host=extra.get("host") or connection.host, scheme=scheme)
    base_url = base_url.removesuffix(urlsplit(base_url).path)  # people paste the address of some page
    auth = DatabricksAuth(connection, base_url, _trust(conn_id, extra, base_url))
    return _endpoint(
        connection,
        extra,
        MlflowRestRegistry(UNITY_CATALOG_PREFIX, UNITY_CATALOG),
        base_url,
        auth=auth,
        mlflow=MlflowSettings("databricks-uc", "databricks", partial(databricks_variables, connection, base_url, auth)),
        page=_catalog_explorer_page,
        proxy=_proxy(conn_id, extra, base_url),
        hint=f"Is the host of connection {conn_id!r} the workspace's address?",
        headers={"User-Agent": USER_AGENT},
    )


def _catalog_explorer_page(web_url: str, name: str, version: int | None) -> str:
    page = f"{web_url}/explore/data/models/{'/'.join(quote(level, safe='') for level in name.split('.'))}"
    return page if version is None else f"{page}/version/{version}"


def _proxy(conn_id: str, extra: Mapping[str, Any], base_url: str) -> str | None:
    """Return the proxy for an address, as the Databricks provider reads ``proxies``."""
    proxies = extra.get("proxies")
    if not proxies:
        return None
    if not isinstance(proxies, Mapping) or set(proxies) - {"http", "https"} or not all(proxies.values()):
        raise ConnectionConfigError(
            f'Connection {conn_id!r}: extra \'proxies\' must be an object such as {{"https": "http://proxy:3128"}}.'
        )
    found = proxies.get(urlsplit(base_url).scheme)
    return str(found) if found else None


def _unity_catalog(connection: Connection, extra: Mapping[str, Any]) -> Endpoint:
    """Read a connection to an open-source Unity Catalog server."""
    # People paste the address that the server's other clients want.
    base_url = _base_url(connection).removesuffix(OPEN_SOURCE_PREFIX)
    return _endpoint(
        connection,
        extra,
        UnityCatalogRestRegistry(),
        base_url,
        auth=unity_catalog_auth(connection, extra),
        mlflow=MlflowSettings(f"uc:{base_url}", None, partial(unity_catalog_variables, connection, extra)),
        page=_unity_catalog_page,
        web_url="",  # the server has no pages of its own; its UI is another process
    )


def _unity_catalog_page(web_url: str, name: str, version: int | None) -> str:
    if not web_url:
        return ""
    page = f"{web_url}/models/{'/'.join(quote(level, safe='') for level in name.split('.'))}"
    return page if version is None else f"{page}/versions/{version}"


_BUILDERS: dict[str, Callable[[Connection, Mapping[str, Any]], Endpoint]] = {
    "databricks": _databricks,
    "mlflow": _mlflow,
    "unity_catalog": _unity_catalog,
}


def _base_url(connection: Connection, *, host: str | None = None, scheme: str | None = None) -> str:
    """Put host, port and schema together; the host field may hold a whole URL."""
    host = (host or connection.host or "").strip()
    scheme = scheme or connection.schema or "http"
    if not host:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has no host; give the server's address, such as "
            f"{_EXAMPLES.get(connection.conn_type or '', 'http://mlflow:5000')}."
        )
    if "@" in host:  # before any message could quote it
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has credentials inside the host; put them into login and password."
        )
    try:
        parts = urlsplit(host if "://" in host else f"{scheme}://{host}")
        port = parts.port or connection.port
    except ValueError as error:
        raise ConnectionConfigError(f"Connection {connection.conn_id!r}: {host!r} is no address: {error}.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r}: {host!r} is no http or https address; a server is reached "
            "as http://host:port. A database or file store is not a server: start one with `mlflow server`."
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _trust(conn_id: str, extra: Mapping[str, Any], base_url: str) -> bool | str:
    """Return whether certificates are checked; by which, if a CA bundle is named."""
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
    return text


def _certificates(conn_id: str, ca_bundle: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConnectionConfigError(
            f"Connection {conn_id!r}: 'verify' is {ca_bundle!r}, which holds no certificates: {error}."
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
