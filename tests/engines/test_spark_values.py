"""On Spark, too, what a model is given equals what mlflow's own enforcement gives it of the same rows."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from mlflow.models.utils import _enforce_schema
from mlflow.types import DataType, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property
from support.recording import (
    Column,
    every_file_type,
    expected,
    save_recording,
    schema_of,
    table_of,
    tables,
    told,
    with_inputs,
)

from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.spark import SparkEngine
from airflow_uc_models.exceptions import InputDataError

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_recording(tmp_path_factory.mktemp("recording") / "model")


@pytest.fixture
def scored(spark, model, tmp_path, monkeypatch):
    """Score columns, and return what the model was given of each row."""

    def run(columns, schema=None, **options):
        folder = with_inputs(model, schema or schema_of(columns))
        monkeypatch.setattr(
            "airflow_uc_models.engines.spark.download_version",
            lambda hook, version, destination: Path(shutil.copytree(folder, destination)),
        )
        pq.write_table(columns if schema else table_of(columns), tmp_path / "in.parquet")
        job = InferenceJob(input=str(tmp_path / "in.parquet"), output=str(tmp_path / "out"), keep_columns=(), **options)
        SparkEngine().start(job, None, SimpleNamespace(uri="models:/a.b.c/1", name="a.b.c", version=1))
        return pq.read_table(tmp_path / "out")["prediction"].to_pylist()

    return run


@pytest.fixture
def zone(spark, request):
    """A session whose clocks show another time zone."""
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", request.param)
    yield
    spark.conf.set("spark.sql.session.timeZone", before)


@pytest.mark.parametrize(
    ("zone", "on_bad_rows"), [("Europe/Berlin", "fail"), ("America/New_York", "quarantine")], indirect=["zone"]
)
def test_each_type_of_a_file_arrives_as_mlflow_gives_it(scored, zone, on_bad_rows):
    columns = every_file_type()
    found = scored(columns, on_bad_rows=on_bad_rows)
    assert [row.split("; ") for row in found] == [row.split("; ") for row in expected(columns)]


def test_values_arrive_as_mlflow_gives_them(scored):
    seen = set()

    @settings(
        max_examples=12, derandomize=True, database=None, phases=(Phase.generate,), deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(tables(most=8))
    def law(columns):
        wanted = expected(columns)
        if wanted is not None:
            assert scored(columns) == wanted
            seen.add(type(columns[0].name))

    law()
    assert seen == {str, int, type(None)}, "named, numbered and unnamed inputs"


@pytest.mark.parametrize(
    ("kind", "arrow", "value"),
    [
        (Array(DataType.double), pa.list_(pa.int64()), [1, 2**53 + 1]),
        (Map(DataType.double), pa.map_(pa.string(), pa.int64()), {"k": 2**63 - 1}),
        (Object([Property("a", Array(DataType.double))]), pa.struct([("a", pa.list_(pa.int64()))]), {"a": [2**53 + 1]}),
    ],
    ids=["array", "map", "object"],
)
def test_whole_numbers_within_others_that_no_double_holds_are_refused(scored, kind, arrow, value):
    columns = [Column("x", kind, True, [value], arrow)]
    with pytest.raises(InputDataError, match=r"Column 'x' has a value that is no double$"):
        scored(columns)


def test_times_in_nanoseconds_are_refused_and_times_that_nanoseconds_do_not_reach(scored):
    late = datetime.datetime(2300, 1, 1)
    with pytest.raises(InputDataError, match=r"Column 'x' has a value that is no timestamp_ntz$"):
        scored([Column("x", DataType.datetime, True, [late], pa.timestamp("us"))])
    with pytest.raises(InputDataError, match=r"in\.parquet.*nanoseconds.*Write them in microseconds"):
        scored([Column("x", DataType.datetime, True, [datetime.datetime(2024, 1, 1)], pa.timestamp("ns"))])


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "int16", "bool"])
def test_a_tensor_arrives_as_mlflow_gives_it(scored, dtype):
    given = np.array([[0, 1], [1, 1], [1, 0]], dtype)
    inputs = Schema([TensorSpec(np.dtype(dtype), (-1, 2))])
    table = pa.table({"a": given[:, 0], "b": given[:, 1]})
    if dtype in ("float64", "int64"):
        table = table.set_column(0, "a", table["a"].cast("int8"))  # is widened
    assert scored(table, inputs) == told(_enforce_schema(given, inputs))


def test_a_whole_number_that_no_tensor_holds_is_refused(scored):
    inputs = Schema([TensorSpec(np.dtype("float64"), (-1, 1))])
    with pytest.raises(InputDataError, match=r"Column 'x' has a value that is no double$"):
        scored(pa.table({"x": [2**53 + 1]}), inputs)
