"""BatchInferenceOperator on a real MLflow server with real models, through Airflow's task runner."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import uuid
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import ObjectStoragePath, task
from airflow.sdk.io import attach
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from support.models import add_pyfunc, add_version, log_model

from airflow_uc_models.operators.inference import BatchInferenceOperator

COLUMNS = ["f0", "f1", "f2", "f3"]


def rows(count, seed=0):
    frame = pd.DataFrame(np.random.default_rng(seed).random((count, 4)), columns=COLUMNS)
    return frame.assign(id=[f"{i:04}" for i in range(count)])


def expected(frame):
    """What the model of `log_model` says, computed in one piece from the same training data."""
    from sklearn.linear_model import LogisticRegression

    known = pd.DataFrame(np.random.default_rng(0).random((40, 4)), columns=COLUMNS)
    return LogisticRegression().fit(known, known["f0"] > 0.5).predict(frame[COLUMNS])


class Doubler(mlflow.pyfunc.PythonModel):
    """Doubles column x; fails on a negative one."""

    def predict(self, context, model_input, params=None):
        if (model_input["x"] < 0).any():
            raise ValueError("x is negative")
        return model_input["x"].to_numpy() * 2


class Killed(mlflow.pyfunc.PythonModel):
    """Airflow terminates the task while the model predicts its second batch."""

    def predict(self, context, model_input, params=None):
        if model_input["x"].iloc[0] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            print("model files left:", list(Path(tempfile.gettempdir()).glob("model-*")))
        return model_input["x"]


class BatchSize(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [len(model_input)] * len(model_input)


class Labels(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"label": np.where(model_input["x"] > 1, "high", "low"), "score": model_input["x"] / 2})


X = Schema([ColSpec("double", "x")])


@pytest.fixture(scope="module")
def doubler(mlflow_server):
    name = f"dev.tests.doubler{uuid.uuid4().hex[:8]}"
    add_pyfunc(mlflow_server, name, Doubler(), ModelSignature(X, Schema([ColSpec("double")])))
    return f"models:/{name}/1"


@pytest.fixture(scope="module")
def classifier(mlflow_server):
    """The name of a model whose version 1 is Champion."""
    name = f"dev.tests.classifier{uuid.uuid4().hex[:8]}"
    add_version(mlflow_server, name, log_model(mlflow_server))
    mlflow_server.client().set_registered_model_alias(name, "Champion", "1")
    return name


@pytest.fixture
def infer(dag_runner, connection):
    """Run the operator; returns the finished Dag run."""

    def run(model_uri, source, output, conn_id=connection, **options):
        return dag_runner.run(
            partial(
                BatchInferenceOperator,
                task_id="score",
                model_uri=model_uri,
                input=str(source),
                output=str(output),
                registry_conn_id=conn_id,
                **options,
            )
        )

    return run


@pytest.fixture
def refuse(infer):
    """Run the operator, which must fail and leave no file behind; returns what it logged."""

    def run(model_uri, source, output, **options):
        before = sorted(Path(output).parent.glob("*"))
        result = infer(model_uri, source, output, **options)
        assert result.state == "failed"
        assert sorted(Path(output).parent.glob("*")) == before
        return result.output

    return run


def test_scores_a_file_with_the_alias(infer, classifier, tmp_path):
    frame = rows(1000)
    frame.to_parquet(tmp_path / "in.parquet")
    output = tmp_path / "new" / "out.parquet"
    result = infer(f"models:/{classifier}@Champion", tmp_path / "in.parquet", output, batch_size="300")
    assert result.state == "success"
    told = result.xcom("score")
    assert told.pop("seconds") > 0
    assert told == {
        "name": classifier,
        "version": 1,
        "model_uri": f"models:/{classifier}/1",
        "engine": "local",
        "input": str(tmp_path / "in.parquet"),
        "output": str(output),
        "rows": 1000,
        "bad_rows": 0,
        "bad_rows_output": None,
        "env_manager": "local",
        "env_reason": "this worker has what the model asks for",
        "workers": 1,
    }
    written = pd.read_parquet(output)
    assert list(written.columns) == [*COLUMNS, "id", "prediction"]
    pd.testing.assert_frame_equal(written[frame.columns], frame)
    assert (written["prediction"] == expected(frame)).all()
    assert [p.name for p in output.parent.iterdir()] == ["out.parquet"]
    assert f"Wrote 1,000 rows -> {output} in " in result.output
    assert result.xcom("score", "model_version_url").endswith(f"/{classifier}/versions/1")


def test_paths_are_templated_and_the_result_feeds_the_next_task(dag_runner, connection, classifier, tmp_path):
    rows(7).to_parquet(tmp_path / "in.parquet")

    def define():
        @task
        def where():
            return str(tmp_path / "in.parquet")

        @task
        def count(scored):
            return scored

        score = BatchInferenceOperator(
            task_id="score",
            model_uri="models:/{{ params.model }}@Champion",
            input=where(),
            output=str(tmp_path / "{{ dag.dag_id }}.parquet"),
            keep_columns=["id"],
            registry_conn_id=connection,
        )
        count(score.output["rows"])

    result = dag_runner.run(define, params={"model": classifier})
    assert result.state == "success"
    assert result.xcom("count") == 7
    assert pq.read_schema(tmp_path / f"{dag_runner.dag_id}.parquet").names == ["id", "prediction"]


def test_an_alias_that_moves_meanwhile_changes_nothing(infer, mlflow_server, proxy, monkeypatch, model_name, tmp_path):
    logged = log_model(mlflow_server)
    for _ in range(2):
        add_version(mlflow_server, model_name, logged)
    mlflow_server.client().set_registered_model_alias(model_name, "Champion", "1")
    rows(5).to_parquet(tmp_path / "in.parquet")
    monkeypatch.setenv("AIRFLOW_CONN_PROXIED", proxy.connection_json())
    held = proxy.fail("get-download-uri", hold=threading.Event(), after=True)

    def move():
        assert held.seen.wait(60)
        mlflow_server.client().set_registered_model_alias(model_name, "Champion", "2")
        held.hold.set()

    mover = threading.Thread(target=move)
    mover.start()
    result = infer(
        f"models:/{model_name}@Champion", tmp_path / "in.parquet", tmp_path / "out.parquet", conn_id="proxied"
    )
    mover.join()
    assert result.xcom("score")["version"] == 1
    sent = proxy.take()
    assert sum(r.path.endswith("registered-models/alias") for r in sent) == 1
    assert {dict(r.query).get("version") for r in sent} <= {None, "1"}


def test_a_folder_is_read_by_file_name(infer, classifier, tmp_path):
    (tmp_path / "in").mkdir()
    frames = [rows(50, seed) for seed in range(3)]
    for number, frame in enumerate(frames):
        frame[frame.columns[:: 1 if number else -1]].to_parquet(tmp_path / "in" / f"part-{number}.parquet")
    (tmp_path / "in" / "_SUCCESS").touch()
    result = infer(f"models:/{classifier}/1", tmp_path / "in", tmp_path / "out.parquet")
    assert result.xcom("score")["rows"] == 150
    written, given = pd.read_parquet(tmp_path / "out.parquet"), pd.concat(frames, ignore_index=True)
    pd.testing.assert_frame_equal(written[given.columns], given)
    assert (written["prediction"] == expected(given)).all()


def test_csv_is_read_as_the_signature_asks(infer, classifier, tmp_path):
    frame = rows(20).assign(note='two\nlines, "quoted"', f3=range(20))
    frame.to_csv(tmp_path / "in.csv.gz", index=False)
    result = infer(f"models:/{classifier}/1", tmp_path / "in.csv.gz", tmp_path / "out.parquet")
    assert result.xcom("score")["rows"] == 20
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.field("f3").type == pa.float64()
    assert written["id"].to_pylist() == list(frame["id"]), "leading zeros stay"
    assert written["note"].to_pylist() == list(frame["note"])
    assert (written["prediction"].to_numpy() == expected(frame)).all()


def test_object_storage_uris(infer, classifier, tmp_path):
    rows(10).to_parquet(tmp_path / "in.parquet")
    result = infer(f"models:/{classifier}/1", f"file://{tmp_path}/in.parquet", f"file://{tmp_path}/out.parquet")
    assert result.xcom("score")["output"] == f"file://{tmp_path}/out.parquet"
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 10


@pytest.fixture
def bucket():
    """An object store in memory, which Airflow knows by its scheme."""
    import fsspec

    store = fsspec.filesystem("memory")
    attach("memory", fs=store)
    store.mkdir("/bucket/in")
    yield store
    store.rm("/bucket", recursive=True)


def test_an_object_store_as_input_and_output(infer, doubler, bucket):
    for number, values in enumerate(([1.0, 2.0], [3.0])):
        with ObjectStoragePath(f"memory://bucket/in/{number}.parquet").open("wb") as file:
            pd.DataFrame({"x": values}).to_parquet(file)
    assert infer(doubler, "memory://bucket/in", "memory://bucket/scored/out.parquet").state == "success"
    assert bucket.ls("/bucket/scored", detail=False) == ["/bucket/scored/out.parquet"]
    with bucket.open("/bucket/scored/out.parquet", "rb") as file:
        assert pd.read_parquet(file)["prediction"].tolist() == [2, 4, 6]
        before = bucket.cat("/bucket/scored/out.parquet")

    with ObjectStoragePath("memory://bucket/in/2.parquet").open("wb") as file:
        pd.DataFrame({"x": [-1.0]}).to_parquet(file)
    result = infer(doubler, "memory://bucket/in", "memory://bucket/scored/out.parquet")
    assert result.state == "failed"
    assert "rows 1 to 1 of memory://bucket/in/2.parquet: ValueError: x is negative" in result.output
    assert bucket.ls("/bucket/scored", detail=False) == ["/bucket/scored/out.parquet"]
    assert bucket.cat("/bucket/scored/out.parquet") == before


def test_columns_that_do_not_fit_are_all_told(refuse, classifier, tmp_path):
    frame = rows(5).assign(f1="a", f2=pd.Timestamp("2024-01-01")).drop(columns="f3")
    frame.to_parquet(tmp_path / "in.parquet")
    told = refuse(f"models:/{classifier}/1", tmp_path / "in.parquet", tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "in.parquet")
    for column in ("f1", "f2"):
        assert f"column '{column}' is {schema.field(column).type}; the model asks for double" in told
    assert "column 'f3' is missing; the model asks for double" in told
    assert f"models:/{classifier}/1 do not fit" in told
    assert "'f0'" not in told


def test_csv_without_a_column_the_model_takes(refuse, classifier, tmp_path):
    rows(5).drop(columns="f3").to_csv(tmp_path / "in.csv", index=False)
    told = refuse(f"models:/{classifier}/1", tmp_path / "in.csv", tmp_path / "out.parquet")
    assert "column 'f3' is missing" in told


def test_a_bad_value_in_csv_is_told_with_file_and_column(refuse, classifier, tmp_path):
    frame = rows(200_000).astype({"f2": object})
    frame.loc[199_998, "f2"] = "n.a.?"
    frame[["id", "f3", "f2", "f1", "f0"]].to_csv(tmp_path / "in.csv", index=False)
    told = refuse(f"models:/{classifier}/1", tmp_path / "in.csv", tmp_path / "out.parquet", keep_columns=["id"])
    assert f"{tmp_path}/in.csv cannot be read: In column 'f2': Row #200000: CSV conversion error to double" in told
    assert "n.a.?" not in told


def test_widening_is_exact(infer, refuse, doubler, tmp_path):
    pd.DataFrame({"x": np.array([1, 2, 2**53], dtype="int64")}).to_parquet(tmp_path / "in.parquet")
    assert infer(doubler, tmp_path / "in.parquet", tmp_path / "out.parquet").state == "success"
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.types == [pa.int64(), pa.float64()], "the input column keeps its type"
    assert written["prediction"].to_pylist() == [2, 4, 2.0**54]
    pd.DataFrame({"x": np.array([1, 2**53 + 1], dtype="int64")}).to_parquet(tmp_path / "in.parquet")
    told = refuse(doubler, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert f"Column 'x' of rows 1 to 2 of {tmp_path}/in.parquet has a value that is no double" in told


def test_missing_values_in_a_column_of_whole_numbers(refuse, mlflow_server, model_name, tmp_path):
    add_pyfunc(mlflow_server, model_name, Doubler(), ModelSignature(Schema([ColSpec("long", "x")])))
    pd.DataFrame({"x": pd.array([1, None, None], dtype="Int64")}).to_parquet(tmp_path / "in.parquet")
    told = refuse(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert "Column 'x' has no value in 2 of rows 1 to 3" in told


def test_a_model_without_signature(infer, refuse, mlflow_server, model_name, tmp_path):
    add_pyfunc(mlflow_server, model_name, Doubler(), None)
    pd.DataFrame({"x": [1, 2]}).to_csv(tmp_path / "in.csv", index=False)
    told = refuse(f"models:/{model_name}/1", tmp_path / "in.csv", tmp_path / "out.parquet")
    assert f"models:/{model_name}/1 has no signature" in told
    result = infer(f"models:/{model_name}/1", tmp_path / "in.csv", tmp_path / "out.parquet", signature_required=False)
    assert result.state == "success"
    assert pd.read_parquet(tmp_path / "out.parquet").to_dict("list") == {"x": [1, 2], "prediction": [2, 4]}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_no_rows_give_the_same_columns(infer, classifier, suffix, tmp_path):
    empty = rows(3).iloc[:0]
    (empty.to_parquet if suffix == "parquet" else partial(empty.to_csv, index=False))(tmp_path / f"in.{suffix}")
    rows(3).to_parquet(tmp_path / "some.parquet")
    assert (
        infer(f"models:/{classifier}/1", tmp_path / f"in.{suffix}", tmp_path / "a.parquet").xcom("score")["rows"] == 0
    )
    infer(f"models:/{classifier}/1", tmp_path / "some.parquet", tmp_path / "b.parquet")
    empty_schema, full_schema = pq.read_schema(tmp_path / "a.parquet"), pq.read_schema(tmp_path / "b.parquet")
    assert empty_schema.names == full_schema.names
    assert empty_schema.field("prediction").type == full_schema.field("prediction").type == pa.bool_()


def test_a_failure_on_the_way_leaves_what_was_there(infer, refuse, doubler, tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pd.DataFrame({"x": [1.0] * 10}).to_parquet(source)
    assert infer(doubler, source, output).state == "success"
    before = output.read_bytes()
    pd.DataFrame({"x": [1.0] * 25 + [-1.0] * 5}).to_parquet(source)
    told = refuse(doubler, source, output, batch_size=10)
    assert f"Could not score rows 21 to 30 of {source}: ValueError: x is negative" in told
    assert output.read_bytes() == before
    pd.DataFrame({"x": [5.0]}).to_parquet(source)
    assert infer(doubler, source, output).state == "success"
    assert pd.read_parquet(output)["prediction"].tolist() == [10]


def test_a_terminated_task_leaves_nothing(refuse, mlflow_server, model_name, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    add_pyfunc(mlflow_server, model_name, Killed(), ModelSignature(X))
    pd.DataFrame({"x": [0.0, 1.0, 2.0]}).to_parquet(tmp_path / "in.parquet")
    told = refuse(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "out.parquet", batch_size=1)
    assert "model files left: []" in told, "Airflow's next signal cannot be caught"


def test_the_model_sees_bounded_batches(infer, mlflow_server, model_name, tmp_path):
    add_pyfunc(mlflow_server, model_name, BatchSize(), ModelSignature(X, Schema([ColSpec("long")])))
    # Row groups of 70 and of 250: batches are neither.
    for name, size in (("a", 70), ("b", 250)):
        (tmp_path / "in").mkdir(exist_ok=True)
        pd.DataFrame({"x": np.zeros(1000)}).to_parquet(tmp_path / "in" / f"{name}.parquet", row_group_size=size)
    infer(f"models:/{model_name}/1", tmp_path / "in", tmp_path / "out.parquet", batch_size=100)
    assert set(pd.read_parquet(tmp_path / "out.parquet")["prediction"]) == {100}


def test_several_outputs_have_their_names(infer, refuse, mlflow_server, model_name, tmp_path):
    outputs = Schema([ColSpec("string", "label"), ColSpec("double", "score")])
    add_pyfunc(mlflow_server, model_name, Labels(), ModelSignature(X, outputs))
    pd.DataFrame({"x": [0.5, 2.0]}).to_parquet(tmp_path / "in.parquet")
    infer(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {
        "x": [0.5, 2.0],
        "label": ["low", "high"],
        "score": [0.25, 1.0],
    }
    pd.DataFrame({"x": [0.5], "label": ["?"]}).to_parquet(tmp_path / "in.parquet")
    told = refuse(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert "The output has the column(s) label already, and the predictions are called so, too" in told
    result = infer(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "out.parquet", keep_columns=["x"])
    assert result.state == "success"


def test_a_model_trained_on_an_array(infer, refuse, mlflow_server, model_name, tmp_path):
    given = np.random.default_rng(0).random((30, 3))
    add_pyfunc(mlflow_server, model_name, Sums(), infer_signature(given, given.sum(axis=1)))
    frame = pd.DataFrame(given, columns=["b", "a", "c"])
    frame.to_parquet(tmp_path / "in.parquet")
    infer(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "out.parquet")
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "out.parquet")["prediction"], given @ [1, 10, 100])
    frame.assign(id=1).to_parquet(tmp_path / "in.parquet")
    told = refuse(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert "names no columns and asks for 3; the input has 4: b, a, c, id" in told


class Sums(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        assert isinstance(model_input, np.ndarray)
        return model_input @ [1, 10, 100]


BAD = [
    ({"model_uri": "models:/two.levels@Champion"}, "has 2 level(s)"),
    ({"model_uri": "models:/a.b.c"}, "names no version"),
    ({"engine": "abacus"}, "There is no engine 'abacus'"),
    ({"batch_size": "many"}, "batch_size must be a whole number"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"input_format": "xlsx"}, "input_format must be parquet or csv"),
    ({"output": "{tmp}/out"}, "does not end in .parquet"),
    ({"output": "{tmp}/in.parquet"}, "lies in the input"),
    ({"output": "{tmp}/sub/../in.parquet"}, "lies in the input"),
    ({"input": "{tmp}"}, "lies in the input"),
    ({"input": "nowhere://bucket/in.parquet"}, "Install the Airflow provider that serves nowhere://"),
    ({"output": "s3://conn@bucket/out.parquet"}, "Install the Airflow provider that serves s3://"),
    ({"keep_columns": "id"}, "keep_columns must be a list"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_what_cannot_be_meant_is_refused_before_any_request(refuse, proxy, monkeypatch, tmp_path, wrong, message):
    monkeypatch.setenv("AIRFLOW_CONN_PROXIED", proxy.connection_json())
    rows(2).to_parquet(tmp_path / "in.parquet")
    options = {"model_uri": "models:/a.b.c/1", "source": "{tmp}/in.parquet", "output": "{tmp}/out.parquet"}
    options |= {"source" if key == "input" else key: value for key, value in wrong.items()}
    options = {k: v.replace("{tmp}", str(tmp_path)) if isinstance(v, str) else v for k, v in options.items()}
    assert message in refuse(**options, conn_id="proxied")
    assert proxy.take() == []


def test_inputs_that_are_no_table(refuse, doubler, tmp_path):
    output = tmp_path / "out.parquet"
    assert "does not exist" in refuse(doubler, tmp_path / "nothing.parquet", output)
    (tmp_path / "in").mkdir()
    assert "has no files" in refuse(doubler, tmp_path / "in", output)
    (tmp_path / "bad.parquet").write_text("PAR?")
    assert f"{tmp_path}/bad.parquet cannot be read" in refuse(doubler, tmp_path / "bad.parquet", output)
    (tmp_path / "bad.csv").write_text("")
    assert f"{tmp_path}/bad.csv cannot be read: Empty CSV file" in refuse(doubler, tmp_path / "bad.csv", output)
    pd.DataFrame({"x": [1.0]}).to_parquet(tmp_path / "x.parquet")
    told = refuse(doubler, tmp_path / "x.parquet", output, keep_columns=["x", "y"])
    assert "keep_columns names 'y', which the input" in told


def test_a_missing_alias_and_a_missing_model(refuse, classifier, tmp_path):
    rows(2).to_parquet(tmp_path / "in.parquet")
    told = refuse(f"models:/{classifier}@Nobody", tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert "Nobody" in told
    told = refuse("models:/no.such.model/1", tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert "no.such.model" in told


def test_wide_rows_make_smaller_batches(infer, mlflow_server, model_name, tmp_path):
    add_pyfunc(mlflow_server, model_name, BatchSize(), ModelSignature(X, Schema([ColSpec("long")])))
    texts = pa.array(["a" * 6000 + str(i) for i in range(10_000)])
    pq.write_table(pa.table({"x": np.zeros(10_000), "text": texts}), tmp_path / "in.parquet")
    infer(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "all.parquet")
    assert 2000 < pq.read_table(tmp_path / "all.parquet")["prediction"][0].as_py() < 3000
    infer(f"models:/{model_name}/1", tmp_path / "in.parquet", tmp_path / "few.parquet", keep_columns=[])
    assert pq.read_table(tmp_path / "few.parquet").to_pydict() == {"prediction": [10_000] * 10_000}
