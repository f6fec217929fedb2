"""What a model is given equals what mlflow's own enforcement gives it of the same rows, for every type there is."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, Schema
from support.recording import every_file_type, every_type, expected, schema_of, table_of, tables, told

from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.local import score
from airflow_uc_models.engines.local_plan import plan_of
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.runners import InProcess
from airflow_uc_models.engines.tables import open_table
from airflow_uc_models.entities import ModelVersion

# Shrinking a failure takes longer than reading it.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Score columns, and return what the model was given of each row."""
    folder = tmp_path_factory.mktemp("values")

    def run(columns, **options):
        pq.write_table(table_of(columns), folder / "in.parquet")
        job = InferenceJob(input=str(folder / "in.parquet"), output=str(folder / "out.parquet"), **options)
        schema = schema_of(columns)
        signature = {"inputs": schema.to_json(), "outputs": Schema([ColSpec("string")]).to_json()}
        table = open_table(Location.parse(job.input))
        plan = plan_of(job, table, {"signature": signature}, ModelVersion("a.b.c", 1))
        score(InProcess(lambda frame: told(_enforce_schema(frame, schema))), plan)
        return pq.read_table(folder / "out.parquet")["prediction"].to_pylist()

    return run


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
