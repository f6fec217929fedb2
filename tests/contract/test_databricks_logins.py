"""Every kind of login of a `databricks` connection moves model files, in each way that a workspace asks for.

The workspace takes bearer tokens only where files are concerned, and says which scheme each request came with.
"""

from __future__ import annotations

import base64
import json
import os

import pytest
from airflow.providers.databricks.hooks.databricks_base import BaseDatabricksHook
from support.databricks import IN_PARTS, connection_json, in_parts
from support.models import save_model

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.exceptions import ConnectionConfigError, UCModelsError, UnauthenticatedError
from airflow_uc_models.hooks.folders import download_to
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transfer import NewVersion, copy, register
from airflow_uc_models.names import ModelRef, parse_source

NAME, TARGET = "dev.ml_team.fraud", "prod.ml_team.fraud"
SUBJECT = "system:serviceaccount:airflow:worker"


def jwt(subject: str = SUBJECT) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": subject}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


SERVICE_PRINCIPAL = {"login": "robot-id", "password": "robot-secret-1", "extra": {"service_principal_oauth": True}}
FEDERATED = f"{__name__}.jwt"
# As whom, and by which fields of the connection; those of Azure and Kubernetes get their tokens from stand-ins.
LOGINS = {
    "personal access token": ("admin@example.com", {}),
    "token in extra": ("admin@example.com", {"password": None, "extra": {"token": "<token>"}}),
    "login token": ("admin@example.com", {"login": "token"}),
    "login Token": ("admin@example.com", {"login": "Token"}),
    "service principal": ("robot", SERVICE_PRINCIPAL),
    "Entra service principal": (
        "entra",
        {"login": "app-id", "password": "app-secret-1", "extra": {"azure_tenant_id": "tenant-1"}},
    ),
    "Entra service principal from outside": (
        "entra",
        {
            "login": "app-id",
            "password": "app-secret-1",
            "extra": {"azure_tenant_id": "tenant-1", "azure_resource_id": "/subscriptions/1/ws"},
        },
    ),
    "managed identity": ("entra", {"password": None, "extra": {"use_azure_managed_identity": True}}),
    "default Azure credential": ("entra", {"password": None, "extra": {"use_default_azure_credential": True}}),
    "Kubernetes": ("pod", {"login": "federated_k8s", "password": None, "extra": {"client_id": "pod-id"}}),
    "token provider": ("pod", {"password": None, "extra": {"federated_token_provider": FEDERATED}}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = save_model(tmp_path_factory.mktemp("saved") / "model")
    (path / "empty").write_bytes(b"")
    return path


@pytest.fixture
def workspace(each_workspace):
    found = each_workspace
    found.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1", is_admin=True)
    found.add_principal("entra", is_admin=True)
    found.add_principal("pod", client_id="pod-id", subject=SUBJECT, is_admin=True)
    return found


@pytest.fixture
def stand_ins(workspace, monkeypatch):
    """What the provider asks of Azure and Kubernetes."""

    def entra(self, *_):
        token = workspace.workspace.principals.issue(workspace.workspace.principals.by_name["entra"], 3600)
        self.oauth_tokens["azure"] = {"access_token": token}
        return token

    monkeypatch.setattr(BaseDatabricksHook, "_get_aad_token", entra)
    monkeypatch.setattr(BaseDatabricksHook, "_get_aad_token_for_default_az_credential", entra)
    monkeypatch.setattr(BaseDatabricksHook, "_check_azure_metadata_service", lambda _: None)
    monkeypatch.setattr(BaseDatabricksHook, "_get_k8s_jwt_token", lambda _: jwt())


@pytest.fixture
def log_in(workspace, monkeypatch):
    def log_in(fields):
        fields = json.loads(json.dumps(fields).replace("<token>", workspace.token))
        monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace, **fields))
        return ModelRegistryHook("ws")

    return log_in


def register_copy_download(hook, folder, target):
    made = register(hook, parse_source(str(folder)), NewVersion(NAME, "one"))
    copied = copy(hook, ModelRef.of(NAME, version=made.version), hook, NewVersion(TARGET, "two"))
    download_to(hook, copied, str(target))
    assert (made.version, copied.version, copied.status) == (1, 1, "READY")
    assert sizes(target) == sizes(folder)


def sizes(folder):
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("login", LOGINS)
def test_files_move(workspace, stand_ins, log_in, folder, tmp_path, login):
    principal, fields = LOGINS[login]
    if login == "token provider" and not hasattr(BaseDatabricksHook, "_resolve_supplied_subject_token"):
        pytest.skip("this release of the Databricks provider has no federated_token_provider")
    hook = log_in(fields)
    workspace.requests.take()
    register_copy_download(hook, folder, tmp_path / "down")
    requests = [r for r in workspace.requests.take() if "/oidc/" not in r.path and "/.well-known/" not in r.path]
    schemes = {(r.path.startswith("/storage/"), r.scheme) for r in requests}
    through_the_workspace = workspace.workspace.settings.storage == "files" and not IN_PARTS
    assert schemes == {(False, "Bearer")} | (set() if through_the_workspace else {(True, "")})
    assert {r.principal for r in requests} - {None} == {principal}
    if "azure_resource_id" in (fields.get("extra") or {}):  # the workspace does not know this principal by itself
        asked = [r for r in requests if r.scheme]
        assert all(r.headers.get("x-databricks-azure-workspace-resource-id") == "/subscriptions/1/ws" for r in asked)


def test_a_user_name_is_refused_before_any_call(workspace, log_in):
    hook = log_in({"login": "somebody", "password": "secret-of-somebody"})
    workspace.requests.take()
    with pytest.raises(ConnectionConfigError, match="service_principal_oauth") as raised:
        hook.run(hook.registry.search_registered_models())
    assert workspace.requests.take() == []
    assert "secret-of-somebody" not in str(raised.value)


# -- tokens that are refused on the way


@pytest.fixture(scope="module", params=[("files", 401), ("files", 403), ("presigned", 403)], ids=str)
def hasty(request):
    """A workspace that takes each token for few requests, though it says that it is good for an hour."""
    storage, status = request.param
    with Emulator(Settings(storage=storage, token_requests=20, rejected_token_status=status)) as running:
        running.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1", is_admin=True)
        yield running


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """A model with many files, one of them so large that it goes up in parts."""
    path = save_model(tmp_path_factory.mktemp("saved") / "model")
    for number in range(40):
        (path / f"{number}.bin").write_bytes(b"x" * number)
    (path / "large.bin").touch()
    os.truncate(path / "large.bin", 56 << 20)
    return path


def test_a_token_that_is_refused_in_the_middle_is_renewed(hasty, monkeypatch, many_files, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(hasty, **SERVICE_PRINCIPAL))
    register_copy_download(ModelRegistryHook("ws"), many_files, tmp_path / "down")
    requests = hasty.requests.take()
    refused = [r for r in requests if r.status == hasty.settings.rejected_token_status]
    assert len(refused) > 5
    assert any("/fs/" in r.path for r in refused)
    # each refusal costs one token, and one more try of what was refused
    assert sum(r.path.endswith("/oidc/v1/token") for r in requests) <= len(refused) + 1


@in_parts
def test_a_file_goes_on_after_a_part_that_was_refused(emulator, monkeypatch, many_files):
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(emulator, **SERVICE_PRINCIPAL))
    emulator.reset()
    emulator.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1", is_admin=True)
    body = {"error_code": 403, "message": "Invalid access token."}
    fault = emulator.faults.add("create-upload-part-urls", status=403, body=body)
    register(ModelRegistryHook("ws"), parse_source(str(many_files)), NewVersion(NAME, "one"))
    assert fault.hits == 1
    begun = [r for r in emulator.requests.take() if ("action", "initiate-upload") in r.query]
    assert len(begun) == 1


def test_a_personal_token_that_is_refused_fails_at_once(workspace, log_in, folder):
    hook = log_in({})
    fault = workspace.faults.add("/fs/", count=None, status=403, body={"error_code": 403, "message": "Invalid token"})
    with pytest.raises(UnauthenticatedError):
        register(hook, parse_source(str(folder)), NewVersion(NAME, "one"))
    assert fault.hits <= 8  # the files that were on their way
    assert workspace.workspace.state.models == {}


ODD_BODIES = {
    "a number": {"error_code": 403, "message": "Forbidden."},
    "null": {"error_code": None, "message": "Forbidden."},
    "none": {"message": "Forbidden."},
    "a list": {"error_code": ["PERMISSION_DENIED"], "message": "Forbidden."},
    "an object": {"error_code": {"code": 403}, "message": {"text": "Forbidden."}},
    "a list as the body": ["Forbidden."],
    "a string as the body": '"Forbidden."',
    "null as the body": "null",
    "no JSON": "Forbidden.",
    "HTML": "<html><title>Forbidden</title><body><pre>Forbidden</pre></body></html>",
    "nothing": "",
}


@pytest.mark.parametrize("status", [400, 403, 500])
@pytest.mark.parametrize("odd", ODD_BODIES)
@pytest.mark.parametrize("path", ["registered-models/get", "/fs/"])
def test_odd_answers_end_in_our_errors(workspace, log_in, folder, monkeypatch, status, odd, path):
    monkeypatch.setattr("airflow_uc_models.hooks.model_files._TRIES", 1)
    hook = log_in({"extra": {"max_retry_seconds": 0.1}})
    workspace.faults.add(path, count=None, status=status, body=ODD_BODIES[odd])
    with pytest.raises(UCModelsError) as raised:
        register(hook, parse_source(str(folder)), NewVersion(NAME, "one"))
    is_lost = workspace.settings.storage == "files" and path == "/fs/"  # databricks-sdk does not tell the status
    assert raised.value.permanent == (status != 500) or is_lost
