"""Inputs that cannot be scored, on this worker and on Spark: the same kind of error, and no value of a row in it."""

from __future__ import annotations

import gzip
import logging
import shutil
import traceback
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from pyarrow.parquet import encryption

from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.local import LocalEngine
from airflow_uc_models.engines.spark import SparkEngine
from airflow_uc_models.exceptions import InputDataError, PredictionError, UCModelsError

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

CANARY, NUMBER = "Zebulon-Quist", 48151.625
ENGINES = {"local": LocalEngine, "spark": SparkEngine}
MODEL = """
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["x"] < 0).any():
            raise ValueError(f"cannot score:\\n{model_input}\\n{model_input['name'].iloc[0]}Error: 1\\nKeyError: 'x'")
        return model_input["x"] * 3

mlflow.models.set_model(Model())
"""


def table(rows=10, **columns):
    return pa.table({"x": pa.array([NUMBER] * rows), "name": [CANARY] * rows} | columns)


def parquet(**options):
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink, **options)
    return sink.getvalue().to_pybytes()


class _Keys(encryption.KmsClient):
    def __init__(self, _):
        super().__init__()

    def wrap_key(self, key, _):
        return key

    def unwrap_key(self, key, _):
        return key


def encrypted(*, plaintext_footer):
    keys = encryption.EncryptionConfiguration("f", column_keys={"c": ["x"]}, plaintext_footer=plaintext_footer)
    factory = encryption.CryptoFactory(_Keys)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table().schema,
        encryption_properties=factory.file_encryption_properties(encryption.KmsConnectionConfig(), keys),
    ) as writer:
        writer.write_table(table())
    return sink.getvalue().to_pybytes()


def other_schema():
    sink = pa.BufferOutputStream()
    pq.write_table(table(x=[CANARY] * 10), sink)
    return sink.getvalue().to_pybytes()


def damaged_page():
    content = bytearray(parquet(compression="none"))
    content[20:60] = b"\xff" * 40
    return bytes(content)


LINE = f"{NUMBER},{CANARY}\n".encode()
# File names and contents; the last one is the file at fault.
UNREADABLE = {
    "cut off": {"in.parquet": parquet()[:-100]},
    "no Parquet": {"in.parquet": CANARY.encode() * 10},
    "empty": {"in.parquet": b""},
    "wrong name": {"in.csv": parquet()},
    "damaged page": {"in.parquet": damaged_page()},
    "bad one among good ones": {"in/a.parquet": parquet(), "in/b.parquet": b"PAR1" + CANARY.encode() + b"PAR1"},
    "other columns": {"in/a.parquet": parquet(), "in/b.parquet": other_schema()},
    "encrypted": {"in.parquet": encrypted(plaintext_footer=False)},
    "encrypted column": {"in.parquet": encrypted(plaintext_footer=True)},
    "not there": {},
    "empty folder": {"in/_SUCCESS": b""},
    "columns of the same name": {"in.csv": b"x,name,x\n" + LINE},
    "CSV that is no UTF-8": {"in.csv": b"x,name\n" + LINE * 1000 + b"1.5,\xff\xfe" + CANARY.encode() + b"\n"},
    "CSV of other lines": {"in.csv": b"x,name\n" + LINE + CANARY.encode() + b",b,c\n"},
    "CSV of other values": {"in.csv": b"x,name\n" + CANARY.encode() + b",b\n"},
    "gzip cut off": {"in.csv.gz": gzip.compress(b"x,name\n" + bytes(range(48, 58)) + b",a\n" + LINE * 9000)[:-40]},
    "no gzip": {"in.csv.gz": b"x,name\n" + LINE},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "code.py").write_text(MODEL)
    signature = ModelSignature(Schema([ColSpec("double", "x"), ColSpec("string", "name")]), Schema([ColSpec("double")]))
    mlflow.pyfunc.save_model(
        folder / "model", python_model=str(folder / "code.py"), signature=signature, pip_requirements=["mlflow"]
    )
    return folder / "model"


@pytest.fixture(params=ENGINES)
def start(request, spark, model, monkeypatch, tmp_path):
    """Score files of this folder with the engine; returns what it raised."""
    for name in ENGINES:
        monkeypatch.setattr(
            f"airflow_uc_models.engines.{name}.download_version",
            lambda hook, version, destination: Path(shutil.copytree(model, destination)),
        )
    version = SimpleNamespace(uri="models:/a.b.c/1", name="a.b.c", version=1, created_at=1)
    hook = SimpleNamespace(registry_conn_id="c")

    def run(name, **options):
        job = InferenceJob(
            input=str(tmp_path / name),
            output=str(tmp_path / "out.parquet"),
            key="a" * 16,
            env_manager="local",
            **options,
        )
        with pytest.raises(UCModelsError) as caught:
            ENGINES[request.param]().start(job, hook, version)
        return caught.value

    return run


def assert_no_value(error, caplog):
    told = "".join(traceback.format_exception(error)) + caplog.text
    assert not [part for part in ("zebulon", "quist", "48151") if part in told.casefold()], told


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_named_and_not_tried_again(start, tmp_path, caplog, kind):
    caplog.set_level(logging.DEBUG, "airflow_uc_models")
    files = UNREADABLE[kind]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    given = next(iter(files), "in.parquet").partition("/")[0]
    error = start(given)
    assert type(error) is InputDataError
    assert error.permanent
    at_fault = [*files, given][-1 if not files or kind == "empty folder" else len(files) - 1]
    assert str(tmp_path / at_fault) in str(error)
    assert_no_value(error, caplog)


@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
def test_what_a_model_raises_is_told_without_values(start, tmp_path, caplog, on_bad_rows):
    caplog.set_level(logging.DEBUG, "airflow_uc_models")
    pq.write_table(table(x=[-NUMBER] * 10), tmp_path / "in.parquet")
    error = start("in.parquet", on_bad_rows=on_bad_rows)
    assert "ValueError: cannot score" in str(error)
    assert isinstance(error, PredictionError) or on_bad_rows == "quarantine"
    assert_no_value(error, caplog)
