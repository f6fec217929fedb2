"""Models as older releases of MLflow wrote them: see tests/data/mlflow_models/make.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from airflow_uc_models.environments import environment_of
from airflow_uc_models.environments.requirements import read_requirements
from airflow_uc_models.exceptions import ModelContentError
from airflow_uc_models.hooks.artifacts import read_mlmodel
from airflow_uc_models.operators import BatchInferenceOperator, RegisterModelOperator, ValidateModelVersionOperator
from airflow_uc_models.policies import PromotionPolicy
from airflow_uc_models.signatures import Signature

MODELS = Path(__file__).parents[1] / "data/mlflow_models"
VERSIONS = sorted(folder.name for folder in MODELS.iterdir() if (folder / "MLmodel").is_file())
# Each environment is a few hundred megabytes: two that differ most are built in every run of the tests.
ALWAYS = ("2.4.2", "2.14.3")
ON_THIS_PYTHON = [version for version in VERSIONS if version != "1.30.1"]
ROWS = {"amount": [1.0, 4.0], "visits": [3, 2]}
WANTED = [5.0, 10.0]


def test_all_of_them_are_here():
    releases = {version.rpartition(".")[0] for version in VERSIONS}
    assert releases == {"1.30", "2.4", "2.8", "2.11", "2.14", "2.16", "2.20", "3.0", "3.4"}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_their_files_say_is_read(version):
    folder = MODELS / version
    signature = Signature.of_mlmodel(read_mlmodel(folder))
    assert [(item.name, item.type["type"], item.required) for item in signature.inputs] == [
        ("amount", "double", True),
        ("visits", "long", True),
    ]
    found = read_requirements(folder, version)
    assert found.python_minor == ("3.8" if version == "1.30.1" else "3.11")
    assert {line.partition("=")[0] for line in found.build} == {"pip", "setuptools", "wheel"}
    assert "cloudpickle" in {line.partition("=")[0] for line in found.lines}


@pytest.mark.parametrize("registry", ["connection", "databricks"])
def test_they_are_registered_validated_and_scored(registry, request, dag_runner, tmp_path):
    conn_id = request.getfixturevalue(registry)
    pd.DataFrame(ROWS).to_parquet(tmp_path / "in.parquet")
    common = {"registry_conn_id": conn_id}

    def define():
        for version in VERSIONS:
            tag, name = version.replace(".", "_"), f"dev.ml_team.saved_by_{version.replace('.', '_')}"
            registered = RegisterModelOperator(
                task_id=f"register_{tag}", model_name=name, model_uri=str(MODELS / version), **common
            )
            validated = ValidateModelVersionOperator(
                task_id=f"validate_{tag}",
                model_name=name,
                version=registered.output["version"],
                policy=PromotionPolicy(allowed_flavors=["sklearn"]),
                **common,
            )
            scored = BatchInferenceOperator(
                task_id=f"score_{tag}",
                model_uri=f"models:/{name}/{{{{ ti.xcom_pull('register_{tag}')['version'] }}}}",
                input=str(tmp_path / "in.parquet"),
                output=str(tmp_path / f"{version}.parquet"),
                env_manager="local",
                **common,
            )
            validated >> scored

    result = dag_runner.run(define)
    assert result.state == "success"
    for version in VERSIONS:
        assert pd.read_parquet(tmp_path / f"{version}.parquet")["prediction"].tolist() == pytest.approx(WANTED)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW__UC_MODELS__ENVIRONMENTS_FOLDER", str(tmp_path / "environments"))


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the models pin Python 3.11")
@pytest.mark.parametrize(
    "version",
    [pytest.param(v, marks=[] if v in ALWAYS else [pytest.mark.soak]) for v in ON_THIS_PYTHON],
)
@pytest.mark.usefixtures("cache")
def test_they_are_scored_with_the_packages_that_they_pin(version, tmp_path):
    folder = Path(shutil.copytree(MODELS / version, tmp_path / "model"))
    with environment_of(folder, "uv", version).process(folder) as process:
        told = process.call("load")
        found = process.predict(pa.RecordBatch.from_pydict(ROWS))
    assert told["mlflow"].startswith(version.rpartition(".")[0])
    assert found.column(0).to_pylist() == pytest.approx(WANTED)


def test_a_model_of_a_python_that_is_too_old_says_so_before_anything_is_built():
    with pytest.raises(ModelContentError, match=r"asks for Python 3\.8, and 3\.10 is the oldest"):
        environment_of(MODELS / "1.30.1", "uv", "m")
