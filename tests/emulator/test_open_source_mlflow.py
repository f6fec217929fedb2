"""MLflow's own client, unmodified, on the open-source flavour: what works, and what goes wrong as it does there."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import log_model

FRAME = {f"f{i}": [0.1, 0.9] for i in range(4)}


@pytest.fixture(scope="module")
def mlflow(mlflow_server, open_source):
    """mlflow with runs on an MLflow server and registered models on the open-source one."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        if open_source.token:
            patch.setenv("MLFLOW_UC_OSS_TOKEN", open_source.token)
        mlflow.set_tracking_uri(mlflow_server.url)
        mlflow.set_registry_uri(f"uc:{open_source.url}/")
        yield mlflow
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


@pytest.fixture(scope="module")
def folder(mlflow, mlflow_server, tmp_path_factory):
    logged = log_model(mlflow_server)
    return mlflow.artifacts.download_artifacts(logged.uri, dst_path=str(tmp_path_factory.mktemp("model")))


@pytest.fixture
def name(open_source):
    return open_source.new_name()


def files(uri: str) -> set[str]:
    root = Path(uri.removeprefix("file://"))
    return {f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file()}


def predict(mlflow, uri: str, where: Path) -> list[bool]:
    import pandas as pd

    where.mkdir()
    return list(mlflow.pyfunc.load_model(uri, dst_path=str(where)).predict(pd.DataFrame(FRAME)))


def test_the_life_of_a_model(mlflow, open_source, folder, name, tmp_path):
    client = mlflow.MlflowClient()
    made = mlflow.register_model(folder, name)
    assert (made.version, made.status) == (1, "READY")
    uri = client.get_model_version_download_uri(name, 1)
    assert "MLmodel" in files(uri)
    assert predict(mlflow, f"models:/{name}/1", tmp_path / "loaded") == [False, True]
    client.update_registered_model(name, "why")
    client.update_model_version(name, 1, "because")
    assert client.get_registered_model(name).description == "why"
    assert client.get_model_version(name, 1).description == "because"
    assert [v.version for v in client.search_model_versions(f"name='{name}'")] == [1]
    found, token = [], None
    while token is None or token:
        page = client.search_registered_models(page_token=token)
        found += [m.name for m in page]
        token = page.token
    assert name in found
    client.delete_model_version(name, 1)
    assert files(uri)  # the server deletes no files
    client.delete_registered_model(name)
    with pytest.raises(mlflow.MlflowException, match=f"NOT_FOUND: Registered model not found: {name}"):
        client.get_registered_model(name)


def test_a_model_is_registered_as_it_is_logged(mlflow, mlflow_server, name, tmp_path):
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame(FRAME)
    model = LogisticRegression().fit(frame, [False, True])
    with mlflow.start_run(experiment_id=mlflow_server.client().create_experiment(name)):
        mlflow.sklearn.log_model(
            model, name="model", registered_model_name=name, pip_requirements=["scikit-learn"], input_example=frame
        )
    assert predict(mlflow, f"models:/{name}/1", tmp_path / "loaded") == [False, True]


def test_a_copy_deletes_the_files_of_its_source(mlflow, name, folder):
    client = mlflow.MlflowClient()
    mlflow.register_model(folder, name)
    source = client.get_model_version_download_uri(name, 1)
    copied = client.copy_model_version(f"models:/{name}/1", f"{name}_copy")
    assert copied.status == "READY"
    assert "MLmodel" in files(client.get_model_version_download_uri(f"{name}_copy", 1))
    assert not Path(source.removeprefix("file://")).exists()


def test_a_failed_upload_leaves_a_pending_version(mlflow, open_source, name, folder, monkeypatch):
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    open_source.make(name)
    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", broken)
    with pytest.raises(OSError, match="disk full"):
        mlflow.MlflowClient().create_model_version(name, folder)
    assert [v["status"] for v in open_source.versions(name)] == ["PENDING_REGISTRATION"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda c, n: c.create_registered_model(n), "ALREADY_EXISTS: Registered model already exists: {name}"),
        (lambda c, n: c.get_model_version(n, 9), "NOT_FOUND: Model version not found: {name}/9"),
        (lambda c, n: c.delete_registered_model(n), "ABORTED: Unable to delete a registered model with existing"),
        (lambda c, n: c.create_registered_model("a.b.c"), "CATALOG_NOT_FOUND: Catalog not found: a"),
        (lambda c, n: c.search_registered_models("name = 'x'"), "Argument 'filter_string' is unsupported"),
    ],
)
def test_errors(mlflow, open_source, name, call, text):
    open_source.make(name, ("one",))
    with pytest.raises(mlflow.MlflowException) as caught:
        call(mlflow.MlflowClient(), name)
    assert text.format(name=name) in str(caught.value)
