"""Register, copy and download on an open-source Unity Catalog server, within it and from and to an MLflow server."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from support.models import add_version, log_model, tracking
from support.open_source import flavour
from support.proxy import Fault, Proxy

from airflow_uc_models.emulator.open_source_races import Twins
from airflow_uc_models.exceptions import ConnectionConfigError
from airflow_uc_models.hooks import model_files
from airflow_uc_models.hooks.mlflow_session import mlflow_session
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transfer import NewVersion, register
from airflow_uc_models.names import LocalSource
from airflow_uc_models.operators import (
    CopyModelVersionOperator,
    DownloadModelVersionOperator,
    RegisterModelOperator,
    UpdateModelVersionOperator,
)
from airflow_uc_models.registry.registration import settle

CONN = "unity_catalog_test"


@pytest.fixture
def name(open_source, open_source_connection):
    return open_source.new_name()


@pytest.fixture(scope="module")
def logged(mlflow_server):
    return log_model(mlflow_server)


@pytest.fixture(scope="module")
def folder(mlflow_server, logged, tmp_path_factory):
    """The files of a real model on the worker."""
    from mlflow.artifacts import download_artifacts

    with tracking(mlflow_server):
        where = Path(download_artifacts(logged.uri, dst_path=str(tmp_path_factory.mktemp("model"))))
    (where / "registered_model_meta").unlink(missing_ok=True)
    return where


def digests(folder: Path) -> dict[str, str]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def storage(version) -> Path:
    return Path(version["storage_location"].removeprefix("file://"))


def test_a_folder_is_registered_and_stays(dag_runner, open_source, folder, name):
    before = digests(folder)

    def define():
        RegisterModelOperator(
            task_id="register", model_name=name, model_uri=str(folder), description="why", registry_conn_id=CONN
        )

    version = dag_runner.run(define).xcom("register")
    assert (version["name"], version["version"], version["status"]) == (name, 1, "READY")
    text, line = version["description"].split("\n")
    assert text == "why"
    assert line.startswith("airflow_task_key: ")
    assert digests(storage(version)) == before == digests(folder)


def test_a_logged_model_is_registered_from_its_tracking_server(
    dag_runner, connection, open_source, logged, folder, name
):
    def define():
        conn = {"model_name": name, "registry_conn_id": CONN}
        RegisterModelOperator(task_id="logged", model_uri=logged.uri, tracking_conn_id=connection, **conn)
        RegisterModelOperator(
            task_id="run", model_uri=f"runs:/{logged.run_id}/model", tracking_conn_id=connection, **conn
        )
        RegisterModelOperator(task_id="without", model_uri=logged.uri, **conn)

    result = dag_runner.run(define)
    for task in ("logged", "run"):
        version = result.xcom(task)
        assert version["status"] == "READY"
        assert version["source"] == logged.uri
        assert version["run_id"] == logged.run_id
        assert digests(storage(version)) == digests(folder)
    assert {v["version"] for v in open_source.versions(name)} == {1, 2}
    assert result.task_state("without") == "failed"
    assert "Give tracking_conn_id" in result.output


def test_a_copy_within_the_server_leaves_the_source_whole(dag_runner, open_source, folder, name):
    """mlflow's own copy deletes the files of the source."""

    def define():
        register = RegisterModelOperator(
            task_id="register", model_name=name, model_uri=str(folder), description="why", registry_conn_id=CONN
        )
        copy = CopyModelVersionOperator(
            task_id="copy", model_uri=f"models:/{name}/1", destination_model_name=f"{name}_prod", registry_conn_id=CONN
        )
        register >> copy

    result = dag_runner.run(define)
    source, copied = result.xcom("register"), result.xcom("copy")
    assert digests(storage(source)) == digests(storage(copied)) == digests(folder)
    assert storage(source) != storage(copied)
    assert copied["source"] == source["uri"]
    text, origin, line = copied["description"].split("\n")
    assert (text, origin) == ("why", f"airflow_copied_from: {source['uri']}")
    assert line != source["description"].split("\n")[1]


def test_from_an_mlflow_server_and_back(
    dag_runner, connection, mlflow_server, open_source, logged, folder, name, model_name
):
    add_version(mlflow_server, model_name, logged, {"team": "risk"})
    mlflow_server.client().update_model_version(model_name, "1", "described")

    def define():
        to = CopyModelVersionOperator(
            task_id="to",
            model_uri=f"models:/{model_name}/1",
            destination_model_name=name,
            destination_conn_id=CONN,
            registry_conn_id=connection,
        )
        back = CopyModelVersionOperator(
            task_id="back",
            model_uri=f"models:/{name}/1",
            destination_model_name=f"{model_name}_back",
            destination_conn_id=connection,
            registry_conn_id=CONN,
        )
        to >> back

    result = dag_runner.run(define)
    there, back = result.xcom("to"), result.xcom("back")
    assert digests(storage(there)) == digests(folder)
    assert there["run_id"] == logged.run_id
    lines = there["description"].split("\n")
    assert lines[:3] == [
        "described",
        f"airflow_copied_from: models:/{model_name}/1",
        f"airflow_copied_from_registry: {mlflow_server.url}",
    ]
    assert back["description"] == "described"
    assert back["tags"]["airflow_copied_from"] == f"models:/{name}/1"
    assert back["tags"]["airflow_copied_from_registry"] == open_source.url


def test_a_download_is_the_model_and_leaves_the_storage_as_it_was(dag_runner, open_source, folder, name, tmp_path):
    def define():
        register = RegisterModelOperator(
            task_id="register", model_name=name, model_uri=str(folder), registry_conn_id=CONN
        )
        download = DownloadModelVersionOperator(
            task_id="download", model_name=name, version=1, destination=str(tmp_path / "out"), registry_conn_id=CONN
        )
        register >> download

    result = dag_runner.run(define)
    assert digests(tmp_path / "out") == digests(folder)
    where = storage(result.xcom("register"))
    assert digests(where) == digests(folder)
    (where / "registered_model_meta").write_text("left by mlflow's load_model")
    again = tmp_path / "again"
    again.mkdir()
    hook = ModelRegistryHook(CONN)
    model_files.download(hook, hook.run(hook.registry.get_model_version(name, 1)), again)
    assert digests(again) == digests(folder)


def test_a_version_is_found_again_after_its_description_was_replaced(dag_runner, folder, name):
    def define():
        conn = {"model_name": name, "registry_conn_id": CONN}
        register = RegisterModelOperator(task_id="register", model_uri=str(folder), **conn)
        register >> UpdateModelVersionOperator(task_id="update", version=1, description="new", **conn)

    version = dag_runner.run(define).xcom("update")
    text, line = version["description"].split("\n")
    assert text == "new"
    hook = ModelRegistryHook(CONN)
    found = hook.run(settle(hook.registry, name, line.removeprefix("airflow_task_key: ")))
    assert found.to_xcom() == version


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/models", "folder"), ("/models/versions", "folder"), ("/models/versions", "run"), ("/finalize", "folder")],
)
def test_lost_answers_make_one_version(
    dag_runner, connection, logged, open_source, folder, name, monkeypatch, path, kind
):
    uri = str(folder) if kind == "folder" else f"runs:/{logged.run_id}/model"
    with Proxy(open_source.url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_LOST", open_source.connection_json(proxy.url))
        fault = proxy.fail(path, after=True, reset=True)
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register",
                model_name=name,
                model_uri=uri,
                tracking_conn_id=connection if kind == "run" else None,
                registry_conn_id="lost",
            )
        )
    assert fault.seen.is_set()
    assert result.task_state("register") == "success"
    assert [(v["version"], v["status"]) for v in open_source.versions(name)] == [(1, "READY")]


def test_a_failed_upload_leaves_nothing_pending(dag_runner, open_source, folder, name, monkeypatch):
    with Proxy(open_source.url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_BROKEN", open_source.connection_json(proxy.url, max_retry_seconds=0.1))
        proxy.fail("/finalize", times=None, status=403, body='{"error_code": "PERMISSION_DENIED", "message": "no"}')
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=name, model_uri=str(folder), registry_conn_id="broken"
            )
        )
    assert result.task_state("register") == "failed"
    assert open_source.client.get(f"/models/{name}").status_code == 404


def test_storage_that_the_worker_cannot_reach_is_told(dag_runner, open_source, folder, name):
    def define():
        RegisterModelOperator(task_id="register", model_name=name, model_uri=str(folder), registry_conn_id=CONN)

    where = storage(dag_runner.run(define).xcom("register"))
    where.rename(where.with_name("moved"))
    hook = ModelRegistryHook(CONN)
    version = hook.run(hook.registry.get_model_version(name, 1))
    with pytest.raises(ConnectionConfigError, match=f"lie in {where} on the file system of the Unity Catalog server"):
        model_files.download(hook, version, where.parent)
    where.with_name("moved").rename(where)
    if os.geteuid() != 0:  # root may read and write everything
        where.chmod(0o500)
        with pytest.raises(ConnectionConfigError, match="may not write to"):
            model_files.upload(hook, version, folder)


@pytest.mark.parametrize("reached", ["oldest", "newest"])
def test_registrations_at_the_same_moment_make_a_version_each(dag_runner, folder, tmp_path, monkeypatch, reached):
    """Creates that come at once get one number, here that of the last row of a page, and each version is complete."""
    with (
        flavour(tmp_path, concurrent_creates=2, page_size=5, twins=Twins("oldest", reached)) as server,
        Proxy(server.url) as proxy,
    ):
        monkeypatch.setenv("AIRFLOW_CONN_RACING", server.connection_json(proxy.url))
        monkeypatch.setenv("AIRFLOW_CONN_DIRECT", server.connection_json())
        name, made, given = server.make(server.new_name(), ("",) * 4), [], []
        store = server.app.state.store
        create = store.create_version

        def watched(*arguments):
            given.append(create(*arguments))
            return given[-1]

        store.create_version = watched

        def work() -> None:
            made.append(
                register(ModelRegistryHook("direct"), LocalSource(folder), NewVersion(name, "1" * 32)).to_xcom()
            )

        other = threading.Thread(target=work)

        def begin(request) -> bool:
            if (request.method, other.ident) == ("POST", None):
                other.start()
            return False

        proxy.faults.append(Fault(begin))
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=name, model_uri=str(folder), registry_conn_id="racing"
            )
        )
        other.join()
        made.append(result.xcom("register"))
        assert [row["version"] for row in given][:2] == [5, 5]
        assert len(made) == 2
        rows = [v for v in store.versions if v["version"] > 4]
        assert all(v["status"] == "READY" for v in rows)
        for version in made:
            assert version["version"] > 4
            assert [v for v in rows if v["version"] == version["version"]] == [
                v for v in rows if v["storage_location"] == version["storage_location"]
            ]
            assert digests(storage(version)) == digests(folder)


def test_a_session_lets_mlflow_work_on_the_connection_and_leaves_no_trace(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)  # where a client of mlflow puts its database
    monkeypatch.setenv("MLFLOW_UC_OSS_TOKEN", "the user's own")
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with flavour(tmp_path, authorization=True) as server:
        monkeypatch.setenv("AIRFLOW_CONN_GUARDED", server.connection_json())
        name = server.new_name()
        with mlflow_session("guarded"):
            assert mlflow.get_tracking_uri() == before[0]
            mlflow.MlflowClient().create_registered_model(name)
        assert server.client.get(f"/models/{name}").status_code == 200
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == before
    assert os.environ["MLFLOW_UC_OSS_TOKEN"] == "the user's own"


def test_a_number_that_somebody_else_got_during_the_upload_is_given_up(folder, tmp_path, monkeypatch):
    with flavour(tmp_path) as server, Proxy(server.url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_SHARED", server.connection_json(proxy.url))
        name, versions = server.new_name(), server.app.state.store.versions
        looks = []

        def slip_in(request) -> bool:
            if request.method == "GET" and request.path.endswith("/versions") and versions:
                looks.append(request)
                if len(looks) == 2:  # the one before the version is finished
                    versions.append({**versions[0], "id": "x", "storage_location": "file:///x", "comment": "theirs"})
            return False

        proxy.faults.append(Fault(slip_in))
        version = register(ModelRegistryHook("shared"), LocalSource(folder), NewVersion(name, "0" * 32))
        assert (version.version, version.status) == (2, "READY")
        left = [(v["version"], v["comment"], v["status"]) for v in server.versions(name)]
        assert left[0] == (1, "theirs", "PENDING_REGISTRATION")
        assert left[1:] == [(2, version.description, "READY")]
