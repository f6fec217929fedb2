"""Model-version operators on real MLflow servers with real models, through Airflow's task runner."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from support.mlflow_server import MlflowServer
from support.models import log_model, tracking
from support.registry import aliases, make_versions, versions

from airflow_uc_models.operators import (
    CopyModelVersionOperator,
    DeleteModelVersionOperator,
    DownloadModelVersionOperator,
    GetModelVersionOperator,
    RegisterModelOperator,
    SearchModelVersionsOperator,
    UpdateModelVersionOperator,
)


@pytest.fixture(scope="session")
def other_server(tmp_path_factory):
    """A second MLflow server, for copies between two."""
    with MlflowServer(tmp_path_factory.mktemp("other-mlflow")) as server:
        yield server


@pytest.fixture
def other_connection(monkeypatch, other_server):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_OTHER", other_server.connection_json())
    return "mlflow_other"


@pytest.fixture(scope="session")
def logged(mlflow_server):
    """A logged model that tests share; nobody changes it."""
    return log_model(mlflow_server, metrics={"rmse": 0.5})


@pytest.fixture
def folder(tmp_path, mlflow_server, logged):
    """A model folder on the worker."""
    import mlflow

    path = mlflow.artifacts.download_artifacts(
        artifact_uri=artifacts_of(mlflow_server, logged), dst_path=tmp_path, tracking_uri=mlflow_server.url
    )
    return Path(path)


def run_uri(logged):
    return f"runs:/{logged.run_id}/model"


def artifacts_of(server, logged):
    return server.client().get_logged_model(logged.model_id).artifact_location


def digests(folder):
    import hashlib

    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in Path(folder).rglob("*")
        if f.is_file()
    }


def predict(server, name, version):
    import mlflow
    import pandas as pd

    frame = pd.DataFrame([[0.1] * 4, [0.9] * 4], columns=[f"f{i}" for i in range(4)])
    path = mlflow.artifacts.download_artifacts(
        artifact_uri=server.client().get_model_version_download_uri(name, str(version)), tracking_uri=server.url
    )
    return mlflow.pyfunc.load_model(path).predict(frame).tolist()


class TestRegister:
    @pytest.mark.parametrize("kind", ["run", "logged model"])
    def test_from_run_and_from_logged_model(self, dag_runner, connection, mlflow_server, model_name, logged, kind):
        def define():
            made = RegisterModelOperator(
                task_id="register",
                model_name=model_name,
                model_uri=run_uri(logged) if kind == "run" else logged.uri,
                description="{{ dag.dag_id }}",
                tags={"team": "fraud"},
                registry_conn_id=connection,
            )
            GetModelVersionOperator(
                task_id="get", model_name=model_name, version=made.output["version"], registry_conn_id=connection
            )

        result = dag_runner.run(define)
        version = result.xcom("get")
        assert (version["version"], version["status"]) == (1, "READY")
        assert version["run_id"] == logged.run_id
        assert version["model_id"] == logged.model_id
        assert version["description"] == dag_runner.dag_id
        assert version["tags"]["team"] == "fraud"
        assert len(version["tags"]["airflow_task_key"]) == 32
        assert len(predict(mlflow_server, model_name, 1)) == 2
        assert result.xcom("register", key="model_version_url").endswith(f"{model_name}/versions/1")

    def test_from_a_folder(self, dag_runner, connection, mlflow_server, model_name, folder):
        before = dict(os.environ)
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=model_name, model_uri=str(folder), registry_conn_id=connection
            )
        )
        assert result.xcom("register")["version"] == 1
        assert len(predict(mlflow_server, model_name, 1)) == 2
        assert {k: v for k, v in os.environ.items() if "MLFLOW" in k} == {
            k: v for k, v in before.items() if "MLFLOW" in k
        }

    def test_a_run_of_another_server(self, dag_runner, connection, other_connection, other_server, model_name, logged):
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register",
                model_name=model_name,
                model_uri=run_uri(logged),
                tracking_conn_id=connection,
                registry_conn_id=other_connection,
            )
        )
        assert result.xcom("register")["version"] == 1
        assert len(predict(other_server, model_name, 1)) == 2

    def test_an_artifact_folder_of_a_run(self, dag_runner, connection, mlflow_server, model_name, folder):
        client = mlflow_server.client()
        run_id = client.create_run(client.create_experiment(model_name)).info.run_id
        with tracking(mlflow_server):  # which MLflow 3.4 wants beside the client
            client.log_artifacts(run_id, str(folder), "old/style")
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register",
                model_name=model_name,
                model_uri=f"runs:/{run_id}/old/style",
                registry_conn_id=connection,
            )
        )
        assert result.xcom("register")["run_id"] == run_id
        assert len(predict(mlflow_server, model_name, 1)) == 2

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("runs:/0123456789abcdef0123456789abcdef/model", "get run"),
            ("models:/m-0123456789abcdef0123456789abcdef", "get logged model"),
            ("models:/dev.a.b/3", "CopyModelVersionOperator"),
            ("runs:/only_a_run", "runs:/<run_id>/<path"),
            ("s3://bucket/model", "unknown kind"),
            ("", "model_uri is empty"),
            ("/no/such/folder", "not a folder on this worker"),
            ("{run}/no/such/path", "is empty"),
        ],
    )
    def test_unknown_sources_change_nothing(
        self, dag_runner, connection, mlflow_server, model_name, logged, uri, message
    ):
        uri = uri.replace("{run}", f"runs:/{logged.run_id}")
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=model_name, model_uri=uri, registry_conn_id=connection
            ),
            default_args={"retries": 2, "retry_delay": timedelta(0)},
        )
        assert result.task_state("register") == "failed"
        assert result.ti("register").try_number == 1
        assert message in result.output
        assert mlflow_server.client().search_registered_models(f"name='{model_name}'") == []

    @pytest.mark.parametrize("case", ["empty", "no MLmodel", "broken"])
    def test_folders_that_are_no_models(self, dag_runner, connection, mlflow_server, model_name, tmp_path, case):
        if case == "no MLmodel":
            (tmp_path / "model.pkl").write_bytes(b"x")
        if case == "broken":
            (tmp_path / "MLmodel").write_text("flavors: [")
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=model_name, model_uri=str(tmp_path), registry_conn_id=connection
            )
        )
        assert result.task_state("register") == "failed"
        expected = {"empty": "is empty", "no MLmodel": "holds no MLmodel", "broken": "not readable YAML"}
        assert expected[case] in result.output
        assert mlflow_server.client().search_registered_models(f"name='{model_name}'") == []

    def test_without_a_signature(self, dag_runner, connection, mlflow_server, model_name):
        unsigned = log_model(mlflow_server, with_signature=False)

        def define():
            for required in (True, False):
                RegisterModelOperator(
                    task_id=f"required_{required}",
                    model_name=f"{model_name}_{required}",
                    model_uri=run_uri(unsigned),
                    signature_required=required,
                    registry_conn_id=connection,
                )

        result = dag_runner.run(define)
        assert result.task_state("required_True") == "failed"
        assert "has no signature" in result.output
        assert mlflow_server.client().search_registered_models(f"name='{model_name}_True'") == []
        assert result.xcom("required_False")["version"] == 1

    def test_one_version_whatever_happens_to_the_answer(
        self, dag_runner, proxy, monkeypatch, mlflow_server, model_name, logged
    ):
        monkeypatch.setenv("AIRFLOW_CONN_FAULTY", proxy.connection_json())
        lost = proxy.fail("model-versions/create", after=True, reset=True)
        refused = proxy.fail("model-versions/create", status=503)
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=model_name, model_uri=run_uri(logged), registry_conn_id="faulty"
            )
        )
        assert lost.seen.is_set()
        assert not refused.seen.is_set(), "the version was found, so no second create was sent"
        assert result.xcom("register")["version"] == 1
        assert versions(mlflow_server.client(), model_name) == [1]

    def test_a_create_that_fails_for_good_leaves_no_empty_model(
        self, dag_runner, proxy, monkeypatch, mlflow_server, model_name, logged
    ):
        monkeypatch.setenv("AIRFLOW_CONN_FAULTY", proxy.connection_json(max_retry_seconds=1))
        proxy.fail("model-versions/create", status=503, times=None)
        result = dag_runner.run(
            lambda: RegisterModelOperator(
                task_id="register", model_name=model_name, model_uri=run_uri(logged), registry_conn_id="faulty"
            )
        )
        assert result.task_state("register") == "failed"
        assert mlflow_server.client().search_registered_models(f"name='{model_name}'") == []


class TestCopy:
    @pytest.fixture
    def source(self, mlflow_server, model_name, logged):
        client = mlflow_server.client()
        client.create_registered_model(model_name)
        client.create_model_version(
            model_name,
            logged.uri,
            model_id=logged.model_id,
            description="the source",
            tags={"team": "fraud", "validation_status": "approved", "airflow_task_key": "old"},
        )
        client.set_registered_model_alias(model_name, "Candidate", "1")
        return model_name

    @pytest.mark.parametrize("how", ["uri", "alias_uri", "version", "alias"])
    def test_within_a_server(self, dag_runner, connection, mlflow_server, source, logged, how):
        options = {
            "uri": {"model_uri": f"models:/{source}/1"},
            "alias_uri": {"model_uri": f"models:/{source}@Candidate"},
            "version": {"model_name": source, "version": "1"},
            "alias": {"model_name": source, "alias": "Candidate"},
        }[how]
        target = source.replace("dev.", "prod.")
        result = dag_runner.run(
            lambda: CopyModelVersionOperator(
                task_id="copy", destination_model_name=target, registry_conn_id=connection, **options
            )
        )
        copy = result.xcom("copy")
        assert (copy["name"], copy["version"], copy["status"]) == (target, 1, "READY")
        assert copy["description"] == "the source"
        assert copy["run_id"] == logged.run_id
        assert copy["tags"].pop("airflow_task_key") != "old"
        assert copy["tags"] == {
            "team": "fraud",
            "validation_status": "approved",
            "airflow_copied_from": f"models:/{source}/1",
        }
        assert predict(mlflow_server, target, 1) == predict(mlflow_server, source, 1)

    def test_between_servers(
        self, dag_runner, connection, other_connection, mlflow_server, other_server, source, tmp_path
    ):
        def define():
            copy = CopyModelVersionOperator(
                task_id="copy",
                model_uri=f"models:/{source}@Candidate",
                destination_model_name=source,
                registry_conn_id=connection,
                destination_conn_id=other_connection,
                copy_tags=["team"],
            )
            here = DownloadModelVersionOperator(
                task_id="here", model_name=source, version=1, destination=f"{tmp_path}/here",
                registry_conn_id=connection,
            )  # fmt: skip
            there = DownloadModelVersionOperator(
                task_id="there", model_name=source, version=copy.output["version"], destination=f"{tmp_path}/there",
                registry_conn_id=other_connection,
            )  # fmt: skip
            copy >> here >> there

        result = dag_runner.run(define)
        assert result.state == "success"
        tags = result.xcom("copy")["tags"]
        del tags["airflow_task_key"]
        assert tags == {
            "team": "fraud",
            "airflow_copied_from": f"models:/{source}/1",
            "airflow_copied_from_registry": mlflow_server.url,
        }
        assert result.xcom("copy", key="model_version_url").startswith(other_server.url)
        assert digests(tmp_path / "here") == digests(tmp_path / "there")
        assert len(digests(tmp_path / "here")) >= 4

    def test_retry_finds_its_copy(self, dag_runner, proxy, monkeypatch, mlflow_server, source):
        """The worker loses the last answer after the copy was made; the next try must not copy again."""
        monkeypatch.setenv("AIRFLOW_CONN_FAULTY", proxy.connection_json(max_retry_seconds=0.2))
        target = source.replace("dev.", "prod.")
        fault = proxy.fail("model-versions/get", method="GET", status=503, times=None)
        fault.match = lambda r: r.path.endswith("model-versions/get") and ("name", target) in r.query
        fault.times = 1
        result = dag_runner.run(
            lambda: CopyModelVersionOperator(
                task_id="copy", model_name=source, version=1, destination_model_name=target, registry_conn_id="faulty"
            ),
            default_args={"retries": 1, "retry_delay": timedelta(0)},
        )
        assert fault.seen.is_set()
        assert (result.task_state("copy"), result.ti("copy").try_number) == ("success", 2)
        assert versions(mlflow_server.client(), target) == [1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model_uri": "models:/{source}/1", "version": 1}, "not both"),
            ({"model_name": "{source}", "version": 1, "alias": "Candidate"}, "not both"),
            ({}, "Name the source"),
            ({"model_uri": "models:/{source}/Production"}, "use an alias"),
            ({"model_uri": "models:/two.levels/1"}, "three"),
            ({"model_uri": "models:/{source}@Nobody"}, "has no alias 'Nobody' (existing: Candidate)"),
            ({"model_uri": "models:/{source}/9"}, "404"),
            ({"model_uri": "models:/{source}/1", "destination_model_name": "prod.x"}, "three"),
            ({"model_uri": "models:/{source}/1", "copy_tags": ["nope"]}, "has no tag 'nope'"),
        ],
    )
    def test_bad_input_changes_nothing(self, dag_runner, connection, mlflow_server, source, options, message):
        target = source.replace("dev.", "prod.")
        options = {
            k: v.replace("{source}", source) if isinstance(v, str) else v
            for k, v in ({"destination_model_name": target} | options).items()
        }
        result = dag_runner.run(
            lambda: CopyModelVersionOperator(task_id="copy", registry_conn_id=connection, **options)
        )
        assert result.task_state("copy") == "failed"
        assert message in result.output
        assert mlflow_server.client().search_registered_models(f"name='{target}'") == []


class TestReadAndUpdate:
    def test_search(self, dag_runner, connection, mlflow_server, model_name):
        client = make_versions(mlflow_server, model_name, 3)
        client.set_model_version_tag(model_name, "2", "stage", "ok")
        client.set_registered_model_alias(model_name, "Champion", "2")
        common = {"model_name": model_name, "registry_conn_id": connection}

        def define():
            SearchModelVersionsOperator(task_id="all", **common)
            SearchModelVersionsOperator(task_id="tagged", tags={"stage": "ok"}, **common)
            SearchModelVersionsOperator(task_id="pending", status="PENDING_REGISTRATION", **common)
            SearchModelVersionsOperator(task_id="bad", status="DONE", **common)
            SearchModelVersionsOperator(task_id="missing", model_name=f"{model_name}x", registry_conn_id=connection)

        result = dag_runner.run(define)
        assert [v["version"] for v in result.xcom("all")] == [3, 2, 1]
        assert [(v["version"], v["aliases"]) for v in result.xcom("tagged")] == [(2, ["Champion"])]
        assert result.xcom("pending") == []
        assert [result.task_state(t) for t in ("bad", "missing")] == ["failed", "failed"]

    def test_update_by_alias(self, dag_runner, connection, mlflow_server, model_name):
        client = make_versions(mlflow_server, model_name, 1)
        client.set_registered_model_alias(model_name, "Champion", "1")
        result = dag_runner.run(
            lambda: UpdateModelVersionOperator(
                task_id="update",
                model_name=model_name,
                alias="Champion",
                description="known good",
                registry_conn_id=connection,
            )
        )
        assert result.xcom("update")["description"] == "known good"
        assert client.get_model_version(model_name, "1").description == "known good"


class TestDownload:
    @pytest.fixture
    def registered(self, mlflow_server, model_name, logged):
        client = mlflow_server.client()
        client.create_registered_model(model_name)
        client.create_model_version(model_name, logged.uri, model_id=logged.model_id)
        return model_name

    def test_replaces_a_model_and_nothing_else(self, dag_runner, connection, registered, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("keep")
        common = {"model_name": registered, "version": 1, "registry_conn_id": connection}

        def define():
            first = DownloadModelVersionOperator(task_id="first", destination=f"{tmp_path}/new/model", **common)
            again = DownloadModelVersionOperator(task_id="again", destination=f"file://{tmp_path}/new/model", **common)
            mine = DownloadModelVersionOperator(task_id="mine", destination=f"{tmp_path}/mine", **common)
            first >> again >> mine

        result = dag_runner.run(define)
        assert result.xcom("again")["path"] == f"{tmp_path}/new/model"
        assert "MLmodel" in digests(tmp_path / "new" / "model")
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["model"], "no scratch folder is left"
        assert result.task_state("mine") == "failed"
        assert list(digests(tmp_path / "mine")) == ["notes.txt"]

    def test_into_an_object_store(self, dag_runner, connection, registered, tmp_path):
        from airflow.sdk import ObjectStoragePath
        from airflow.sdk.io import attach
        from fsspec.implementations.memory import MemoryFileSystem

        attach("memory", fs=MemoryFileSystem())
        target = f"memory://models/{registered}"
        result = dag_runner.run(
            lambda: DownloadModelVersionOperator(
                task_id="download", model_name=registered, version=1, destination=target, registry_conn_id=connection
            )
        )
        assert result.xcom("download")["path"] == target
        assert b"flavors" in (ObjectStoragePath(target) / "MLmodel").read_bytes()


class TestDelete:
    def test_an_alias_protects_its_version(self, dag_runner, connection, mlflow_server, model_name):
        client = make_versions(mlflow_server, model_name, 3)
        client.set_registered_model_alias(model_name, "Champion", "2")
        common = {"model_name": model_name, "registry_conn_id": connection}

        def define():
            plain = DeleteModelVersionOperator(task_id="plain", version="1", **common)
            refused = DeleteModelVersionOperator(task_id="refused", version=2, **common)
            forced = DeleteModelVersionOperator(
                task_id="forced", version=2, even_if_aliased=True, trigger_rule="all_done", **common
            )
            missing = DeleteModelVersionOperator(task_id="missing", version=2, trigger_rule="all_done", **common)
            plain >> refused >> forced >> missing

        result = dag_runner.run(define)
        assert result.xcom("plain") == {"name": model_name, "deleted": [1]}
        assert result.task_state("refused") == "failed"
        assert "'Champion' points to it" in result.output
        assert result.xcom("forced")["deleted"] == [2]
        assert result.task_state("missing") == "failed"
        assert versions(client, model_name) == [3]
        assert aliases(client, model_name) == {}

    def test_retention_keeps_the_newest_and_the_aliased(self, dag_runner, connection, mlflow_server, model_name):
        client = make_versions(mlflow_server, model_name, 6)
        client.set_registered_model_alias(model_name, "Champion", "2")
        client.delete_model_version(model_name, "5")
        common = {"model_name": model_name, "registry_conn_id": connection}

        def define():
            keep = DeleteModelVersionOperator(task_id="keep", keep_last="2", **common)
            again = DeleteModelVersionOperator(task_id="again", keep_last=2, **common)
            both = DeleteModelVersionOperator(task_id="both", keep_last=2, version=1, **common)
            force = DeleteModelVersionOperator(task_id="force", keep_last=2, even_if_aliased=True, **common)
            keep >> again >> [both, force]

        result = dag_runner.run(define)
        assert result.xcom("keep")["deleted"] == [1, 3]
        assert result.xcom("again")["deleted"] == []
        assert [result.task_state(t) for t in ("both", "force")] == ["failed", "failed"]
        assert versions(client, model_name) == [2, 4, 6]
