"""The model's side of the smoke test, with models that give all kinds of output for their example."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from airflow_uc_models.environments.trials import smoke_test
from airflow_uc_models.exceptions import ModelEnvironmentError
from airflow_uc_models.operators.trials import smoke_test_problem
from airflow_uc_models.signatures import Signature

EXAMPLE = pd.DataFrame({"x": [1.0, 2.0, 3.0]})
LONG = Schema([ColSpec("long")])
NAMED = Schema([ColSpec("long", "a"), ColSpec("double", "b")])
ONE_NAMED = Schema([ColSpec("long", "a")])
TENSOR = Schema([TensorSpec(np.dtype("int64"), (-1,))])
THREE = [1, 2, 3]


class Metadata(Model):
    """MLflow's own, with an example at hand."""

    example = EXAMPLE

    def load_input_example(self, path=None):
        if isinstance(self.example, Exception):
            raise self.example
        return self.example


def problem_of(outputs, predict, example=EXAMPLE):
    """What is wrong with a model of this signature that predicts so; empty if nothing is."""
    metadata = Metadata(signature=ModelSignature(Schema([ColSpec("double", "x")]), outputs))
    metadata.example = example
    model = SimpleNamespace(folder=Path(), pyfunc=SimpleNamespace(metadata=metadata, predict=predict))
    return smoke_test_problem(smoke_test(model, {}, ()), Signature.of_mlmodel(metadata.to_dict()))


@pytest.mark.parametrize(
    ("outputs", "prediction"),
    [
        (LONG, np.array(THREE)),
        (LONG, THREE),
        (LONG, pd.Series(THREE)),
        (LONG, np.array([[1], [2], [3]])),
        (TENSOR, np.array(THREE)),
        (NAMED, pd.DataFrame({"a": THREE, "b": [0.5] * 3})),
        (ONE_NAMED, np.array(THREE)),
        (Schema([ColSpec("double", "a"), ColSpec("double", "b")]), np.ones((3, 2))),
        (Schema([ColSpec("string")]), ["a", "b", "c"]),
    ],
)
def test_outputs_as_the_signature_says(outputs, prediction):
    assert problem_of(outputs, lambda _: prediction) == ""


@pytest.mark.parametrize(
    ("outputs", "prediction", "problem"),
    [
        (LONG, np.array([0.5] * 3), "output 1 changes from long to double"),
        (LONG, ["a", "b", "c"], "output 1 changes from long to string"),
        (LONG, np.array([1, 2]), "predicts 2 rows for the 3"),
        (TENSOR, np.array(["a", "b", "c"]), "changes from tensor<int64, [-1]>"),
        (TENSOR, np.ones((3, 2), dtype="int64"), "changes from tensor<int64, [-1]>"),
        (NAMED, pd.DataFrame({"a": THREE}), "output 'b' is dropped"),
        (NAMED, pd.DataFrame({"a": THREE, "b": THREE}), "output 'b' changes from double to long"),
        (NAMED, pd.DataFrame({"a": THREE, "b": [0.5] * 3, "c": THREE}), "output 'c' is added"),
        (LONG, pd.DataFrame({"p": THREE, "q": THREE}), "outputs change"),
        (LONG, [], "predicts what no signature describes"),
        (LONG, None, "model predicts what no signature describes"),
        (None, np.array(THREE), "signature has no outputs"),
    ],
)
def test_outputs_that_are_otherwise(outputs, prediction, problem):
    assert problem in problem_of(outputs, lambda _: prediction)


def broken(_):
    raise RuntimeError("no such weights")


def test_models_that_fail():
    assert problem_of(LONG, broken).startswith(
        "the model fails on its own input example: RuntimeError: no such weights (in broken, "
    )
    assert problem_of(LONG, broken, example=None) == "the model has no input example: log it with input_example=..."
    assert "has an input example that cannot be read: ValueError: x" in problem_of(
        LONG, broken, example=ValueError("x")
    )


def test_a_model_that_cannot_be_loaded():
    class Unloadable:
        @property
        def pyfunc(self):
            raise ModuleNotFoundError("No module named 'theirs'")

    answer = smoke_test(Unloadable(), {}, ())
    expected = "the model cannot be loaded in its environment: ModuleNotFoundError: No module named 'theirs'"
    assert smoke_test_problem(answer, None) == expected


def test_a_passing_fault_while_the_model_is_loaded_is_no_verdict():
    class Unloadable:
        @property
        def pyfunc(self):
            raise ModelEnvironmentError("models:/a.b.c/1 could not be loaded: MemoryError")

    with pytest.raises(ModelEnvironmentError):
        smoke_test(Unloadable(), {}, ())
