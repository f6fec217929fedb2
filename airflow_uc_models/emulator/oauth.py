"""What clients ask a workspace before they log in, how they get tokens, and who they then are."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import JSONResponse, Response

from airflow_uc_models.emulator.privileges import Principal
from airflow_uc_models.emulator.routing import Call, route
from airflow_uc_models.emulator.workspace import Workspace

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_SDK = "databricks-sdk oauth.py, config.py"


class _OAuthError(Exception):
    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.response = JSONResponse({"error": error, "error_description": description}, status)


class OAuth:
    """Discovery, tokens and the caller's identity."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route("GET", "/.well-known/databricks-config", source=_SDK, anonymous=True)
    def config(self, _: Call) -> Any:
        """Say where tokens are to be had, and the workspace's id."""
        return {
            "oidc_endpoint": f"{self.workspace.url}/oidc",
            "workspace_id": str(self.workspace.settings.workspace_id),
            "account_id": self.workspace.account_id,
        }

    @route("GET", "/oidc/.well-known/oauth-authorization-server", source=_SDK, anonymous=True)
    def server(self, _: Call) -> Any:
        """Name the OAuth endpoints."""
        base = f"{self.workspace.url}/oidc"
        return {
            "issuer": base,
            "authorization_endpoint": f"{base}/v1/authorize",
            "token_endpoint": f"{base}/v1/token",
            "grant_types_supported": ["client_credentials", _EXCHANGE],
            "scopes_supported": ["all-apis", "offline_access"],
        }

    @route(
        "POST",
        "/oidc/v1/token",
        source=f"{_SDK}; RFC 6749, RFC 8693; docs.databricks.com, Authorize service principal access with OAuth",
        anonymous=True,
        raw=True,
    )
    async def token(self, call: Call) -> Response:
        """Give a token for client credentials, or in exchange for a federated token."""
        form = dict(parse_qsl((await call.request.body()).decode("utf-8", "replace")))
        try:
            principal = self._holder(form, call.request.headers.get("authorization", ""))
        except _OAuthError as error:
            return error.response
        seconds = self.workspace.settings.token_seconds
        token = self.workspace.principals.issue(principal, seconds)
        return JSONResponse(
            {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": int(seconds),
                "scope": form.get("scope", "all-apis"),
            }
        )

    def _holder(self, form: dict[str, str], authorization: str) -> Principal:
        grant_type = form.get("grant_type")
        if grant_type == "client_credentials":
            return self._client(form, authorization)
        if grant_type == _EXCHANGE:
            return self._federated(form)
        raise _OAuthError(400, "unsupported_grant_type", f"grant_type {grant_type!r} is unknown")

    def _client(self, form: dict[str, str], authorization: str) -> Principal:
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization.lower().startswith("basic "):
            try:
                decoded = base64.b64decode(authorization[6:], validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                decoded = ""
            client_id, _, secret = decoded.partition(":")
        principal = self.workspace.principals.find(client_id=client_id, client_secret=secret)
        if principal is None:
            raise _OAuthError(401, "invalid_client", "Client authentication failed")
        return principal

    def _federated(self, form: dict[str, str]) -> Principal:
        wanted = {"subject": _subject(form.get("subject_token", ""))}
        if form.get("client_id"):
            wanted["client_id"] = form["client_id"]
        principal = self.workspace.principals.find(**wanted)
        if principal is None:
            raise _OAuthError(400, "invalid_grant", "No federation policy matches the subject token")
        return principal

    @route("GET", "/api/2.0/preview/scim/v2/Me", source="databricks-sdk service/iam.py, CurrentUserAPI.me")
    def me(self, call: Call) -> Any:
        """Return who calls."""
        name = call.principal.name
        return {"userName": call.principal.client_id or name, "displayName": name, "active": True, "id": name}

    @route("GET", "/api/2.1/clusters/spark-versions", source="airflow.providers.databricks, test_connection")
    def spark_versions(self, _: Call) -> Any:
        """Answer what Airflow's test of a connection asks for."""
        return {"versions": [{"key": "17.3.x-scala2.13", "name": "17.3 LTS"}]}


def _subject(token: str) -> str:
    """Return the ``sub`` claim of a token, whose signature nobody checks here."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["sub"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise _OAuthError(400, "invalid_request", "subject_token is not a JWT with a sub claim") from None
