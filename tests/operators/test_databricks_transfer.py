"""Register, copy and download over `databricks` connections: real files, in each way that a workspace asks for."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from support.databricks import connection_json
from support.models import log_model, save_model

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.hooks.mlflow_session import _globals_restored, mlflow_variables_set
from airflow_uc_models.operators import (
    BatchInferenceOperator,
    CopyModelVersionOperator,
    DownloadModelVersionOperator,
    RegisterModelOperator,
    ValidateModelVersionOperator,
)
from airflow_uc_models.policies import PromotionPolicy

NAME, TARGET = "dev.ml_team.fraud", "prod.ml_team.fraud"


@pytest.fixture
def workspace(each_workspace):
    return each_workspace


@pytest.fixture
def another(presigned_emulator, emulator, workspace):
    """Another workspace."""
    other = emulator if workspace is presigned_emulator else presigned_emulator
    other.reset()
    return other


@pytest.fixture
def conn(monkeypatch, workspace):
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace))
    return "ws"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with an empty file and a file in a folder of a folder."""
    path = save_model(tmp_path_factory.mktemp("saved") / "model")
    (path / "empty").write_bytes(b"")
    (path / "data" / "deep").mkdir(parents=True)
    (path / "data" / "deep" / "ümläut and space.bin").write_bytes(os.urandom(300_000))
    return path


@pytest.fixture(scope="module")
def logged(mlflow_server):
    """A logged model with a signature and one without, on an MLflow server."""
    return log_model(mlflow_server, metrics={"rmse": 0.5}), log_model(mlflow_server, with_signature=False)


@pytest.fixture(autouse=True)
def nothing_left_behind(logged, monkeypatch, tmp_path_factory):
    """No variable, no mlflow global, no file in the temporary folder may outlive a task."""
    import mlflow

    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def state():
        ours = ("MLFLOW", "DATABRICKS", "HTTP_PROXY", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE")
        variables = {key: value for key, value in os.environ.items() if key.startswith(ours)}
        return variables, mlflow.get_tracking_uri(), mlflow.get_registry_uri(), list(temporary.glob("*model*"))

    before = state()
    yield
    assert state() == before


def digests(folder):
    files = [f for f in Path(folder).rglob("*") if f.is_file()]
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def stored(workspace, name, version, tmp_path):
    """Digests of a version's files, fetched by mlflow itself."""
    variables = {"DATABRICKS_HOST": workspace.url, "DATABRICKS_TOKEN": workspace.token}
    with mlflow_variables_set(variables), _globals_restored():
        import mlflow

        mlflow.set_tracking_uri("databricks")
        mlflow.set_registry_uri("databricks-uc")
        folder = tempfile.mkdtemp(dir=tmp_path)
        path = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=folder)
    Path(path, "registered_model_meta").unlink()
    return digests(path)


def versions_of(workspace):
    """Every version there is, by model."""
    state = workspace.workspace.state
    return {
        name: {number: version.status for number, version in model.versions.items()}
        for name, model in state.models.items()
    }


def test_register_copy_download(dag_runner, conn, workspace, folder, tmp_path, monkeypatch):
    def define():
        made = RegisterModelOperator(
            task_id="register", model_name=NAME, model_uri=str(folder), description="by hand", tags={"team": "fraud"}
        )
        copied = CopyModelVersionOperator(
            task_id="copy", model_name=NAME, version=made.output["version"], destination_model_name=TARGET
        )
        down = DownloadModelVersionOperator(
            task_id="download", model_name=TARGET, version=copied.output["version"], destination=f"{tmp_path}/down"
        )
        copied >> down

    result = dag_runner.run(define, default_args={"registry_conn_id": conn})
    assert result.state == "success", result.output
    version, copy = result.xcom("register"), result.xcom("copy")
    assert (version["name"], version["version"], version["status"]) == (NAME, 1, "READY")
    assert (copy["name"], copy["version"], copy["status"], copy["description"]) == (TARGET, 1, "READY", "by hand")
    assert copy["tags"]["team"] == "fraud"
    assert copy["tags"]["airflow_copied_from"] == f"models:/{NAME}/1"
    assert (
        result.xcom("copy", key="model_version_url")
        == f"{workspace.url}/explore/data/models/prod/ml_team/fraud/version/1"
    )
    assert digests(tmp_path / "down") == digests(folder)
    for name in (NAME, TARGET):
        assert stored(workspace, name, 1, tmp_path) == digests(folder)
    assert f"Registered {folder} as version 1 of {NAME}, on connection " in result.output


def test_between_two_workspaces(dag_runner, conn, workspace, another, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", connection_json(another))

    def define():
        made = RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder))
        CopyModelVersionOperator(
            task_id="copy", model_name=NAME, version=made.output["version"], destination_model_name=TARGET,
            destination_conn_id="other",
        )  # fmt: skip

    result = dag_runner.run(define, default_args={"registry_conn_id": conn})
    assert result.xcom("copy")["tags"]["airflow_copied_from_registry"] == workspace.url
    assert versions_of(workspace) == {NAME: {1: "READY"}}
    assert versions_of(another) == {TARGET: {1: "READY"}}
    assert stored(another, TARGET, 1, tmp_path) == digests(folder)


@pytest.mark.parametrize("kind", ["run", "logged model", "registered version"])
def test_from_an_mlflow_server(
    dag_runner, conn, connection, mlflow_server, workspace, logged, kind, monkeypatch, tmp_path, model_name
):
    logged, _ = logged
    if kind == "registered version":
        server = mlflow_server.client()
        server.create_registered_model(model_name)
        server.create_model_version(model_name, logged.uri, model_id=logged.model_id, tags={"a.b": "no", "ok": "yes"})

    def define():
        if kind == "registered version":
            CopyModelVersionOperator(
                task_id="make", model_uri=f"models:/{model_name}/1", destination_model_name=NAME,
                registry_conn_id=connection, destination_conn_id=conn,
            )  # fmt: skip
        else:
            uri = logged.uri if kind == "logged model" else f"runs:/{logged.run_id}/model"
            RegisterModelOperator(
                task_id="make", model_name=NAME, model_uri=uri, tracking_conn_id=connection, registry_conn_id=conn
            )

    result = dag_runner.run(define)
    version = result.xcom("make")
    assert (version["version"], version["status"], version["model_id"]) == (1, "READY", None)
    assert "MLmodel" in stored(workspace, NAME, 1, tmp_path)
    if kind == "registered version":
        assert version["tags"]["ok"] == "yes"
        assert "a.b" not in version["tags"]
        assert "Tag 'a.b' is not carried along" in result.output


def test_without_a_signature_nothing_is_made(
    dag_runner, conn, connection, mlflow_server, workspace, logged, tmp_path, model_name
):
    unsigned = save_model(tmp_path / "unsigned", with_signature=False)
    _, logged = logged
    server = mlflow_server.client()
    server.create_registered_model(model_name)
    server.create_model_version(model_name, logged.uri, model_id=logged.model_id)

    def define():
        RegisterModelOperator(
            task_id="register", model_name=NAME, model_uri=str(unsigned), signature_required=False,
            registry_conn_id=conn,
        )  # fmt: skip
        CopyModelVersionOperator(
            task_id="copy", model_uri=f"models:/{model_name}/1", destination_model_name=NAME,
            registry_conn_id=connection, destination_conn_id=conn,
        )  # fmt: skip

    result = dag_runner.run(define, default_args={"retries": 2, "retry_delay": timedelta(0)})
    assert (result.task_state("register"), result.task_state("copy")) == ("failed", "failed")
    assert result.ti("register").try_number == result.ti("copy").try_number == 1
    assert result.output.count("has no signature") >= 2
    assert versions_of(workspace) == {}


def test_a_transformers_model_without_weights_is_refused(dag_runner, conn, workspace, folder, tmp_path):
    light = tmp_path / "light"
    shutil.copytree(folder, light)
    mlmodel = (light / "MLmodel").read_text()
    (light / "MLmodel").write_text(
        mlmodel.replace("flavors:\n", "flavors:\n  transformers:\n    source_model_revision: abc\n")
    )
    result = dag_runner.run(
        lambda: RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(light), registry_conn_id=conn)
    )
    assert result.task_state("register") == "failed"
    assert "persist_pretrained_model" in result.output
    assert versions_of(workspace) == {}


def test_score_and_validate(dag_runner, conn, workspace, folder, tmp_path):
    import pandas as pd

    pd.DataFrame([[0.1] * 4, [0.9] * 4], columns=[f"f{i}" for i in range(4)]).to_parquet(tmp_path / "in.parquet")

    def define():
        made = RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder))
        judged = ValidateModelVersionOperator(
            task_id="validate", model_name=NAME, version=made.output["version"], policy=PromotionPolicy()
        )
        scored = BatchInferenceOperator(
            task_id="score", model_uri=f"models:/{NAME}/1", input=f"{tmp_path}/in.parquet",
            output=f"{tmp_path}/out.parquet",
        )  # fmt: skip
        judged >> scored

    result = dag_runner.run(define, default_args={"registry_conn_id": conn})
    assert result.state == "success", result.output
    assert result.xcom("score")["rows"] == 2


def test_one_version_whatever_happens_to_the_answers(dag_runner, conn, workspace, folder):
    """Answers to the create and to the finalize are lost after the effect; uploads break and are tried again."""
    faults = workspace.faults
    for path in ("model-versions/create", "model-versions/finalize"):
        faults.add(path, count=1, reset=True, when="after")
    faults.add("MLmodel", method="PUT", count=1, reset=True)
    faults.add("model.pkl", method="PUT", count=2, status=503)
    result = dag_runner.run(
        lambda: RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id=conn)
    )
    assert result.state == "success", result.output
    assert versions_of(workspace) == {NAME: {1: "READY"}}


def test_an_upload_that_fails_for_good_leaves_nothing(dag_runner, conn, workspace, folder, monkeypatch):
    monkeypatch.setattr("airflow_uc_models.hooks.model_files._TRIES", 1)
    workspace.faults.add("model.pkl", method="PUT", count=None, status=500)
    result = dag_runner.run(
        lambda: RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id=conn)
    )
    assert result.task_state("register") == "failed"
    assert versions_of(workspace) == {}


@pytest.mark.parametrize(
    "refusal",
    [
        {"status": 403, "body": {"error_code": "PERMISSION_DENIED", "message": "The version is PENDING_REGISTRATION."}},
        {"status": 404, "body": {"error_code": "NOT_FOUND", "message": "The directory is not found."}},
        {"status": 400, "body": "<html>no</html>"},
    ],
    ids=lambda refusal: refusal["status"],
)
def test_an_upload_that_cannot_be_looked_at_is_finished(dag_runner, conn, workspace, folder, refusal):
    """MlflowClient never lists a pending version, so a workspace need not allow it."""
    fault = workspace.faults.add("/fs/directories/", count=None, **refusal)
    result = dag_runner.run(
        lambda: RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id=conn)
    )
    assert result.state == "success", result.output
    assert fault.hits >= 1
    assert "The files of models:/dev.ml_team.fraud/1 were uploaded, but" in result.output
    assert versions_of(workspace) == {NAME: {1: "READY"}}


def test_what_a_try_left_pending_is_made_again(dag_runner, monkeypatch, workspace, folder):
    """The first try can neither upload nor clean up, as if its worker had died; the second finds what it left."""
    monkeypatch.setattr("airflow_uc_models.hooks.model_files._TRIES", 1)
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace, extra={"max_retry_seconds": 0.1}))
    workspace.faults.add("model.pkl", method="PUT", count=1, status=500)
    workspace.faults.add("/delete$", method="DELETE", count=1, status=503)
    result = dag_runner.run(
        lambda: RegisterModelOperator(
            task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id="ws"
        ),
        default_args={"retries": 1, "retry_delay": timedelta(0)},
    )
    assert result.ti("register").try_number == 2
    assert "was left behind incomplete" in result.output
    assert "Deleting models:/dev.ml_team.fraud/1 (PENDING_REGISTRATION), left by another try" in result.output
    assert result.xcom("register")["version"] == 2
    assert versions_of(workspace) == {NAME: {2: "READY"}}


def test_progress_is_told_while_it_lasts(dag_runner, conn, workspace, folder, monkeypatch, caplog):
    monkeypatch.setattr("airflow_uc_models.hooks.model_files._PROGRESS_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    result = dag_runner.run(
        lambda: RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id=conn)
    )
    assert "Uploading models:/dev.ml_team.fraud/1: 1 of 7 files" in result.output
    assert "MB/s" in result.output


def test_a_finished_version_stays_when_the_answer_is_lost_for_good(dag_runner, monkeypatch, workspace, folder):
    """The first try gives up on a finalize that was carried out; the second finds the version."""
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace, extra={"max_retry_seconds": 0.1}))
    workspace.faults.add("model-versions/finalize", count=1, reset=True, when="after")
    result = dag_runner.run(
        lambda: RegisterModelOperator(
            task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id="ws"
        ),
        default_args={"retries": 1, "retry_delay": timedelta(0)},
    )
    assert (result.xcom("register")["version"], result.ti("register").try_number) == (1, 2)
    assert versions_of(workspace) == {NAME: {1: "READY"}}


def test_a_version_may_take_a_while_to_get_ready(dag_runner, monkeypatch, folder):
    with Emulator(Settings(ready_seconds=1.0)) as slow:
        monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(slow))
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id="ws"
            )
        )
    assert result.xcom("register")["status"] == "READY"
    assert result.xcom("register")["version"] == 1


def test_addresses_that_expire_are_asked_for_anew_and_told_to_nobody(
    dag_runner, monkeypatch, presigned_emulator, folder, tmp_path
):
    presigned_emulator.reset()
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(presigned_emulator))
    for method in ("PUT", "GET"):
        presigned_emulator.faults.add("/storage/.*MLmodel", method=method, count=1, status=403)

    def define():
        made = RegisterModelOperator(task_id="register", model_name=NAME, model_uri=str(folder))
        down = DownloadModelVersionOperator(
            task_id="download", model_name=NAME, version=made.output["version"], destination=f"{tmp_path}/down"
        )
        made >> down

    result = dag_runner.run(define, default_args={"registry_conn_id": "ws"})
    assert result.state == "success", result.output

    presigned_emulator.faults.add("/storage/", count=None, status=403)
    result = dag_runner.run(define, default_args={"registry_conn_id": "ws", "retries": 2, "retry_delay": timedelta(0)})
    assert (result.task_state("register"), result.ti("register").try_number) == ("failed", 1)
    assert "signature=" not in result.output


def test_tags_for_which_there_is_no_room_are_left_out_and_told(dag_runner, conn, workspace, folder):
    def define():
        made = RegisterModelOperator(
            task_id="register", model_name=NAME, model_uri=str(folder), tags={f"t{i:02}": "x" for i in range(49)}
        )
        CopyModelVersionOperator(
            task_id="copy", model_name=NAME, version=made.output["version"], destination_model_name=TARGET
        )

    result = dag_runner.run(define, default_args={"registry_conn_id": conn})
    assert len(result.xcom("copy")["tags"]) == 50
    assert "not carried along: t48" in result.output


def test_credentials_of_a_cloud_go_to_mlflow(dag_runner, monkeypatch, folder):
    """Its package for that cloud is not installed here: mlflow says so, and what was begun is taken back."""
    with Emulator(Settings(storage="vended")) as vending:
        monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(vending))
        monkeypatch.setitem(sys.modules, "boto3", None)
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=NAME, model_uri=str(folder), registry_conn_id="ws"
            )
        )
        asked = vending.requests.find("generate-temporary-credentials", "POST")
        assert [r.body["operation"] for r in asked] == ["MODEL_VERSION_OPERATION_READ_WRITE"]
        assert versions_of(vending) == {}
    assert result.task_state("register") == "failed"
    assert "mlflow[databricks]" in result.output


def test_credentials_of_a_cloud_make_mlflows_own_repository(monkeypatch):
    from airflow_uc_models.entities import ModelVersion
    from airflow_uc_models.hooks import model_files_databricks
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook

    with Emulator(Settings(storage="vended")) as vending:
        monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(vending))
        hook = ModelRegistryHook("ws")
        hook.run(hook.registry.create_registered_model(NAME))
        made = hook.run(hook.registry.create_model_version(NAME, "x"))
        seen = {}

        def repository(**given):
            seen.update(given, again=given["base_credential_refresh_def"]())

        monkeypatch.setattr("mlflow.utils._unity_catalog_utils.get_artifact_repo_from_storage_info", repository)
        model_files_databricks.repository(hook, made, hook.run, write=True)
    assert isinstance(made, ModelVersion)
    assert seen["storage_location"].startswith("s3://")
    for credentials in (seen["scoped_token"], seen["again"]):
        assert credentials.aws_temp_credentials.access_key_id
