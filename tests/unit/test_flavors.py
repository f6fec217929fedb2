"""The flavors of models, out of their MLmodel files."""

from __future__ import annotations

import pytest

from airflow_uc_models.flavors import flavors_of


def generic(loader):
    return {"python_function": {"loader_module": loader}}


@pytest.mark.parametrize(
    ("flavors", "found"),
    [
        ({"sklearn": {}, **generic("mlflow.sklearn")}, {"sklearn"}),
        (generic("mlflow.pyfunc.model"), {"python_function"}),
        ({"sklearn": {}, **generic("my_code")}, {"sklearn", "python_function"}),
        ({"sklearn": {}, "onnx": {}, **generic("mlflow.onnx")}, {"sklearn", "onnx"}),
        ({"sklearn": {}, "python_function": None}, {"sklearn", "python_function"}),
        ({}, set()),
        (None, set()),
    ],
)
def test_the_flavors_of_a_model(flavors, found):
    assert flavors_of({"flavors": flavors}) == found
