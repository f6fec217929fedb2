"""Lineage in Unity Catalog is told in the requests of MLflow's own client, and nothing fails for it."""

from __future__ import annotations

import base64
import json

import pytest
from support.databricks import connection_json
from support.models import save_model
from support.workspace import global_uris, profile

from airflow_uc_models.hooks.folders import download_to
from airflow_uc_models.hooks.mlflow_session import mlflow_session
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transfer import NewVersion, copy
from airflow_uc_models.names import ModelRef
from airflow_uc_models.registry.lineage import HEADER, MODEL_VERSIONS_TAG

TARGET = "prod.ml_team.fraud"
TAGS = {
    "mlflow.databricks.notebookID": "42",
    "mlflow.databricks.jobID": "7",
    "mlflow.databricks.jobRunID": "8",
}


@pytest.fixture
def workspace(tracking_workspace):
    tracking_workspace.reset()
    return tracking_workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def origin(mlflow_server, model_name):
    """A run of a notebook and a job that read twelve tables, and its logged model."""
    from mlflow.entities import Dataset, DatasetInput

    client = mlflow_server.client()
    experiment = client.create_experiment(model_name)
    run_id = client.create_run(experiment, tags=TAGS).info.run_id
    inputs = []
    for number in range(12):
        name = f"dev.ml.t{number:02}"
        source = {"delta_table_name": name, "is_databricks_uc_table": True, "delta_table_id": f"id-{number}"}
        inputs.append(DatasetInput(Dataset(name, f"d{number}", "delta_table", json.dumps(source))))
    inputs.append(DatasetInput(Dataset("file", "d", "local", json.dumps({"uri": "/data.csv"}))))
    client.log_inputs(run_id, inputs)
    return run_id, client.create_logged_model(experiment, name="m", source_run_id=run_id).model_id


@pytest.fixture
def copied(workspace, monkeypatch, folder, origin, model_name):
    """Copy a version of that run in the workspace, and return what was sent."""

    def copied(key="one"):
        run_id, model_id = origin
        monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace))
        hook, space = ModelRegistryHook("ws"), workspace.workspace
        if model_name not in space.state.models:
            model = space.catalog.create_model(space.admin, model_name)
            space.catalog.create_version(space.admin, model_name, source="x", run_id=run_id, model_id=model_id)
            for file in folder.rglob("*"):
                if file.is_file():
                    target = space.files.path(model.id, 1, file.relative_to(folder).as_posix())
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read_bytes())
            space.catalog.finalize_version(space.admin, model_name, 1)
        workspace.requests.take()
        made = copy(hook, ModelRef.of(model_name, version=1), hook, NewVersion(TARGET, key))
        return made, workspace.requests.take()

    return copied


def lineage_of(requests):
    [create] = [r for r in requests if r.path.endswith("/model-versions/create")]
    return json.loads(base64.b64decode(create.headers[HEADER.lower()]))


def test_the_header_is_that_of_mlflow(workspace, monkeypatch, tmp_path, folder, origin, copied):
    run_id, model_id = origin
    _, requests = copied()
    ours = lineage_of(requests)
    assert ours["entities"] == [{"notebook": {"id": "42"}}, {"job": {"id": "7", "job_run_id": "8"}}]
    assert len(ours["lineages"][0]["source_securables"]) == 10
    with mlflow_session(ModelRegistryHook("ws")):  # sets variables of its own, which a profile comes after
        name = profile(monkeypatch, tmp_path, workspace)
        with global_uris(f"databricks://{name}", f"databricks-uc://{name}") as mlflow:
            mlflow.MlflowClient().create_model_version(TARGET, str(folder), run_id=run_id, model_id=model_id)
    assert lineage_of(workspace.requests.take()) == ours


def test_a_run_without_those_tags_sends_none(copied, origin, mlflow_server):
    run_id, _ = origin
    for tag in TAGS:
        mlflow_server.client().delete_tag(run_id, tag)
    _, requests = copied()
    [create] = [r for r in requests if r.path.endswith("/model-versions/create")]
    assert HEADER.lower() not in create.headers


def test_a_download_is_emitted_as_mlflow_does(workspace, monkeypatch, tmp_path, copied):
    made, requests = copied()
    assert len([r for r in requests if r.path.endswith("/emit-lineage")]) == 1
    download_to(ModelRegistryHook("ws"), made, str(tmp_path / "down"))
    [ours] = workspace.requests.find("/emit-lineage")
    workspace.requests.take()
    name = profile(monkeypatch, tmp_path, workspace)
    with global_uris(f"databricks://{name}", f"databricks-uc://{name}") as mlflow:
        mlflow.artifacts.download_artifacts(f"models:/{TARGET}/1", dst_path=str(tmp_path / "theirs"))
    assert [r.shape for r in workspace.requests.find("/emit-lineage")] == [ours.shape]


def test_the_logged_model_is_told_once(copied, origin, mlflow_server):
    first, _ = copied()
    again, _ = copied()
    other, _ = copied("two")
    assert (first.version, again.version, other.version) == (1, 1, 2)
    tags = mlflow_server.client().get_logged_model(origin[1]).tags
    assert json.loads(tags[MODEL_VERSIONS_TAG]) == [{"name": TARGET, "version": n} for n in (1, 2)]


@pytest.mark.parametrize("path", ["/emit-lineage", "/runs/get", "/logged-models/"])
@pytest.mark.parametrize("status", [403, 404, 500])
def test_nothing_fails_for_it(workspace, copied, monkeypatch, caplog, path, status):
    fault = workspace.faults.add(path, count=None, status=status)
    monkeypatch.setattr("airflow_uc_models.hooks.transport.tenacity.stop_before_delay", lambda _: lambda _: True)
    try:
        made, _ = copied()
    finally:
        workspace.faults.clear()
    assert made.is_ready
    assert fault.hits >= 1
    assert "lineage" in caplog.text or "logged model" in caplog.text
