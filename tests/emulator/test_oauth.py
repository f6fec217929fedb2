"""Tokens: personal ones, client credentials, federation, and what happens when they are wrong or have expired."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


def jwt(**claims: object) -> str:
    def part(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256'})}.{part(claims)}.signature"


def ask(emulator, **form: str) -> httpx.Response:
    return httpx.post(f"{emulator.url}/oidc/v1/token", data=form)


def me(emulator, token: str) -> httpx.Response:
    return httpx.get(
        f"{emulator.url}/api/2.0/preview/scim/v2/Me", headers={"Authorization": f"Bearer {token}"} if token else {}
    )


def test_clients_find_the_token_endpoint(emulator) -> None:
    config = httpx.get(f"{emulator.url}/.well-known/databricks-config").json()
    assert config["workspace_id"] == str(emulator.settings.workspace_id)
    server = httpx.get(f"{config['oidc_endpoint']}/.well-known/oauth-authorization-server").json()
    assert server["token_endpoint"] == f"{emulator.url}/oidc/v1/token"


def test_client_credentials_in_the_form_or_the_header(emulator) -> None:
    emulator.add_principal("sp", client_id="the-id", client_secret="the-secret")
    form = ask(emulator, grant_type="client_credentials", client_id="the-id", client_secret="the-secret").json()
    header = httpx.post(
        f"{emulator.url}/oidc/v1/token",
        data={"grant_type": "client_credentials", "scope": "all-apis"},
        auth=("the-id", "the-secret"),
    ).json()
    for token in (form, header):
        assert (token["token_type"], token["expires_in"]) == ("Bearer", 3600)
        assert me(emulator, token["access_token"]).json()["displayName"] == "sp"


def test_wrong_credentials_get_no_token(emulator) -> None:
    emulator.add_principal("sp", client_id="the-id", client_secret="the-secret")
    answer = ask(emulator, grant_type="client_credentials", client_id="the-id", client_secret="wrong")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    answer = ask(emulator, grant_type="client_credentials")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    answer = ask(emulator, grant_type="password")
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


def test_federated_tokens_are_exchanged(emulator) -> None:
    emulator.add_principal("pod", subject="system:serviceaccount:airflow:worker", client_id="the-id")
    subject = jwt(sub="system:serviceaccount:airflow:worker")
    for client in ({}, {"client_id": "the-id"}):
        token = ask(emulator, grant_type=EXCHANGE, subject_token=subject, **client).json()["access_token"]
        assert me(emulator, token).json()["displayName"] == "pod"
    assert ask(emulator, grant_type=EXCHANGE, subject_token=jwt(sub="else")).json()["error"] == "invalid_grant"
    assert ask(emulator, grant_type=EXCHANGE, subject_token="no jwt").json()["error"] == "invalid_request"
    wrong_client = ask(emulator, grant_type=EXCHANGE, subject_token=subject, client_id="else")
    assert wrong_client.json()["error"] == "invalid_grant"


@pytest.mark.parametrize("status", [401, 403])
def test_unknown_tokens_are_refused_as_the_gateway_does(other_emulator, status) -> None:
    emulator = other_emulator(rejected_token_status=status)
    answer = me(emulator, "dapi-unknown")
    assert (answer.status_code, answer.json()) == (status, {"error_code": status, "message": "Invalid access token."})
    assert me(emulator, "").status_code == 401


def test_tokens_expire(other_emulator) -> None:
    emulator = other_emulator(token_seconds=0.3)
    emulator.add_principal("sp", client_id="i", client_secret="s")
    token = ask(emulator, grant_type="client_credentials", client_id="i", client_secret="s").json()["access_token"]
    assert me(emulator, token).status_code == 200
    emulator.workspace.principals.expire_tokens()
    assert me(emulator, token).status_code == 403
    assert me(emulator, emulator.token).status_code == 200


def test_tokens_do_not_outlive_their_seconds(other_emulator) -> None:
    emulator = other_emulator(token_seconds=0)
    emulator.add_principal("sp", client_id="i", client_secret="s")
    token = ask(emulator, grant_type="client_credentials", client_id="i", client_secret="s").json()["access_token"]
    assert me(emulator, token).status_code == 403


def test_databricks_sdk_logs_in_with_client_credentials(emulator) -> None:
    from databricks.sdk import WorkspaceClient

    emulator.add_principal("sp", client_id="the-id", client_secret="the-secret")
    client = WorkspaceClient(host=emulator.url, client_id="the-id", client_secret="the-secret", auth_type="oauth-m2m")
    assert client.current_user.me().display_name == "sp"


def test_unknown_paths_say_so(emulator) -> None:
    answer = httpx.get(f"{emulator.url}/api/2.0/nothing/here")
    assert (answer.status_code, answer.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
