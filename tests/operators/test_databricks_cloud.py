"""Model files in cloud storage, with credentials that the workspace gives for a while: faults, and what is logged."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from support.databricks import connection_json
from support.models import save_model

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.exceptions import (
    ModelContentError,
    NotFoundError,
    PermissionDeniedError,
    RegistryUnavailableError,
)
from airflow_uc_models.hooks.artifacts import version_mlmodel
from airflow_uc_models.hooks.folders import download_to
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transfer import NewVersion, copy, register
from airflow_uc_models.names import ModelRef, parse_source
from airflow_uc_models.operators import CopyModelVersionOperator, DownloadModelVersionOperator, RegisterModelOperator

NAME, TARGET = "dev.ml_team.fraud", "prod.ml_team.fraud"
OAUTH = {"login": "robot-id", "password": "robot-secret-1", "extra": {"service_principal_oauth": True}}


@pytest.fixture(scope="module")
def vending():
    pytest.importorskip("boto3")
    with Emulator(Settings(storage="vended")) as running:
        yield running


@pytest.fixture
def workspace(vending, monkeypatch):
    vending.reset()
    vending.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1", is_admin=True)
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(vending, **OAUTH))
    in_cloud(monkeypatch, vending)
    return vending


def in_cloud(monkeypatch, emulator):
    """Let mlflow's client of the cloud go to the emulator's."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"{emulator.url}/s3")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def made(workspace, folder):
    """A version whose files are in the cloud."""
    hook = ModelRegistryHook("ws")
    return hook, register(hook, parse_source(str(folder)), NewVersion(NAME, "one"))


def names(folder):
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def test_register_copy_download(made, folder, tmp_path):
    hook, version = made
    copied = copy(hook, ModelRef.of(NAME, version=version.version), hook, NewVersion(TARGET, "two"))
    download_to(hook, copied, str(tmp_path / "down"))
    assert names(tmp_path / "down") == names(folder)


def test_keys_that_expire_on_the_way_are_renewed(made, workspace, folder, tmp_path, monkeypatch):
    hook, version = made
    for vended in list(workspace.workspace.vended):
        del workspace.workspace.vended[vended]
    expired = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    for method in ("GET", "PUT"):
        workspace.faults.add("/s3/", method=method, count=1, status=400, body=expired)
    download_to(hook, version, str(tmp_path / "down"))
    assert names(tmp_path / "down") == names(folder)
    copied = copy(hook, ModelRef.of(NAME, version=1), hook, NewVersion(TARGET, "two"))
    assert copied.is_ready


def error(code):
    return f"<Error><Code>{code}</Code><Message>as told</Message></Error>"


REFUSALS = {
    "missing": ({"status": 404, "body": error("NoSuchKey")}, NotFoundError),
    "access denied": ({"status": 403, "body": error("AccessDenied")}, PermissionDeniedError),
    "throttled": ({"status": 503, "body": error("SlowDown")}, RegistryUnavailableError),
    "an error of the cloud": ({"status": 500, "body": error("InternalError")}, RegistryUnavailableError),
    "a reset": ({"reset": True}, RegistryUnavailableError),
}


@pytest.fixture
def hasty(monkeypatch):
    """Give up soon."""
    monkeypatch.setattr("airflow_uc_models.hooks.model_files._TRIES", 2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_name_the_version_and_the_cause(made, workspace, hasty, tmp_path, kind):
    hook, version = made
    fault, expected = REFUSALS[kind]
    workspace.faults.add("/s3/.*pkl", count=None, **fault)
    with pytest.raises(expected) as raised:
        download_to(hook, version, str(tmp_path / "down"))
    assert version.uri in str(raised.value)
    assert raised.value.permanent == (expected is not RegistryUnavailableError)
    assert "reset" in fault or str(fault["status"]) in str(raised.value)


def test_a_passing_fault_of_the_cloud_is_outlived(made, workspace, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    hook, version = made
    fault = workspace.faults.add("/s3/.*MLmodel", count=2, status=503, body=error("SlowDown"))
    download_to(hook, version, str(tmp_path / "down"))
    assert fault.hits == 2


def test_a_version_without_mlmodel_is_told(made, workspace, hasty):
    hook, version = made
    model = workspace.workspace.state.models[NAME]
    workspace.workspace.files.path(model.id, version.version, "MLmodel").unlink()
    with pytest.raises(ModelContentError, match=f"{version.uri} holds no MLmodel"):
        version_mlmodel(hook, version)


# -- what is logged


@pytest.fixture
def at_debug(caplog):
    """All that any library logs."""
    caplog.set_level(logging.DEBUG)
    before = {
        name: logging.getLogger(name).level for name in ("airflow_uc_models", "botocore", "urllib3", "databricks")
    }
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield caplog
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("storage", ["vended", "presigned", "files"])
def test_no_credential_is_logged_at_any_level(
    dag_runner, request, monkeypatch, folder, tmp_path, emulator, at_debug, storage
):
    found = {"files": emulator, "presigned": None, "vended": None}[storage] or request.getfixturevalue(
        {"presigned": "presigned_emulator", "vended": "vending"}[storage]
    )
    found.reset()
    found.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1", is_admin=True)
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(found, **OAUTH))
    in_cloud(monkeypatch, found)
    secrets, vended = [], found.workspace.vended

    def define():
        made = RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder))
        copied = CopyModelVersionOperator(
            task_id="copy", model_name=NAME, version=made.output["version"], destination_model_name=TARGET
        )
        down = DownloadModelVersionOperator(
            task_id="down", model_name=TARGET, version=copied.output["version"], destination=f"{tmp_path}/down"
        )
        copied >> down

    result = dag_runner.run(define, default_args={"registry_conn_id": "ws", "retry_delay": timedelta(0)})
    assert result.state == "success", result.output[-3000:]
    secrets = ["robot-secret-1", *found.workspace.principals._issued]
    if storage == "vended":
        assert vended
    secrets += [text for key, given in vended.items() for text in (key, given.session_token)]
    assert len(secrets) > 1
    told = [secret for secret in secrets if secret in result.output]
    assert not told
    assert "signature=" not in result.output
    assert "DEBUG" in result.output or "debug" in result.output
