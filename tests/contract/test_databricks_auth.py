"""Every kind of credentials that a `databricks` connection can hold, from a task and from an event loop."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl

import pytest
from support.databricks import connection_json

from airflow_uc_models.emulator import Emulator, LoopbackServer, Settings
from airflow_uc_models.exceptions import (
    ConnectionConfigError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UnauthenticatedError,
)
from airflow_uc_models.hooks.mlflow_session import mlflow_session
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.workspace import workspace_client

SUBJECT = "airflow@example.com"
TOKEN_PATH = "/oidc/v1/token"


@pytest.fixture
def workspace(workspace):
    workspace.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1")
    workspace.add_principal("federated", subject=SUBJECT)
    workspace.grant("robot", "ALL PRIVILEGES", "dev")
    return workspace


@pytest.fixture(params=["run", "arun"])
def whoami(request, workspace, monkeypatch):
    """Ask for models over a connection and return as whom the workspace knew us."""

    def ask(**fields):
        monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(workspace, **fields))
        workspace.requests.take()
        search(request.param)
        return [r.principal for r in workspace.requests.take() if "registered-models/search" in r.path]

    return ask


def search(mode="run"):
    hook = ModelRegistryHook("auth")

    async def arun():
        return await hook.arun((await hook.aendpoint()).registry.search_registered_models())

    return hook.run(hook.registry.search_registered_models()) if mode == "run" else asyncio.run(arun())


def test_a_token_in_the_password(whoami):
    assert whoami() == ["admin@example.com"]


def test_a_token_in_extra(whoami, workspace):
    assert whoami(password=None, extra={"token": workspace.token}) == ["admin@example.com"]


@pytest.mark.parametrize("login", ["token", "TOKEN", " token"])
def test_the_login_token_means_a_token_in_the_password(whoami, login):
    assert whoami(login=login) == ["admin@example.com"]


OAUTH = {"login": "robot-id", "password": "robot-secret-1", "extra": {"service_principal_oauth": True}}


def test_a_service_principal(whoami, workspace):
    assert whoami(**OAUTH) == ["robot"]


def subject_token() -> str:
    """Return what `federated_token_provider` names: a JWT of somebody else's."""
    claims = base64.urlsafe_b64encode(json.dumps({"sub": SUBJECT}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


def test_a_federated_token(whoami):
    from airflow.providers.databricks.hooks.databricks_base import BaseDatabricksHook

    if not hasattr(BaseDatabricksHook, "_resolve_supplied_subject_token"):
        pytest.skip("this release of the Databricks provider has no federated_token_provider")
    provider = f"{__name__}.subject_token"
    assert whoami(password=None, extra={"federated_token_provider": provider}) == ["federated"]


@pytest.mark.parametrize(
    "extra",
    [
        {"azure_tenant_id": "t", "azure_resource_id": "/subscriptions/1"},
        {"use_azure_managed_identity": True},
        {"use_default_azure_credential": True},
    ],
)
def test_azure_tokens_come_from_the_provider(whoami, workspace, monkeypatch, extra):
    """Azure itself cannot be had here: the provider's own requests to it are stood in for."""
    from airflow.providers.databricks.hooks.databricks_base import BaseDatabricksHook as Theirs

    async def atoken(*_):
        return workspace.token

    for name in ("_get_aad_token", "_get_aad_token_for_default_az_credential"):
        monkeypatch.setattr(Theirs, name, lambda *_: workspace.token)
        monkeypatch.setattr(Theirs, f"_a{name}", atoken)
    monkeypatch.setattr(Theirs, "_check_azure_metadata_service", lambda _: None)
    monkeypatch.setattr(Theirs, "_a_check_azure_metadata_service", atoken)
    assert whoami(login="app", password="secret", extra=extra) == ["admin@example.com"]


# -- tokens end


@pytest.fixture(scope="module")
def hasty():
    """A workspace whose OAuth tokens are refused after two seconds, though they claim to be good for an hour."""
    with Emulator(Settings(token_seconds=2)) as running:
        running.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1", is_admin=True)
        yield running


@pytest.mark.parametrize("mode", ["run", "arun"])
def test_a_token_that_is_refused_is_renewed(hasty, monkeypatch, mode):
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(hasty, **OAUTH))
    monkeypatch.setattr("airflow.providers.databricks.hooks.databricks_base.TOKEN_REFRESH_LEAD_TIME", -3600)
    hook = ModelRegistryHook("auth")
    search_call = hook.registry.search_registered_models

    def ask():
        return hook.run(search_call()) if mode == "run" else asyncio.run(hook.arun(search_call()))

    ask()
    hasty.requests.take()
    hasty.workspace.principals.expire_tokens()
    ask()
    paths = [(r.path.rpartition("/")[2], r.status) for r in hasty.requests.take()]
    assert paths == [("search", 403), ("token", 200), ("search", 200)]


def test_the_sdk_client_renews_tokens_too(hasty, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(hasty, **OAUTH))
    client = workspace_client(ModelRegistryHook("auth").endpoint)
    assert client.current_user.me().display_name == "robot"
    hasty.workspace.principals.expire_tokens()  # the token's own lifetime of two seconds is below the provider's margin
    assert client.current_user.me().display_name == "robot"


def test_a_personal_token_is_not_asked_for_anew(workspace, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(workspace, token="dapi-of-nobody"))
    with pytest.raises((UnauthenticatedError, PermissionDeniedError)) as raised:
        search()
    assert len([r for r in workspace.requests.take() if "search" in r.path]) == 1
    assert "dapi-of-nobody" not in str(raised.value)
    assert raised.value.permanent


# -- and fail


@pytest.mark.parametrize("mode", ["run", "arun"])
def test_a_wrong_secret_is_told_and_not_quoted(workspace, monkeypatch, mode):
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(workspace, **OAUTH | {"password": "not-the-secret"}))
    with pytest.raises(UnauthenticatedError, match="no token could be had") as raised:
        search(mode)
    assert "not-the-secret" not in str(raised.value)


def test_a_token_endpoint_that_is_down_is_a_passing_fault(workspace, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(workspace, **OAUTH))
    monkeypatch.setattr("airflow.providers.databricks.hooks.databricks_base.wait_exponential", lambda **_: lambda _: 0)
    workspace.faults.add(TOKEN_PATH, count=None, status=503)
    with pytest.raises(RegistryUnavailableError) as raised:
        search()
    assert not raised.value.permanent


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"password": None}, "no credentials"),
        ({"host": None}, "https://adb-"),
        ({"password": "two words"}, "no HTTP header can carry"),
        ({"extra": {"registry": "workspace"}}, "only unity_catalog is served"),
        ({"extra": {"proxies": "http://proxy"}}, "must be an object"),
        ({"extra": {"timeout": "soon"}}, "number of seconds"),
    ],
)
def test_connections_that_cannot_work(workspace, monkeypatch, fields, message):
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(workspace, **{"token": None, **fields}))
    with pytest.raises(ConnectionConfigError, match=message) as raised:
        search()
    assert "two words" not in str(raised.value)
    assert workspace.requests.take() == []


# -- where to


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"host": "https://adb-1.2.azuredatabricks.net/?o=1#job"}, "https://adb-1.2.azuredatabricks.net"),
        ({"host": "adb-1.2.azuredatabricks.net"}, "https://adb-1.2.azuredatabricks.net"),
        ({"host": "adb.example", "schema": "default"}, "https://adb.example"),
        ({"host": "127.0.0.1", "schema": "http", "port": 8080}, "http://127.0.0.1:8080"),
        ({"host": "http://127.0.0.1:8081"}, "http://127.0.0.1:8081"),
        ({"host": None, "extra": {"host": "adb.example"}}, "https://adb.example"),
    ],
)
def test_the_address(monkeypatch, fields, address):
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", json.dumps({"conn_type": "databricks", "password": "dapi1", **fields}))
    endpoint = ModelRegistryHook("auth").endpoint
    assert endpoint.address == address
    assert endpoint.model_version_url("a.b.c", 3) == f"{address}/explore/data/models/a/b/c/version/3"


def test_proxy_and_ca_bundle(workspace, monkeypatch, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(
        "\n".join(ssl.DER_cert_to_PEM_cert(der) for der in ssl.create_default_context().get_ca_certs(True)[:2]).encode()
    )
    extra = {"proxies": {"https": "http://proxy.example:3128"}, "verify": str(bundle)}
    connection = {"conn_type": "databricks", "host": "adb.example", "password": "x", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", json.dumps(connection))
    transport = ModelRegistryHook("auth").endpoint.transport
    assert transport.proxy == "http://proxy.example:3128"
    assert isinstance(transport.verify, ssl.SSLContext)


def test_requests_go_through_the_proxy(monkeypatch):
    """To a host that does not exist, through a proxy that does."""
    asked = []

    async def proxy(scope, receive, send):
        asked.append(dict(scope["headers"])[b"host"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"registered_models": []}'})

    with LoopbackServer(proxy) as server:
        connection = {"conn_type": "databricks", "host": "no.such.host.example", "schema": "http", "password": "x"}
        connection["extra"] = {"proxies": {"http": server.url}}
        monkeypatch.setenv("AIRFLOW_CONN_AUTH", json.dumps(connection))
        assert search() == search("arun") == []
    assert asked == [b"no.such.host.example"] * 2


# -- mlflow on the same credentials


@pytest.mark.parametrize("fields", [{}, OAUTH], ids=["token", "service principal"])
def test_mlflow_sessions(workspace, monkeypatch, fields):
    import mlflow

    workspace.add_schema("dev.ml")
    workspace.grant("robot", "ALL PRIVILEGES", "dev")
    monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(workspace, **fields))
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABRICKS_TOKEN", "somebody-elses")
    before = {k: v for k, v in os.environ.items() if k.startswith(("MLFLOW_", "DATABRICKS_"))}
    with mlflow_session("auth") as uri:
        assert uri == mlflow.get_tracking_uri() == "databricks"
        mlflow.MlflowClient().create_registered_model("dev.ml.made")
    assert {k: v for k, v in os.environ.items() if k.startswith(("MLFLOW_", "DATABRICKS_"))} == before
    assert list(workspace.workspace.state.models) == ["dev.ml.made"]
