"""What the engine local writes, with a function for a model."""

from __future__ import annotations

import datetime
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.types import ColSpec, Schema

from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.local import LocalEngine, score
from airflow_uc_models.engines.local_plan import plan_of
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.runners import InProcess, available_cpus
from airflow_uc_models.engines.spark import SparkEngine
from airflow_uc_models.engines.tables import open_table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.scoring import Predicted
from airflow_uc_models.environments.scoring import score as score_batch
from airflow_uc_models.exceptions import (
    InputDataError,
    InvalidArgumentError,
    PredictionError,
    UnsupportedOperationError,
)

SCORED_AT = datetime.datetime(2024, 1, 31, 12, tzinfo=datetime.UTC)
VERSION = ModelVersion("a.b.c", 3)


def double(frame):
    if (frame["x"] < 0).any():
        raise ValueError("x is negative")
    return frame["x"].to_numpy() * 2.0


def check(job):
    LocalEngine.capabilities.check(job)
    LocalEngine().check(job)


def run(job, predict=double, runner=None, **types):
    check(job)
    columns = [ColSpec(kind, name) for name, kind in (types or {"x": "double"}).items()]
    mlmodel = {"signature": {"inputs": Schema(columns).to_json(), "outputs": Schema([ColSpec("double")]).to_json()}}
    plan = plan_of(job, open_table(Location.parse(job.input), job.input_format), mlmodel, VERSION)
    return score(runner or InProcess(predict), plan)


@pytest.fixture
def job(tmp_path):
    return partial(
        InferenceJob, input=str(tmp_path / "in.parquet"), output=str(tmp_path / "out.parquet"), scored_at=SCORED_AT
    )


@pytest.fixture
def rows(tmp_path):
    def write(**columns):
        pq.write_table(pa.table(columns), tmp_path / "in.parquet")

    return write


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- where predictions come from


def test_metadata_columns_tell_where_predictions_come_from(job, rows, tmp_path):
    rows(id=["a", "b", "c"], x=[1.0, 2.0, 3.0])
    run(job(metadata_columns=("model_name", "model_version", "scored_at"), keep_columns=("id",), batch_size=2))
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {
        "id": ["a", "b", "c"],
        "prediction": [2.0, 4.0, 6.0],
        "model_name": ["a.b.c"] * 3,
        "model_version": [3] * 3,
        "scored_at": [SCORED_AT] * 3,
    }
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.types == [pa.string(), pa.float64(), pa.string(), pa.int64(), pa.timestamp("us", "UTC")]


def test_only_some_metadata_and_none_of_the_input(job, rows, tmp_path):
    rows(x=[1.0])
    run(job(metadata_columns=("scored_at",), keep_columns=()))
    assert pq.read_schema(tmp_path / "out.parquet").names == ["prediction", "scored_at"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata_columns": ("model_name",)}, "column\\(s\\) model_name, which metadata_columns adds, too"),
        ({"on_bad_rows": "quarantine"}, "column\\(s\\) reason, which on_bad_rows adds, too"),
    ],
)
def test_names_that_the_input_has_already(job, rows, options, message):
    rows(x=[1.0], model_name=["a"], reason=["b"])
    with pytest.raises(InvalidArgumentError, match=message):
        run(job(**options))
    run(job(**options, keep_columns=("x",)))


# -- one folder for several Dag runs


def test_each_run_appends_and_replaces_its_own(job, rows, tmp_path):
    appended = partial(job, output=str(tmp_path / "out"), mode="append")
    rows(x=[1.0])
    run(appended(key="first"))
    rows(x=[2.0, 3.0])
    run(appended(key="second"))
    rows(x=[4.0])
    run(appended(key="first"))
    assert files(tmp_path / "out") == ["first.parquet", "second.parquet"]
    assert pd.read_parquet(tmp_path / "out")["prediction"].tolist() == [8.0, 4.0, 6.0]


def test_two_runs_at_once_append_both(job, rows, tmp_path):
    rows(x=[1.0, 2.0])
    barrier = threading.Barrier(2, timeout=30)

    def wait_and_double(frame):
        barrier.wait()
        return double(frame)

    threads = [
        threading.Thread(target=run, args=(job(output=str(tmp_path / "out"), mode="append", key=key), wait_and_double))
        for key in ("first", "second")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(tmp_path / "out") == ["first.parquet", "second.parquet"]


def test_a_failed_repetition_keeps_what_its_run_appended(job, rows, tmp_path):
    appended = job(output=str(tmp_path / "out"), mode="append", key="first")
    rows(x=[1.0])
    run(appended)
    rows(x=[-1.0])
    with pytest.raises(PredictionError):
        run(appended)
    assert files(tmp_path / "out") == ["first.parquet"]
    assert pd.read_parquet(tmp_path / "out")["prediction"].tolist() == [2.0]


# -- bad rows


def test_bad_rows_are_put_aside_with_the_reason(job, rows, tmp_path):
    rows(id=["a", "b", "c", "d", "e"], n=pa.array([1, 2, None, 4, 5]), x=[1.0, -2.0, 3.0, 4.0, 5.0])
    tally = run(job(on_bad_rows="quarantine", keep_columns=("id", "x"), batch_size=3), x="double", n="long")
    assert (tally.rows, tally.bad_rows) == (3, 2)
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {
        "id": ["a", "d", "e"],
        "x": [1.0, 4.0, 5.0],
        "prediction": [2.0, 8.0, 10.0],
    }
    assert pq.read_table(tmp_path / "out.bad_rows.parquet").to_pydict() == {
        "id": ["b", "c"],
        "x": [-2.0, 3.0],
        "source_file": [str(tmp_path / "in.parquet")] * 2,
        "row_number": [2, 3],
        "reason": ["ValueError: x is negative", "column 'n' has no value, and the model takes int64"],
    }


def test_bad_rows_take_their_place_before_the_output_does(job, rows, tmp_path, monkeypatch):
    replaced, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: replaced.append(Path(to).name) or replace(self, to))
    rows(x=[1.0, -1.0])
    run(job(on_bad_rows="quarantine"))
    assert replaced == ["out.bad_rows.parquet", "out.parquet"]


def test_bad_values_of_csv_files_are_put_aside_as_they_are(job, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.csv").write_text("id,x,n\n01,1.5,7\n02,n.a.,8\n")
    (tmp_path / "in" / "2.csv").write_text("n,x,id\n,2.5,03\n9,3.5,04\n")
    asked = job(input=str(tmp_path / "in"), on_bad_rows="quarantine")
    tally = run(asked, x="double", n="long")
    assert (tally.rows, tally.bad_rows) == (2, 2)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.to_pydict() == {"id": ["01", "04"], "x": [1.5, 3.5], "n": [7, 9], "prediction": [3.0, 7.0]}
    assert written.schema.types == [pa.string(), pa.float64(), pa.int64(), pa.float64()]
    assert pq.read_table(tmp_path / "out.bad_rows.parquet").to_pydict() == {
        "id": ["02", "03"],
        "x": ["n.a.", "2.5"],
        "n": ["8", ""],
        "source_file": [str(tmp_path / "in" / "1.csv"), str(tmp_path / "in" / "2.csv")],
        "row_number": [2, 1],
        "reason": [
            "column 'x' has 'n.a.', which is no double",
            "column 'n' has no value, and the model takes int64",
        ],
    }


def test_the_output_is_the_same_with_and_without_quarantine(job, tmp_path):
    (tmp_path / "in.csv").write_text("id,x\n01, 1.5\n,NA\n03,2.5\n")
    written = []
    for on_bad_rows in ("fail", "quarantine"):
        run(job(input=str(tmp_path / "in.csv"), on_bad_rows=on_bad_rows))
        written.append(pq.read_table(tmp_path / "out.parquet"))
    assert written[0].schema == written[1].schema
    pd.testing.assert_frame_equal(written[0].to_pandas(), written[1].to_pandas())
    assert files(tmp_path) == ["in.csv", "out.parquet"]


def test_bad_rows_of_an_earlier_run_are_gone_when_there_are_none(job, rows, tmp_path):
    asked = job(on_bad_rows="quarantine")
    rows(x=[-1.0, 1.0])
    run(asked)
    assert files(tmp_path) == ["in.parquet", "out.bad_rows.parquet", "out.parquet"]
    rows(x=[1.0])
    run(asked)
    assert files(tmp_path) == ["in.parquet", "out.parquet"]


def test_bad_rows_of_appended_outputs_stand_beside_each_other(job, rows, tmp_path):
    rows(x=[-1.0, 1.0])
    for key in ("first", "second"):
        run(job(output=str(tmp_path / "out"), mode="append", key=key, on_bad_rows="quarantine"))
    assert files(tmp_path / "out.bad_rows") == files(tmp_path / "out") == ["first.parquet", "second.parquet"]


def test_a_failure_after_bad_rows_leaves_neither_file(job, rows, tmp_path):
    asked = job(on_bad_rows="quarantine", batch_size=2)
    rows(x=[-1.0, 5.0])
    run(asked)
    before = [(tmp_path / name).read_bytes() for name in ("out.parquet", "out.bad_rows.parquet")]

    def fails_later(frame):
        if (frame["x"] > 8).any():
            raise MemoryError
        return double(frame)

    rows(x=[-1.0, -2.0, 7.0, 9.0])
    with pytest.raises(PredictionError, match="Could not score rows 3 to 4"):
        run(asked, fails_later)
    assert files(tmp_path) == ["in.parquet", "out.bad_rows.parquet", "out.parquet"]
    assert [(tmp_path / name).read_bytes() for name in ("out.parquet", "out.bad_rows.parquet")] == before


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([-1.0, -2.0], PredictionError, "None of the 2 rows of the input could be scored. .*x is negative"),
        (["a", "b"], InputDataError, "None of the 2 rows of the input could be scored. .*'#', which is no double"),
    ],
)
def test_an_input_without_a_good_row_is_an_error(job, tmp_path, x, error, message):
    pd.DataFrame({"x": x}).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(error, match=message):
        run(job(input=str(tmp_path / "in.csv"), on_bad_rows="quarantine"))
    assert files(tmp_path) == ["in.csv"]


def test_a_model_that_exits_is_told(job, rows):
    rows(x=[1.0])
    with pytest.raises(PredictionError, match=r"rows 1 to 1 of .*: SystemExit: #"):
        run(job(), lambda _: sys.exit(0))


def test_no_rows_are_no_error(job, rows, tmp_path):
    rows(x=pa.array([], pa.float64()))
    assert run(job(on_bad_rows="quarantine")).rows == 0
    assert files(tmp_path) == ["in.parquet", "out.parquet"]


# -- several batches on their way


class Late:
    """Predicts when the result is waited for, of several batches at a time, like processes do."""

    ahead = 3

    def __init__(self):
        self.most = self.waiting = 0

    def submit(self, rows, asked):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return partial(self._result, rows, asked)

    def _result(self, rows, asked) -> Predicted:
        self.waiting -= 1
        return score_batch(double, rows, asked)


def test_the_order_of_rows_is_kept_and_the_number_of_batches_bounded(job, rows, tmp_path):
    numbers = [float(-n if n % 30 == 7 else n) for n in range(1000)]
    rows(x=numbers)
    late = Late()
    run(job(batch_size=10, on_bad_rows="quarantine"), runner=late)
    assert late.most == 4
    assert pd.read_parquet(tmp_path / "out.parquet")["x"].tolist() == [x for x in numbers if x >= 0]
    aside = pd.read_parquet(tmp_path / "out.bad_rows.parquet")
    assert aside["x"].tolist() == [x for x in numbers if x < 0]
    assert (aside["row_number"] - 1 == -aside["x"]).all()


def test_a_bad_batch_is_none_of_a_bad_model_that_is_still_at_work(job, rows, tmp_path):
    """Also where the next batches are on their way before the first one's predictions are there."""
    rows(x=[1.0] * 30 + [-1.0] * 30 + [2.0] * 30)
    tally = run(job(batch_size=30, on_bad_rows="quarantine"), runner=Late())
    assert (tally.rows, tally.bad_rows) == (60, 30)


def test_small_batches_do_not_make_small_row_groups(job, rows, tmp_path):
    rows(x=[float(n) for n in range(1000)])
    run(job(batch_size=3))
    written = pq.ParquetFile(tmp_path / "out.parquet")
    assert written.num_row_groups == 1
    assert written.read()["x"].to_pylist() == [float(n) for n in range(1000)]


def test_row_groups_are_bounded(job, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("airflow_uc_models.engines.outputs._GROUP_ROWS", 100)
    rows(x=[float(n) for n in range(250)])
    run(job(batch_size=40))
    written = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [written.row_group(i).num_rows for i in range(written.num_row_groups)] == [120, 120, 10]
    monkeypatch.setattr("airflow_uc_models.engines.outputs._GROUP_BYTES", 1000)
    run(job(batch_size=40))
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 4


# -- what cannot be meant


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "append"}, "With mode='append' the output is a folder"),
        ({"output": "out"}, "does not end in .parquet. A folder takes mode='append'"),
        ({"output": "in.parquet/out", "mode": "append"}, "lies in the input"),
        ({"input": "out/in.parquet", "output": "out", "mode": "append"}, "lies in the output"),
        ({"output": "file", "mode": "append"}, "is a file; with mode='append' it is a folder"),
        ({"input": "x.bad_rows", "output": "x.parquet", "mode": "overwrite", "on_bad_rows": "quarantine"}, None),
        ({"input": "x.bad_rows", "output": "x", "mode": "append", "on_bad_rows": "quarantine"}, "lies in the input"),
        ({"partition_by": ("x",)}, "partition_by is not among what it can do"),
        ({"options": {"workers": 0}}, "workers must be a number of at least 1"),
        ({"options": {"workers": 1.5}}, "workers must be a whole number"),
        ({"options": {"workers": "many"}}, "workers must be a number of at least 1"),
        ({"options": {"processes": 2}}, "it knows workers"),
        ({"env_manager": "conda"}, "env_manager must be"),
        ({"output": "file://me@/x.parquet"}, "names a connection"),
    ],
)
def test_what_cannot_be_meant(job, rows, tmp_path, options, message):
    rows(x=[1.0])
    (tmp_path / "file").touch()
    (tmp_path / "x.bad_rows").mkdir()
    named = {name: value for name, value in options.items() if name in ("input", "output")}
    places = {name: value if "://" in value else str(tmp_path / value) for name, value in named.items()}
    asked = job(**{**options, **places})
    if message is None:
        check(asked)
        return
    with pytest.raises(InvalidArgumentError, match=message):
        check(asked)


@pytest.fixture
def looked_up(monkeypatch):
    """A version of a model that the Databricks feature store has logged."""

    def download(hook, version, folder):
        folder.mkdir()
        loader = "flavors: {python_function: {loader_module: databricks.ml_features.mlflow_model}}"
        (folder / "MLmodel").write_text(loader)
        return folder

    for engine in ("local", "spark"):
        monkeypatch.setattr(f"airflow_uc_models.engines.{engine}.download_version", download)
    return VERSION


@pytest.mark.parametrize("engine", [LocalEngine, SparkEngine])
def test_a_model_that_looks_features_up_is_sent_elsewhere(engine, looked_up, job, rows, tmp_path):
    rows(x=[1.0])
    with pytest.raises(UnsupportedOperationError, match=r"Score it with engine='databricks', which uses .*score_batch"):
        engine().start(job(), SimpleNamespace(registry_conn_id="c"), looked_up)
    assert files(tmp_path) == ["in.parquet"]


def test_there_are_no_more_workers_than_cpus(job, caplog):
    from airflow_uc_models.engines.local import _workers

    most = available_cpus()
    assert _workers(job(options={"workers": str(most)})) == most
    assert not caplog.messages
    assert _workers(job(options={"workers": most + 7})) == most
    assert caplog.messages == [f"There are {most} CPUs for {most + 7} workers; {most} are started"]
