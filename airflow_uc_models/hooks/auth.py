"""From an Airflow connection to an httpx.Auth; credentials live there and in request headers, nowhere else."""

from __future__ import annotations

import asyncio
import copy
import re
import ssl
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import httpx

from airflow_uc_models.exceptions import (
    ConnectionConfigError,
    RegistryUnavailableError,
    UCModelsError,
    UnauthenticatedError,
)
from airflow_uc_models.hooks.masking import amask, mask
from airflow_uc_models.registry.answers import is_refused_token

if TYPE_CHECKING:
    from airflow.sdk import Connection

USER_AGENT = "airflow-uc-models"


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
        _check_token(connection, str(token))
        return BearerAuth(str(token))
    if connection.login:
        return httpx.BasicAuth(connection.login, connection.password or "")
    if connection.password:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has a password but no login. Put a bearer token into the field "
            "'Token' (extra 'token')."
        )
    return None


def mlflow_variables(connection: Connection, extra: Mapping[str, Any], verify: bool | str) -> dict[str, str]:
    """Return the environment variables by which mlflow's own client takes these credentials.

    :param verify: whether certificates are checked, or the path of a CA bundle
    """
    variables = {}
    if token := extra.get("token"):
        variables["MLFLOW_TRACKING_TOKEN"] = str(token)
    elif connection.login:
        variables["MLFLOW_TRACKING_USERNAME"] = connection.login
        variables["MLFLOW_TRACKING_PASSWORD"] = connection.password or ""
    if verify is False:
        variables["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
    elif verify is not True:
        variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(verify)
    return variables


def unity_catalog_auth(connection: Connection, extra: Mapping[str, Any]) -> httpx.Auth | None:
    """Return the token of a ``unity_catalog`` connection, or None for a server with authorization off."""
    tokens = [str(token) for token in (extra.get("token"), connection.password) if token]
    if connection.login or len(tokens) > 1:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r}: an open-source Unity Catalog server knows tokens only; put the token "
            "into the password field and leave the login and extra 'token' empty."
        )
    if not tokens:
        return None
    _check_token(connection, tokens[0])
    return BearerAuth(tokens[0])


def unity_catalog_variables(connection: Connection, extra: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variable by which mlflow's own client takes the token."""
    token = connection.password or extra.get("token")
    return {"MLFLOW_UC_OSS_TOKEN": str(token)} if token else {}


def _check_token(connection: Connection, token: str) -> None:
    if not re.fullmatch(r"[!-~]+", token):
        raise ConnectionConfigError(
            f"The token of connection {connection.conn_id!r} holds a space, a line break or another character "
            "that no HTTP header can carry; paste it again."
        )


def databricks_variables(connection: Connection, address: str, auth: DatabricksAuth) -> dict[str, str]:
    """Return the environment variables by which databricks-sdk, and so mlflow, takes the credentials."""
    variables = {"DATABRICKS_HOST": address}
    if connection.extra_dejson.get("service_principal_oauth") and connection.login:  # the SDK then renews tokens itself
        secret = connection.password or ""
        return {**variables, "DATABRICKS_CLIENT_ID": connection.login, "DATABRICKS_CLIENT_SECRET": secret}
    auth.forget()  # of a token that nobody renews, the whole life is needed
    return {**variables, "DATABRICKS_TOKEN": auth.headers()["Authorization"].removeprefix("Bearer ")}


def with_token_login(connection: Connection) -> Connection:
    """Return the connection without the login ``token``, which only says that the password is a personal access token.

    The Databricks provider documents that form, but sends it as a user name and a password, which files and SQL
    warehouses refuse.
    """
    if (connection.login or "").strip().lower() != "token" or not connection.password:
        return connection
    bare = copy.copy(connection)
    bare.login = None
    return bare


class DatabricksAuth(httpx.Auth):
    """Send what the official Databricks provider makes of its connection: every kind of credentials that it knows.

    The provider keeps tokens that can be renewed until shortly before they expire, so a token is asked for before
    each request. One that the workspace refuses all the same is thrown away, and the request sent once more. Of many
    requests at a time one asks for the token; the others wait for it. What is sent is always a bearer token: no
    workspace takes a user name and a password.

    :param connection: a connection of type ``databricks``
    :param base_url: the workspace's address; its OAuth tokens come from there
    :param verify: path of a CA bundle, or False, for the requests to the token endpoint
    """

    requires_response_body = True

    def __init__(self, connection: Connection, base_url: str, verify: str | bool = True) -> None:
        self._connection = with_token_login(connection)
        self._hook = _databricks_hook(self._connection, base_url, verify)
        self._lock = threading.Lock()
        self._async_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._latest = ""  # the Authorization header that was given out last
        self._can_renew = False

    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request now."""
        with self._lock, _token_errors(self._connection):
            before, given = self._latest, self._given(self._as_headers(*self._hook.credentials()))
            if self._latest != before:
                mask(*_tokens(given))
            return given

    async def aheaders(self) -> dict[str, str]:
        """Return the same without blocking the event loop."""
        lock = self._async_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        with _token_errors(self._connection):
            async with lock, self._hook as hook:  # opens the only session that it can have, for its token requests
                before, given = self._latest, self._given(self._as_headers(*await hook.acredentials()))
                if self._latest != before:
                    await amask(*_tokens(given))
                return given

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the headers; once more with a new token if the workspace refused this one."""
        request.headers.update(self.headers())
        response = yield request
        response.read()
        if self._is_renewable(response):
            request.headers.update(self.headers())
            yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Do the same on the event loop."""
        request.headers.update(await self.aheaders())
        response = yield request
        await response.aread()
        if self._is_renewable(response):
            request.headers.update(await self.aheaders())
            yield request

    def _as_headers(self, token: str | None, azure: Mapping[str, str]) -> dict[str, str]:
        if token:
            _check_token(self._connection, token)
            return {**azure, "Authorization": f"Bearer {token}"}
        conn_id, login = self._connection.conn_id, self._connection.login
        if login and self._connection.password:
            raise ConnectionConfigError(
                f"Connection {conn_id!r} has a login and a password, and Databricks takes no user names. If the "
                "password is a personal access token, leave the login empty; if it is a service principal's secret, "
                "set extra 'service_principal_oauth' to true."
            )
        raise ConnectionConfigError(
            f"Connection {conn_id!r} has no credentials: put a personal access token into the password, or choose one "
            "of the Databricks provider's other kinds of authentication."
        )

    def _given(self, headers: dict[str, str]) -> dict[str, str]:
        self._latest, self._can_renew = headers["Authorization"], bool(self._hook.oauth_tokens)
        return headers

    def _is_renewable(self, response: httpx.Response) -> bool:
        if not is_refused_token(response.status_code, response.text):
            return False
        return self.renew(response.request.headers["Authorization"])

    def renew(self, refused: str | None = None) -> bool:
        """Forget a refused token and return whether another one can be had; False for one that never changes.

        :param refused: the Authorization header, if known; a token that has been replaced meanwhile is not forgotten
        """
        if not self._can_renew:
            return False
        if refused in (None, self._latest):
            self.forget()
        return True

    def forget(self) -> None:
        """Forget a token that can be had anew."""
        self._hook.oauth_tokens.clear()


def _tokens(headers: Mapping[str, str]) -> list[str]:
    """Return what is secret of headers: the tokens of the workspace and of Azure."""
    return [value.removeprefix("Bearer ") for key, value in headers.items() if "resource" not in key.lower()]


def _databricks_hook(connection: Connection, base_url: str, verify: str | bool) -> Any:
    """Return the official hook, made to ask this address for tokens: it takes https and port 443 for granted."""
    from airflow.providers.databricks.hooks.databricks_base import BaseDatabricksHook

    class Hook(BaseDatabricksHook):
        # The provider's own asks Airflow for the metadata of all providers.
        user_agent_header = {"user-agent": USER_AGENT}  # noqa: RUF012 - replaces a cached property

        def credentials(self) -> tuple[str | None, dict[str, str]]:
            return self._get_token(), self._get_aad_headers()

        async def acredentials(self) -> tuple[str | None, dict[str, str]]:
            return await self._a_get_token(), await self._a_get_aad_headers()

        def _get_oidc_token_service_url(self) -> str:
            return f"{base_url}/oidc/v1/token"

        def _get_requests_kwargs(self) -> dict[str, Any]:
            return {**super()._get_requests_kwargs(), **({} if verify is True else {"verify": verify})}

        def _get_aiohttp_kwargs(self, url: str) -> dict[str, Any]:
            own = {}
            if verify is not True:
                own["ssl"] = ssl.create_default_context(cafile=verify) if verify else False
            return {**super()._get_aiohttp_kwargs(url), **own}

    hook = Hook(connection.conn_id, caller="airflow-uc-models")
    hook.__dict__["databricks_conn"] = connection  # read already, and not to be read on an event loop
    return hook


@contextmanager
def _token_errors(connection: Connection) -> Generator[None, None, None]:
    """Tell a refused login from a token endpoint that does not answer, and never quote a token."""
    try:
        yield
    except UCModelsError:
        raise
    except Exception as error:
        text = str(error)
        if "access_token" in text:
            text = "the answer was no bearer token"
        for secret in (connection.password, *map(str, connection.extra_dejson.values())):
            text = text.replace(secret, "***") if secret and len(secret) > 7 else text
        status = getattr(error, "status", None)
        if found := re.search(r"Status Code: (\d{3})", text):
            status = int(found[1])
        message = f"Connection {connection.conn_id!r}: no token could be had ({type(error).__name__}: {text[:400]})."
        if status is not None and 400 <= status < 500 and status != 429:
            raise UnauthenticatedError(f"{message} Check its credentials.", status=status) from None
        if isinstance(error, ValueError) or (status is None and "Giving up" not in text):
            raise ConnectionConfigError(message) from None
        raise RegistryUnavailableError(message, status=status) from None
