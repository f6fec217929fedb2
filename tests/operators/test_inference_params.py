"""Parameters of a model's signature, as BatchInferenceOperator gives them to the model."""

from __future__ import annotations

import uuid

import mlflow
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from support.models import add_pyfunc

from airflow_uc_models.operators.inference import BatchInferenceOperator

IN, OUT = Schema([ColSpec("double", "x")]), Schema([ColSpec("double")])
PARAMS = ParamSchema(
    [
        ParamSpec("factor", "double", 2.0),
        ParamSpec("plus", "long", 0),
        ParamSpec("negative", "boolean", False),
        ParamSpec("weights", "double", [1.0], shape=(-1,)),
        ParamSpec("mode", "string", "plain"),
    ]
)


class Adjustable(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        sign = -1 if params["negative"] else 1
        doubled = 2 if params["mode"] == "1" else 1
        return model_input["x"] * params["factor"] * sign * sum(params["weights"]) * doubled + params["plus"]


@pytest.fixture(scope="module")
def adjustable(mlflow_server):
    name = f"dev.tests.adjustable{uuid.uuid4().hex[:8]}"
    add_pyfunc(mlflow_server, name, Adjustable(), ModelSignature(IN, OUT, params=PARAMS))
    return f"models:/{name}/1"


@pytest.fixture
def score(dag_runner, connection, adjustable, tmp_path):
    """Score x = 1.0 and 3.0; returns the run and what was predicted."""
    pd.DataFrame({"x": [1.0, 3.0]}).to_parquet(tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"

    def run(params=None, model_uri=adjustable, dag=None, **options):
        options = {"input": str(tmp_path / "in.parquet"), "output": str(output), **options}
        result = dag_runner.run(
            lambda: BatchInferenceOperator(
                task_id="score", model_uri=model_uri, registry_conn_id=connection, params=params, **options
            ),
            **(dag or {}),
        )
        return result, list(pd.read_parquet(output)["prediction"]) if output.exists() else None

    return run


@pytest.mark.parametrize(
    ("params", "predicted"),
    [
        (None, [2.0, 6.0]),
        ({"factor": 3}, [3.0, 9.0]),
        ({"plus": 1, "negative": True}, [-1.0, -5.0]),
        ({"weights": [1.0, 0.5]}, [3.0, 9.0]),
        # what templates render is text, and becomes what the signature asks for
        ({"factor": "{{ 1 + 0.5 }}", "plus": "{{ 7 }}", "negative": "{{ 1 > 2 }}", "mode": "{{ 1 }}"}, [10.0, 16.0]),
    ],
)
def test_the_model_gets_them(score, params, predicted):
    result, found = score(params)
    assert result.state == "success"
    assert found == predicted


def test_processes_get_them(score):
    assert score({"factor": 3.0}, engine_options={"workers": 2})[1] == [3.0, 9.0]


def test_those_of_the_dag_are_for_templates(score):
    result, found = score({"factor": "{{ params.wanted }}"}, dag={"params": {"wanted": 5.0}})
    assert result.state == "success"
    assert found == [5.0, 15.0]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"facto": 3.0}, "there is no parameter 'facto'; the signature has 'factor', 'plus', 'negative'"),
        ({"factor": "much"}, "'factor' must be double, not str"),
        ({"plus": 1.5}, "'plus' must be long, not float"),
        ({"negative": 1}, "'negative' must be boolean, not int"),
        ({"weights": 1.0}, "'weights' must be"),
    ],
)
def test_wrong_ones_are_refused_before_a_row_is_read(score, params, told):
    result, found = score(params)
    assert result.state == "failed"
    assert "The params do not fit models:/" in result.output
    assert told in result.output
    assert found is None


def test_a_model_without_any_takes_none(score, mlflow_server, model_name):
    class Same(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input["x"]

    add_pyfunc(mlflow_server, model_name, Same(), ModelSignature(IN, OUT))
    result, found = score({"factor": 3.0}, model_uri=f"models:/{model_name}/1")
    assert result.state == "failed"
    assert "takes no params: its signature has none" in result.output
    assert found is None
