"""The job that Spark runs, with real Spark and real models in folders."""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from pyspark.errors import AnalysisException

from airflow_uc_models.engines import spark_job
from airflow_uc_models.engines.spark_places import CatalogTables
from airflow_uc_models.engines.spark_plan import JobError, Params
from airflow_uc_models.engines.spark_script import script
from airflow_uc_models.engines.spark_stores import SessionCatalog

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

# No double: found before the model is asked. A model that fails costs a Python worker, which starts anew for seconds.
UNFIT = 2**53 + 1
OWN, OTHER = "aaaa1111bbbb2222", "cccc3333dddd4444"


class Doubler(mlflow.pyfunc.PythonModel):
    """Doubles column x; fails on a negative one."""

    def predict(self, context, model_input, params=None):
        if (model_input["x"] < 0).any():
            raise ValueError("x is negative")
        return model_input["x"].to_numpy() * 2


class Labels(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"label": np.where(model_input["x"] > 1, "high", "low"), "score": model_input["x"] / 2})


class RowSums(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return np.asarray(model_input).sum(axis=1)


class Looked(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        raise NotImplementedError


X = Schema([ColSpec("double", "x")])
SIGNATURES = {
    Doubler: ModelSignature(X, Schema([ColSpec("double")])),
    Looked: ModelSignature(Schema([ColSpec("double", "x"), ColSpec("double", "y")]), Schema([ColSpec("double")])),
    Labels: ModelSignature(X, Schema([ColSpec("string", "label"), ColSpec("double", "score")])),
    RowSums: ModelSignature(
        Schema([TensorSpec(np.dtype("float64"), (-1, 2))]), Schema([TensorSpec(np.dtype("float64"), (-1,))])
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of models, by class."""
    folder = tmp_path_factory.mktemp("models")
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # the workers of Spark do not find it
    for model, signature in SIGNATURES.items():
        mlflow.pyfunc.save_model(
            folder / model.__name__, python_model=model(), signature=signature, pip_requirements=["mlflow"]
        )
    cloudpickle.unregister_pickle_by_value(module)
    return {model: str(folder / model.__name__) for model in SIGNATURES}


@pytest.fixture
def run(spark, models, tmp_path):
    """Run a job from one place to another; by default from in.parquet to out."""

    def run(model=Doubler, **params):
        defaults = {
            "model_path": models[model],
            "input": str(tmp_path / "in.parquet"),
            "output": str(tmp_path / "out"),
            "key": OWN,
            "model_name": "dev.tests.m",
            "model_version": 3,
            "scored_at": "2026-01-02T03:04:05.000006+00:00",
        }
        merged = defaults | params
        merged.setdefault(
            "bad_rows_output", merged["output"] + ("_bad_rows" if "." in merged["output"] else ".bad_rows")
        )
        return spark_job.run(spark, merged)

    return run


def write(path, **columns):
    pq.write_table(pa.table(columns), path)


def read(folder):
    """The rows of an output, in order."""
    frame = pq.read_table(folder).to_pandas()
    return frame.sort_values(list(frame.columns)[:1]).reset_index(drop=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".crc"))


def test_scores_files_and_tells_their_origin(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1, 2, 3], id=["a", "b", "c"])
    assert run(metadata=["model_name", "model_version", "scored_at"]) == {"rows": 3, "bad_rows": 0}
    found = read(tmp_path / "out")
    assert found["prediction"].tolist() == [2.0, 4.0, 6.0]
    assert found["id"].tolist() == ["a", "b", "c"]
    assert set(found["model_name"]) == {"dev.tests.m"}
    assert set(found["model_version"]) == {3}
    assert set(found["scored_at"]) == {pd.Timestamp("2026-01-02T03:04:05.000006")}
    assert names(tmp_path) == ["in.parquet", "out"]


def test_the_shipped_script_stands_alone(spark, models, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0, -2.0])
    main = types.ModuleType("__main__")
    exec(compile(script(), "script.py", "exec"), main.__dict__)  # with its functions sent by value, as from a notebook
    params = {"model_path": models[Doubler], "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out")}
    params |= {"key": OWN, "model_name": "m", "model_version": 1, "scored_at": "2026-01-02T03:04:05+00:00"}
    params |= {"on_bad_rows": "quarantine", "bad_rows_output": str(tmp_path / "out.bad_rows")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", main)
        assert main.run(spark, params) == {"rows": 1, "bad_rows": 1}
    assert "airflow_uc_models" not in "".join(line for line in script().splitlines() if "import" in line)


def test_several_results_are_columns(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0, 2.0])
    run(Labels, keep_columns=[], partition_by=["label"])
    assert names(tmp_path / "out") == ["_SUCCESS", "label=high", "label=low"]
    assert sorted(pq.read_table(tmp_path / "out")["score"].to_pylist()) == [0.5, 1.0]


@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
def test_a_tensor_is_given_all_columns(run, tmp_path, on_bad_rows):
    write(tmp_path / "in.parquet", a=[1.0, 2.0], b=[10, 20])
    run(RowSums, on_bad_rows=on_bad_rows)
    assert read(tmp_path / "out")["prediction"].tolist() == [11.0, 22.0]


def test_overwrite_replaces_all_and_a_failure_nothing(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0])
    run(key=OTHER)
    write(tmp_path / "in.parquet", x=[2.0, 3.0])
    run()
    assert read(tmp_path / "out")["prediction"].tolist() == [4.0, 6.0]
    write(tmp_path / "in.parquet", x=[5.0, -1.0])
    with pytest.raises(Exception, match="x is negative"):
        run()
    assert read(tmp_path / "out")["prediction"].tolist() == [4.0, 6.0]
    assert names(tmp_path) == ["in.parquet", "out"]


def test_append_replaces_what_this_run_has_written(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0], p=["u"])
    run(key=OTHER, mode="append", partition_by=["p"])
    write(tmp_path / "in.parquet", x=[2.0, 3.0], p=["u", "v"])
    run(mode="append", partition_by=["p"])
    write(tmp_path / "in.parquet", x=[4.0], p=["u"])
    assert run(mode="append", partition_by=["p"]) == {"rows": 1, "bad_rows": 0}
    found = read(tmp_path / "out")
    assert found["prediction"].tolist() == [2.0, 8.0]
    assert found["dag_run_key"].tolist() == [OTHER, OWN]
    assert names(tmp_path) == ["in.parquet", "out"]


def test_append_refuses_other_columns(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0], a=[1], b=["u"])
    run(key=OTHER, mode="append")
    write(tmp_path / "in.parquet", x=[1.0], a=["1"], c=["u"])
    with pytest.raises(JobError) as caught:
        run(mode="append")
    for text in ("'b' is string there and missing here", "'c' is string here", "'a' is bigint there and string here"):
        assert text in str(caught.value)
    assert names(tmp_path / "out") == [f"dag_run_key={OTHER}"]


def test_append_refuses_a_folder_of_somebody_else(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0])
    run()
    with pytest.raises(JobError, match=r"mode='append' has not written"):
        run(mode="append")


def test_bad_rows_are_put_aside_with_their_reason(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1, -2, 3, 2**53 + 1], id=["a", "b", "c", "d"])
    assert run(on_bad_rows="quarantine", metadata=["model_name"]) == {"rows": 2, "bad_rows": 2}
    assert read(tmp_path / "out")["prediction"].tolist() == [2.0, 6.0]
    bad = pq.read_table(tmp_path / "out.bad_rows").to_pandas().set_index("id")
    assert sorted(bad.columns) == ["reason", "x"]
    assert "x is negative" in bad["reason"]["b"]
    assert "no double: 9007199254740993" in bad["reason"]["d"]
    assert names(tmp_path) == ["in.parquet", "out", "out.bad_rows"]
    write(tmp_path / "in.parquet", x=[1], id=["a"])
    assert run(on_bad_rows="quarantine") == {"rows": 1, "bad_rows": 0}
    assert names(tmp_path) == ["in.parquet", "out"]


@pytest.mark.parametrize("x", [[-1.0, -2.0], [UNFIT, UNFIT + 2]], ids=["model", "values"])
def test_an_input_without_a_good_row_replaces_nothing(run, tmp_path, x):
    write(tmp_path / "in.parquet", x=[1.0])
    run()
    write(tmp_path / "in.parquet", x=x)
    with pytest.raises(
        JobError, match=r"None of the 2 rows of the input could be scored. The first one: .*(negative|no d)"
    ):
        run(on_bad_rows="quarantine")
    assert read(tmp_path / "out")["prediction"].tolist() == [2.0]
    assert names(tmp_path) == ["in.parquet", "out"]


def test_a_type_that_spark_does_not_have(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0])
    with pytest.raises(JobError, match="result_type must be a type of Spark, such as 'double', not 'dubble'"):
        run(result_type="dubble")


def test_names_that_the_output_bears(run, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0], reason=["a"])
    with pytest.raises(JobError, match=r"has the column.s. reason, and the output bears"):
        run(on_bad_rows="quarantine")
    assert run() == {"rows": 1, "bad_rows": 0}


@pytest.fixture
def feature_store(monkeypatch):
    """The part of databricks-feature-engineering that scores: it looks y up, and predicts x + y."""
    seen = []

    class FeatureEngineeringClient:
        def score_batch(self, *, model_uri, df, **options):
            seen.append((model_uri, df.columns, options))
            return df.withColumn("y", df["id"] * 10).selectExpr("*", "x + y AS prediction")

    module = types.ModuleType("databricks.feature_engineering")
    module.FeatureEngineeringClient = FeatureEngineeringClient
    monkeypatch.setitem(sys.modules, "databricks.feature_engineering", module)
    return seen


def test_the_feature_store_scores_with_features_that_the_input_lacks(run, models, feature_store, tmp_path):
    write(tmp_path / "in.parquet", id=[1, 2], x=[1, 2])
    assert run(Looked, score_batch=True, keep_columns=["id"], env_manager="local") == {"rows": 2, "bad_rows": 0}
    assert read(tmp_path / "out").to_dict("list") == {"id": [1, 2], "prediction": [11.0, 22.0]}
    assert feature_store == [(models[Looked], ["id", "x"], {"env_manager": "local"})]
    write(tmp_path / "in.parquet", id=[1], x=["text"], prediction=[1.0])
    with pytest.raises(JobError, match="column 'x' is string; the model asks for double"):
        run(Looked, score_batch=True)
    write(tmp_path / "in.parquet", id=[1], prediction=[1.0])
    with pytest.raises(JobError, match=r"has the column.s. prediction, and the output bears"):
        run(Looked, score_batch=True)


def test_bad_rows_that_cannot_be_appended_leave_the_output_as_it_is(run, tmp_path):
    (tmp_path / "out.bad_rows" / f"dag_run_key={OTHER}").mkdir(parents=True)
    write(tmp_path / "out.bad_rows" / f"dag_run_key={OTHER}" / "part.parquet", x=["as text"], reason=["a"])
    write(tmp_path / "in.parquet", x=[1, UNFIT])
    with pytest.raises(
        JobError, match=r"Rows cannot be appended to .*bad_rows, which has other columns:\n- 'x' is string"
    ):
        run(mode="append", on_bad_rows="quarantine")
    assert names(tmp_path) == ["in.parquet", "out.bad_rows"]


CSV = 'x,id,text\n1.5,1,"a, ""b""\nc"\nnan,2,\nabc,3,NA\n2,4\n'


def test_csv_is_read_as_the_model_asks(run, tmp_path):
    (tmp_path / "in.csv").write_text(CSV)
    told = run(input=str(tmp_path / "in.csv"), on_bad_rows="quarantine")
    assert told == {"rows": 2, "bad_rows": 2}
    found = read(tmp_path / "out").sort_values("id")
    assert found["x"].tolist()[0] == 1.5
    assert found["x"].isna().tolist() == [False, True]
    assert found["text"].tolist() == ['a, "b"\nc', ""]
    bad = pq.read_table(tmp_path / "out.bad_rows").to_pandas().set_index("id")
    assert bad["reason"].to_dict() == {
        "3": "Column 'x' has a value that is no double: abc",
        "4": "The line does not have the columns of the header",
    }
    with pytest.raises(Exception, match="Column 'x' has a value that is no double"):
        run(input=str(tmp_path / "in.csv"))


def test_killed_between_the_renames(spark, run, tmp_path, monkeypatch):
    """The next try, also one of another run, puts the earlier output back, and writes its own."""
    from airflow_uc_models.engines.spark_stores import HadoopFiles

    write(tmp_path / "in.parquet", x=[1.0])
    run(key=OTHER)
    write(tmp_path / "in.parquet", x=[2.0])
    rename = HadoopFiles.rename

    def killed(self, place, to):
        if to.endswith("/out"):
            raise KeyboardInterrupt
        rename(self, place, to)

    with monkeypatch.context() as patch:
        patch.setattr(HadoopFiles, "rename", killed)
        patch.setattr("airflow_uc_models.engines.spark_places._Beside.close", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert "out" not in names(tmp_path)
    assert len(names(tmp_path)) == 3
    write(tmp_path / "in.parquet", x=[UNFIT])
    with pytest.raises(Exception, match="no double"):
        run(key="eeee5555ffff")
    assert read(tmp_path / "out")["prediction"].tolist() == [2.0]
    write(tmp_path / "in.parquet", x=[3.0])
    run()
    assert read(tmp_path / "out")["prediction"].tolist() == [6.0]
    assert names(tmp_path) == ["in.parquet", "out"]


# -- tables


@pytest.fixture
def table(spark, request):
    """A name for a table; its schema is gone in the end."""
    schema = f"s{abs(hash(request.node.name)) % 10**8}"
    spark.sql(f"CREATE SCHEMA {schema}")
    yield f"{schema}.scores"
    spark.sql(f"DROP SCHEMA {schema} CASCADE")


def tables(spark, table):
    return sorted(row["tableName"] for row in spark.sql(f"SHOW TABLES IN {table.partition('.')[0]}").collect())


def predictions(spark, table):
    return sorted(row["prediction"] for row in spark.table(table).collect())


def test_a_table_is_replaced(spark, run, table, tmp_path):
    spark.sql(f"CREATE TABLE {table}_in AS SELECT * FROM VALUES (1, 'u'), (-2, 'v') AS t(x, p)")
    told = run(input=f"{table}_in", output=table, on_bad_rows="quarantine")
    assert told == {"rows": 1, "bad_rows": 1}
    assert predictions(spark, table) == [2.0]
    assert "x is negative" in spark.table(f"{table}_bad_rows").head()["reason"]
    with pytest.raises(Exception, match="x is negative"):
        run(input=f"{table}_in", output=table)
    assert predictions(spark, table) == [2.0]
    write(tmp_path / "in.parquet", x=[5.0])
    assert run(output=table, on_bad_rows="quarantine") == {"rows": 1, "bad_rows": 0}
    assert predictions(spark, table) == [10.0]
    assert tables(spark, table) == ["scores", "scores_in"]


def test_rows_are_appended_to_a_table(spark, run, table, tmp_path):
    write(tmp_path / "in.parquet", x=[1.0, 2.0], p=["u", "v"])
    options = {"output": table, "mode": "append", "partition_by": ["p"]}
    run(**options)
    run(**options, key=OTHER)
    write(tmp_path / "in.parquet", x=[3.0], p=["u"])
    assert run(**options) == {"rows": 1, "bad_rows": 0}
    assert predictions(spark, table) == [2.0, 4.0, 6.0]
    write(tmp_path / "in.parquet", x=[-3.0], p=["u"])
    with pytest.raises(Exception, match="x is negative"):
        run(**options)
    assert predictions(spark, table) == [2.0, 4.0, 6.0]
    write(tmp_path / "in.parquet", x=[3.0], p=[1])
    with pytest.raises(JobError, match="'p' is string there and bigint here"):
        run(**options)
    write(tmp_path / "in.parquet", x=pa.array([], pa.float64()), p=pa.array([], pa.string()))
    assert run(**options) == {"rows": 0, "bad_rows": 0}
    assert predictions(spark, table) == [2.0, 4.0]
    assert tables(spark, table) == ["scores"]


def test_two_runs_that_make_a_table_at_once_both_append(spark, run, table, tmp_path, monkeypatch):
    write(tmp_path / "in.parquet", x=[1.0])
    run(output=table, mode="append", key=OTHER)
    exists, looks = SessionCatalog.exists, iter([False])
    monkeypatch.setattr(SessionCatalog, "exists", lambda self, place: next(looks, exists(self, place)))
    assert run(output=table, mode="append") == {"rows": 1, "bad_rows": 0}
    assert not list(looks)
    assert predictions(spark, table) == [2.0, 2.0]


class Transactions:
    """A table of a format that is not here, such as Delta: what is asked of its writer."""

    columns = ("x", "p")
    schema = ()

    def __init__(self, error=None):
        self.error = error
        self.asked = []

    def __getattr__(self, name):
        def asked(*arguments):
            self.asked.append((name, *map(str, arguments)))
            if name == "create" and self.error:
                raise self.error
            return self

        return asked

    def __getitem__(self, name):
        return name

    def count(self):
        return 7


def test_a_table_with_transactions_has_a_partition_for_each_run(spark, monkeypatch):
    def asked(frame, is_there):
        looks = iter(is_there)
        monkeypatch.setattr(SessionCatalog, "exists", lambda self, place: next(looks))
        job = Params(
            input="x", output="a.b.c", key=OWN, mode="append", partition_by=["p"], model_name="m", model_version=1,
            scored_at="",
        )  # fmt: skip
        assert CatalogTables(SimpleNamespace(table=lambda name: frame), job, "delta").replace(frame, "a.b.c") == 7
        return [call for call in frame.asked if call[0] in ("partitionedBy", "create", "overwrite")]

    parted = ("partitionedBy", "Column<'dag_run_key'>", "Column<'p'>")
    own = ("overwrite", f"Column<'=(dag_run_key, '{OWN}')'>")
    assert asked(Transactions(), [False]) == [parted, ("create",)]
    assert asked(Transactions(), [True]) == [own]
    faster = AnalysisException("[TABLE_OR_VIEW_ALREADY_EXISTS]")
    assert asked(Transactions(faster), [False, True]) == [parted, ("create",), own]
    with pytest.raises(AnalysisException):
        asked(Transactions(faster), [False, False])


def test_a_table_after_a_kill(spark, run, table, tmp_path):
    """A table that was moved away and not replaced comes back; unfinished ones of this run go."""
    write(tmp_path / "in.parquet", x=[1.0])
    run(output=table, key=OTHER)
    spark.sql(f"ALTER TABLE {table} RENAME TO {table}__airflow_{OTHER[:12]}_0_old")
    spark.sql(f"CREATE TABLE {table}__airflow_{OWN[:12]}_0_new AS SELECT 1 AS one")
    write(tmp_path / "in.parquet", x=[UNFIT])
    with pytest.raises(Exception, match="no double"):
        run(output=table)
    assert predictions(spark, table) == [2.0]
    assert tables(spark, table) == ["scores"]
