"""The job that Spark runs, with real Spark and real models in folders."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from airflow_uc_models.engines import spark_job
from airflow_uc_models.engines.spark_plan import JobError

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

OWN, OTHER = "aaaa1111bbbb2222", "cccc3333dddd4444"


class Doubler(mlflow.pyfunc.PythonModel):
    """Doubles column x; fails on a negative one."""

    def predict(self, context, model_input, params=None):
        if (model_input["x"] < 0).any():
            raise ValueError("x is negative")
        return model_input["x"].to_numpy() * 2


class Labels(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"label": np.where(model_input["x"] > 1, "high", "low"), "score": model_input["x"] / 2})


class RowSums(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return np.asarray(model_input).sum(axis=1)


X = Schema([ColSpec("double", "x")])
SIGNATURES = {
    Doubler: ModelSignature(X, Schema([ColSpec("double")])),
    Labels: ModelSignature(X, Schema([ColSpec("string", "label"), ColSpec("double", "score")])),
    RowSums: ModelSignature(
        Schema([TensorSpec(np.dtype("float64"), (-1, 2))]), Schema([TensorSpec(np.dtype("float64"), (-1,))])
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of models, by class."""
    folder = tmp_path_factory.mktemp("models")
    for model, signature in SIGNATURES.items():
        mlflow.pyfunc.save_model(
            folder / model.__name__, python_model=model(), signature=signature, pip_requirements=["mlflow"]
        )
    return {model: str(folder / model.__name__) for model in SIGNATURES}


@pytest.fixture
def run(spark, models, tmp_path):
    """Run a job from one place to another; by default from in.parquet to out."""

    def run(model=Doubler, **params):
        defaults = {
            "model_path": models[model],
            "input": str(tmp_path / "in.parquet"),
            "output": str(tmp_path / "out"),
            "key": OWN,
            "model_name": "dev.tests.m",
            "model_version": 3,
            "scored_at": "2026-01-02T03:04:05.000006+00:00",
        }
        merged = defaults | params
        merged.setdefault("bad_rows_output", merged["output"] + ("_bad_rows" if "." in merged["output"] else ".bad_rows"))
        return spark_job.run(spark, merged)

    return run


def write(path, **columns):
    pq.write_table(pa.table(columns), path)


def read(folder):
    """The rows of an output, in order."""
    frame = pq.read_table(folder).to_pandas()
    return frame.sort_values(list(frame.columns)[:1]).reset_index(drop=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".crc"))


def test_scores_files_and_tells_their_origin(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1, 2, 3], id=["a", "b", "c"])
    assert run(metadata=["model_name", "model_version", "scored_at"]) == {"rows": 3, "bad_rows": 0}
    found = read(tmp_path / "out")
    assert found["prediction"].tolist() == [2.0, 4.0, 6.0]
    assert found["id"].tolist() == ["a", "b", "c"]
    assert set(found["model_name"]) == {"dev.tests.m"}
    assert set(found["model_version"]) == {3}
    assert set(found["scored_at"]) == {pd.Timestamp("2026-01-02T03:04:05.000006")}
    assert names(tmp_path) == ["in.parquet", "out"]
