"""The unmodified MlflowClient lives a model's whole life in the emulator: both dialects, both ways to move files."""

from __future__ import annotations

import pytest
from mlflow import environment_variables
from mlflow.exceptions import MlflowException, RestException
from support.workspace import digests, global_uris, profile

SWITCH = "MLFLOW_ENABLE_UC_NATIVE_MODEL_REGISTRY"


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """A folder with a small scikit-learn model that has a signature."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 1.0, 0.5]})
    model = LinearRegression().fit(frame, frame["a"] * 2)
    folder = tmp_path_factory.mktemp("saved") / "model"
    signature = infer_signature(frame, model.predict(frame))
    mlflow.sklearn.save_model(model, folder, signature=signature, pip_requirements=["scikit-learn"])
    (folder / "extra" / "deep").mkdir(parents=True)
    (folder / "extra" / "deep" / "odd name %20+ü.bin").write_bytes(bytes(range(256)) * 50)
    (folder / "extra" / "empty").write_bytes(b"")
    return folder


@pytest.fixture(params=["legacy-files", "native-files", "legacy-presigned", "native-presigned"])
def workspace(request, monkeypatch, other_emulator):
    dialect, storage = request.param.split("-")
    if dialect == "native" and not hasattr(environment_variables, SWITCH):
        pytest.skip("this release of MLflow speaks the legacy dialect alone")
    monkeypatch.setenv(SWITCH, str(dialect == "native").lower())
    return other_emulator(storage=storage)


@pytest.fixture
def uri(workspace, monkeypatch, tmp_path):
    return profile(monkeypatch, tmp_path, workspace)


@pytest.fixture
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"databricks://{uri}", registry_uri=f"databricks-uc://{uri}")


def is_native(workspace) -> bool:
    return bool(workspace.requests.find("/api/2.1/unity-catalog/models"))


def test_the_whole_life_of_a_model(workspace, uri, client, saved_model, tmp_path, request) -> None:
    import mlflow

    name = "Dev.ml_team.Fraud"
    created = client.create_registered_model(name, tags={"team": "risk"}, description="finds fraud")
    assert (created.name, created.description, created.tags) == (name.lower(), "finds fraud", {"team": "risk"})
    first = client.create_model_version(name, str(saved_model), tags={"k": "v"}, description="one")
    assert (first.version, first.status, first.tags, first.description) == ("1", "READY", {"k": "v"}, "one")
    assert client.create_model_version(name, str(saved_model)).version == "2"

    client.set_registered_model_alias(name, "Champion", "1")
    assert client.get_model_version_by_alias(name, "Champion").version == "1"
    client.set_registered_model_alias(name, "Champion", "2")
    assert client.get_registered_model(name).aliases == {"Champion": "2"}
    assert client.get_model_version(name, "2").aliases == ["Champion"]

    client.set_registered_model_tag(name, "stage", "prod")
    client.delete_registered_model_tag(name, "team")
    assert client.get_registered_model(name).tags == {"stage": "prod"}
    client.set_model_version_tag(name, "1", "approval", "Approved")
    client.delete_model_version_tag(name, "1", "k")
    assert client.get_model_version(name, "1").tags == {"approval": "Approved"}
    assert client.update_registered_model(name, "better").description == "better"
    assert client.update_model_version(name, "1", "first").description == "first"

    assert [model.name for model in client.search_registered_models()] == [name.lower()]
    assert {hit.version for hit in client.search_model_versions(f"name='{name}'")} == {"1", "2"}

    registry = f"databricks-uc://{uri}"
    with global_uris(f"databricks://{uri}", registry):  # MLflow 3.4 takes no registry_uri here
        got = mlflow.artifacts.download_artifacts(f"models:/{name}@Champion", dst_path=str(tmp_path / "got"))
    assert digests(got) == digests(saved_model)

    client.delete_registered_model_alias(name, "Champion")
    with pytest.raises(RestException, match="Alias 'Champion' does not exist"):
        client.get_model_version_by_alias(name, "Champion")
    client.rename_registered_model(name, "dev.ml_team.fraud2")
    assert client.get_model_version("dev.ml_team.fraud2", "1").description == "first"
    for version in ("1", "2"):
        client.delete_model_version("dev.ml_team.fraud2", version)
    assert client.create_model_version("dev.ml_team.fraud2", str(saved_model)).version == "3"
    client.delete_model_version("dev.ml_team.fraud2", "3")
    client.delete_registered_model("dev.ml_team.fraud2")
    assert client.search_registered_models() == []
    assert is_native(workspace) == ("native" in request.node.name)
    assert not [each for each in workspace.requests if (each.status or 500) >= 500]


def test_load_model_and_predict(workspace, uri, client, saved_model) -> None:
    import pandas as pd

    name = "dev.ml_team.loaded"
    client.create_registered_model(name)
    client.create_model_version(name, str(saved_model))
    client.set_registered_model_alias(name, "champion", "1")
    frame = pd.DataFrame({"a": [5.0], "b": [1.0]})
    with global_uris(f"databricks://{uri}", f"databricks-uc://{uri}") as mlflow:
        model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
        assert model.predict(frame) == pytest.approx([10.0])
        assert mlflow.register_model(str(saved_model), "dev.ml_team.registered").version == "1"


def test_refusals_keep_their_codes(client, saved_model) -> None:
    name = "dev.ml_team.refused"
    client.create_registered_model(name)
    for attempt, code in (
        (lambda: client.create_registered_model(name), "RESOURCE_ALREADY_EXISTS"),
        (lambda: client.get_registered_model("dev.ml_team.none"), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: client.get_model_version(name, "7"), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: client.set_registered_model_tag(name, "a.b", "c"), "INVALID_PARAMETER_VALUE"),
    ):
        with pytest.raises(MlflowException) as refused:
            attempt()
        assert refused.value.error_code == code


def test_a_principal_without_privileges_is_refused(workspace, client, monkeypatch, tmp_path, saved_model) -> None:
    from mlflow import MlflowClient

    client.create_registered_model("dev.ml_team.secret")
    user = workspace.add_principal("user")
    theirs = profile(monkeypatch, tmp_path, workspace, user.token)
    other = MlflowClient(tracking_uri=f"databricks://{theirs}", registry_uri=f"databricks-uc://{theirs}")
    with pytest.raises(MlflowException, match="USE CATALOG on Catalog 'dev'") as refused:
        other.get_registered_model("dev.ml_team.secret")
    assert refused.value.error_code == "PERMISSION_DENIED"


def test_log_model_registers_what_a_run_logs(other_emulator, mlflow_server, monkeypatch, tmp_path) -> None:
    """Runs and logged models live in the MLflow server behind the workspace."""
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    emulator = other_emulator(tracking_uri=mlflow_server.url)
    uri = profile(monkeypatch, tmp_path, emulator)
    features = np.array([[1.0], [2.0]])
    model = LinearRegression().fit(features, [2.0, 4.0])
    with global_uris(f"databricks://{uri}", f"databricks-uc://{uri}") as mlflow:
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("/Shared/emulated"))
        with mlflow.start_run() as run:
            info = mlflow.sklearn.log_model(
                model,
                name="model",
                signature=infer_signature(features, model.predict(features)),
                pip_requirements=["scikit-learn"],
                registered_model_name="dev.ml_team.logged",
            )
        client = mlflow.MlflowClient()
        version = client.get_model_version("dev.ml_team.logged", "1")
        assert (version.status, version.run_id, version.model_id) == ("READY", run.info.run_id, info.model_id)
        loaded = mlflow.pyfunc.load_model("models:/dev.ml_team.logged/1")
        assert loaded.predict(np.array([[5.0]])) == pytest.approx([10.0])
        assert client.get_run(run.info.run_id).info.status == "FINISHED"
    kept = emulator.workspace.state.model("dev.ml_team.logged").version(1)
    assert kept.run_tracking_server_id == str(emulator.settings.workspace_id)
