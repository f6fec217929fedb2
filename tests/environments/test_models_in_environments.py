"""Models in environments of their own: built by uv, run in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
import zipfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
import psutil
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from support.models import tracking

from airflow_uc_models.engines.runners import available_cpus
from airflow_uc_models.environments import environment_of
from airflow_uc_models.environments.build import Builder
from airflow_uc_models.environments.requirements import ModelRequirements
from airflow_uc_models.exceptions import ModelEnvironmentError
from airflow_uc_models.operators.inference import BatchInferenceOperator

# Not the one that is installed.
PINNED = "1.7.2" if version("scikit-learn") == "1.8.0" else "1.8.0"
X = Schema([ColSpec("double", "x")])


# Tells what it runs with. A file, as this module is not in the environment.
MODEL = """
import os
import sys

import mlflow
import sklearn


class SklearnVersion(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["x"] == 13).any():
            os.kill(os.getpid(), 9)
        if (model_input["x"] < 0).any():
            raise ValueError("x is negative")
        told = f"{sklearn.__version__} {'airflow' in sys.modules} {sorted(n for n in os.environ if 'AIRFLOW' in n)}"
        return [told] * len(model_input)


mlflow.models.set_model(SklearnVersion())
"""


@pytest.fixture(scope="session")
def pinned_model(tmp_path_factory) -> Path:
    """A model that pins another scikit-learn than the one that is installed."""
    folder = tmp_path_factory.mktemp("pinned") / "model"
    code = folder.with_name("code.py")
    code.write_text(MODEL)
    pins = [f"mlflow-skinny=={mlflow.__version__}", f"scikit-learn=={PINNED}", "pandas"]
    mlflow.pyfunc.save_model(folder, python_model=code, signature=ModelSignature(X), pip_requirements=pins)
    return folder


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("environments")
        patch.setenv("AIRFLOW__UC_MODELS__ENVIRONMENTS_FOLDER", str(folder))
        yield folder


@pytest.fixture(scope="module")
def registered(pinned_model, mlflow_server) -> str:
    """The version of the pinned model on a server."""
    name = f"dev.tests.pinned{uuid.uuid4().hex[:8]}"
    client = mlflow_server.client()
    experiment_id = client.create_experiment(name)
    with tracking(mlflow_server):
        made = client.create_logged_model(experiment_id, name="model")
        client.log_model_artifacts(made.model_id, str(pinned_model))
        client.finalize_logged_model(made.model_id, "READY")
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{made.model_id}", model_id=made.model_id)
    return f"models:/{name}/1"


@pytest.fixture
def infer(dag_runner, connection, registered, tmp_path):
    def run(x, **options):
        pd.DataFrame({"id": range(len(x)), "x": x}).to_parquet(tmp_path / "in.parquet")
        paths = {"input": str(tmp_path / "in.parquet"), "registry_conn_id": connection, "model_uri": registered}
        return dag_runner.run(partial(BatchInferenceOperator, task_id="score", **paths, **options))

    return run


def test_a_pinned_model_scores_in_two_processes(infer, tmp_path):
    result = infer(
        [float(n) for n in range(20, 320)] + [-1.0],
        output=str(tmp_path / "out"),
        mode="append",
        batch_size="50",
        engine_options={"workers": 2},
        on_bad_rows="quarantine",
        keep_columns=["id"],
        metadata_columns=True,
    )
    told = result.xcom("score")
    assert (told["rows"], told["bad_rows"], told["bad_rows_output"]) == (300, 1, str(tmp_path / "out.bad_rows"))
    assert (told["env_manager"], told["workers"]) == ("uv", min(2, available_cpus()))
    assert f"scikit-learn=={PINNED}" in told["env_reason"]
    written = pd.read_parquet(tmp_path / "out")
    assert list(written.columns) == ["id", "prediction", "model_name", "model_version", "scored_at"]
    assert written["id"].tolist() == list(range(300))
    assert set(written["prediction"]) == {f"{PINNED} False []"}
    assert pd.read_parquet(tmp_path / "out.bad_rows")["reason"].tolist() == ["ValueError: x is negative"]


def test_a_model_process_that_is_killed_fails_the_task(infer, tmp_path):
    result = infer([1.0, 13.0, 2.0], output=str(tmp_path / "out.parquet"), batch_size=1)
    assert result.state == "failed"
    assert "Could not score rows 2 to 2 of " in result.output
    assert "was killed by SIGKILL, as happens where memory runs out. Its last lines:" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


# -- building, without packages from anywhere


def wheel(folder: Path) -> Path:
    """Write a package of one module."""
    file = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny.py", "NAME = 'tiny'")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return file


@pytest.mark.parametrize("manager", ["uv", "virtualenv"])
def test_an_environment_has_what_is_asked_for_and_nothing_else(manager, monkeypatch, tmp_path):
    monkeypatch.setattr(Builder, "lines", property(lambda self: self.requirements.lines))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = ModelRequirements(None, (str(wheel(tmp_path)),), constraints=("tiny<2",))
    Builder(manager, asked, "m").build(tmp_path / "environment", os.open(os.devnull, os.O_RDONLY))
    python = tmp_path / "environment" / "bin" / "python"
    code = "import tiny, sys, importlib.util as u; print(tiny.NAME, sys.version.split()[0], u.find_spec('airflow'))"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["tiny", sys.version.split()[0], "None"]


def test_a_build_that_fails_is_told_without_passwords(cache, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://me:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    (tmp_path / "requirements.txt").write_text("no-such-package-at-all==1.0")
    before = sorted(path for path in cache.iterdir() if path.is_dir())
    with pytest.raises(ModelEnvironmentError) as error, environment_of(tmp_path, "uv", "m").process(tmp_path):
        pass
    assert "The environment of m could not be built: uv ended with" in str(error.value)
    assert "no-such-package-at-all" in str(error.value)
    assert "secret" not in str(error.value) + "".join(capfd.readouterr())
    assert sorted(path for path in cache.iterdir() if path.is_dir()) == before


BUILDING = """
import sys
from pathlib import Path
from airflow_uc_models.environments.build import Builder
folder = Path(sys.argv[1])
lock = (folder / "lock").open("a")
command = ["sh", "-c", "echo $$ > pid.tmp; mv pid.tmp pid; exec sleep 600"]
Builder("uv", None, "m")._run(command, folder, lock.fileno())
"""


def test_a_build_ends_with_a_task_that_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", BUILDING, str(tmp_path)]) as task:
        while not (tmp_path / "pid").exists():
            assert task.poll() is None
        build = psutil.Process(int((tmp_path / "pid").read_text()))
        task.kill()
    psutil.wait_procs([build], timeout=20)
    assert not build.is_running()
