"""What a model is given equals what mlflow's own enforcement gives it of the same rows, for every type there is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, Schema, TensorSpec
from support.recording import (
    every_file_type,
    every_type,
    expected,
    save_recording,
    schema_of,
    table_of,
    tables,
    told,
    with_inputs,
)

from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.local import score
from airflow_uc_models.engines.local_plan import plan_of
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.runners import InProcess, Processes
from airflow_uc_models.engines.tables import open_table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.process import ModelProcess, Start

# Shrinking a failure takes longer than reading it.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Score columns, and return what the model was given of each row."""
    folder = tmp_path_factory.mktemp("values")

    def run(columns, runner=None, schema=None, **options):
        pq.write_table(columns if schema else table_of(columns), folder / "in.parquet")
        job = InferenceJob(input=str(folder / "in.parquet"), output=str(folder / "out.parquet"), **options)
        schema = schema or schema_of(columns)
        signature = {"inputs": schema.to_json(), "outputs": Schema([ColSpec("string")]).to_json()}
        table = open_table(Location.parse(job.input))
        plan = plan_of(job, table, {"signature": signature}, ModelVersion("a.b.c", 1))
        score(runner or InProcess(lambda frame: told(_enforce_schema(frame, schema))), plan)
        return pq.read_table(folder / "out.parquet")["prediction"].to_pylist()

    return run


def test_each_type_of_a_file_arrives_in_a_process_of_its_own(scored, tmp_path):
    """As in an environment of the model's own, which differs in its packages only."""
    columns = every_file_type()
    folder = with_inputs(save_recording(tmp_path / "model"), schema_of(columns))
    with ModelProcess.started(Start(Path(sys.executable), folder, "models:/a.b.c/1")) as process:
        process.submit("load", {"folder": str(folder)}).result()
        found = scored(columns, Processes([process]))
    assert [row.split("; ") for row in found] == [row.split("; ") for row in expected(columns)]


@pytest.mark.parametrize("shape", [(-1, 2), (-1, -1)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "int16", "uint8", "bool"])
def test_a_tensor_arrives_as_mlflow_gives_it(scored, dtype, shape):
    given = np.array([[0, 1], [1, 1], [1, 0]], dtype)
    inputs = Schema([TensorSpec(np.dtype(dtype), shape)])
    table = pa.table({"a": given[:, 0], "b": given[:, 1]})
    if dtype in ("float64", "int64"):
        table = table.set_column(0, "a", table["a"].cast("int8"))  # is widened
    assert scored(table, schema=inputs) == told(_enforce_schema(given, inputs))


@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
@pytest.mark.parametrize("strategy", [tables(), every_type()], ids=["some", "every"])
def test_values_arrive_as_mlflow_gives_them(scored, strategy, on_bad_rows):
    @settings(max_examples=20, phases=PHASES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def law(columns):
        wanted = expected(columns)
        event(f"mlflow takes them: {wanted is not None}")
        if wanted is not None:
            found = scored(columns, on_bad_rows=on_bad_rows)
            assert [row.split("; ") for row in found] == [row.split("; ") for row in wanted]

    law()


def test_each_type_of_a_file_arrives_as_mlflow_gives_it(scored):
    columns = every_file_type()
    assert [row.split("; ") for row in scored(columns)] == [row.split("; ") for row in expected(columns)]
