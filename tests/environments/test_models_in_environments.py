"""Models in environments of their own: built by uv, run in another process."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from airflow_uc_models.environments import environment_of

# Not the one that is installed.
PINNED = "1.8.0"
X = Schema([ColSpec("double", "x")])


# Tells what it runs with; prints to where messages could go. A file, as this module is not in the environment.
MODEL = """
import os
import sys

import mlflow
import sklearn


class SklearnVersion(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        print("printed by the model")
        os.write(1, b"written by the model\\n")
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


def test_a_model_runs_with_what_it_pins(pinned_model, monkeypatch, capfd):
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "http://user:password@host")
    environment = environment_of(pinned_model, label="models:/a.b.c/1")
    assert environment.manager == "uv"
    assert f"the model asks for scikit-learn=={PINNED}, and this worker has " in environment.reason
    for _ in range(2):
        with environment.process(pinned_model) as model:
            told = model.predict(pa.record_batch({"x": [1.0, 2.0]}))
        assert told.to_pydict() == {"prediction": [f"{PINNED} False []"] * 2}
    logged = capfd.readouterr().out
    assert "printed by the model" in logged
    assert "written by the model" in logged
    assert logged.count("Built the environment") == 1
