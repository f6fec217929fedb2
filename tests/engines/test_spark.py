"""The engine spark: through Airflow's task runner on a session of this process, and with sessions of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import uuid
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from support.models import add_version, log_model

from airflow_uc_models.engines import InferenceJob, spark_sessions
from airflow_uc_models.engines import spark as spark_engine
from airflow_uc_models.engines.spark import SparkEngine
from airflow_uc_models.exceptions import InvalidArgumentError, ModelContentError, PredictionError
from airflow_uc_models.operators.inference import BatchInferenceOperator

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

KEY = "aaaa1111bbbb2222"


@pytest.fixture(scope="module")
def classifier(mlflow_server):
    """A model that takes f0 to f3 and no gaps."""
    name = f"dev.tests.classifier{uuid.uuid4().hex[:8]}"
    add_version(mlflow_server, name, log_model(mlflow_server))
    return name


@pytest.fixture
def infer(dag_runner, connection, classifier, tmp_path):
    """Run the operator on a file with these columns; returns the finished Dag run."""

    def run(columns, **options):
        pq.write_table(pa.table(columns), tmp_path / "in.parquet")
        operator = partial(
            BatchInferenceOperator,
            task_id="score",
            model_uri=f"models:/{classifier}/1",
            input=str(tmp_path / "in.parquet"),
            output=str(tmp_path / "out"),
            engine="spark",
            registry_conn_id=connection,
            **options,
        )
        return dag_runner.run(operator)

    return run


def test_the_operator_scores_with_the_session_of_the_process(spark, infer, classifier, tmp_path):
    columns = {f"f{i}": [0.1, 0.9, None if i == 2 else 0.5] for i in range(4)} | {"id": ["a", "b", "c"]}
    result = infer(columns, on_bad_rows="quarantine", keep_columns=["id"], metadata_columns=True, batch_size=2)
    assert result.state == "success", result.output
    told = result.xcom("score")
    assert told.pop("seconds") > 0
    assert told == {
        "name": classifier,
        "version": 1,
        "model_uri": f"models:/{classifier}/1",
        "engine": "spark",
        "input": str(tmp_path / "in.parquet"),
        "output": str(tmp_path / "out"),
        "rows": 2,
        "bad_rows": 1,
        "bad_rows_output": str(tmp_path / "out.bad_rows"),
        "spark_version": spark.version,
        "env_manager": "local",
        "env_reason": "this worker has what the model asks for",
    }
    found = pq.read_table(tmp_path / "out").to_pandas().set_index("id")
    assert list(found.columns) == ["prediction", "model_name", "model_version", "scored_at"]
    assert found["prediction"].to_dict() == {"a": False, "b": True}
    assert pq.read_table(tmp_path / "out.bad_rows")["id"].to_pylist() == ["c"]
    assert spark.range(3).count() == 3, "a session that was given goes on"


def test_columns_are_compared_before_the_job(spark, infer, tmp_path):
    result = infer({"f0": ["text"], "f1": [1], "f2": [1.0]})
    assert result.state == "failed"
    assert "column 'f0' is string; the model asks for double" in result.output
    assert "column 'f3' is missing; the model asks for double" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet"]


# -- refused before anything is started


def job(**changes):
    return InferenceJob(**({"input": "/data/in", "output": "/data/out", "key": KEY} | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input": "s3://conn@bucket/in"}, "names an Airflow connection"),
        ({"output": "/data/in/out"}, "lies in the input"),
        ({"input": "a.b", "output": "a.b"}, "is the input, too"),
        ({"input": "/data/out/in"}, "lies in the output /data/out"),
        ({"input": "/data/out.bad_rows", "on_bad_rows": "quarantine"}, "is the input, too"),
        ({"options": {"remote": "sc://host"}}, "only be written with mode='append'"),
        ({"options": {"remote_conn_id": "c"}, "mode": "append", "partition_by": ("p",)}, "without partition_by"),
        (
            {"options": {"remote": "sc://host"}, "output": "a.b", "env_manager": "uv"},
            "env_manager='uv' is not possible",
        ),
        ({"options": {"master": "local", "remote": "sc://host"}}, "each names a session"),
        ({"options": {"conf": "a=b"}}, "conf must be a dict"),
        ({"options": {"conf": {"spark.hadoop.fs.s3a.secret.key": "x"}}}, "credentials would show"),
        ({"options": {"remote": "sc://host:15002/;token=x"}}, "remote_conn_id"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, told):
    with pytest.raises(InvalidArgumentError, match=told):
        SparkEngine().check(job(**changes))


def test_missing_pyspark_and_java_are_told(monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(InvalidArgumentError, match="needs Java"):
        SparkEngine().check(job(options={"master": "local[2]"}))
    SparkEngine().check(job(options={"remote": "sc://host"}, output="a.b"))
    monkeypatch.setattr(spark_sessions.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidArgumentError, match="with its extra spark"):
        SparkEngine().check(job())


def test_databricks_connect_is_an_extra_of_the_user():
    with pytest.raises(InvalidArgumentError, match="needs the package databricks-connect"):
        next(spark_sessions.spark_session.__wrapped__(job(options={"databricks_connect": True}), None))


def test_an_address_takes_its_credentials_from_a_connection():
    connection = SimpleNamespace(
        conn_id="c", host="spark.example", port=None, login="ann", password="a/b", extra_dejson={"use_ssl": True}
    )
    assert spark_sessions._address(connection) == "sc://spark.example:15002/;user_id=ann;token=a%2Fb;use_ssl=true"


@pytest.mark.parametrize(
    ("asked", "pins", "here", "manager"),
    [
        ("virtualenv", "mlflow", True, "virtualenv"),
        (None, "mlflow", True, "local"),
        (None, "scikit-learn==1.2.0", True, "uv"),
        (None, "scikit-learn==1.2.0", False, "local"),
    ],
)
def test_packages_come_from_where_the_model_has_them(tmp_path, monkeypatch, asked, pins, here, manager):
    (tmp_path / "requirements.txt").write_text(pins)
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {}}")
    monkeypatch.setattr(spark_engine.shutil, "which", lambda program: f"/bin/{program}")
    work = job(env_manager=asked)
    assert spark_engine.env_manager_of(work, tmp_path, "models:/a.b.c/1", on_this_worker=here)[0] == manager


# -- on a session of the process, without a registry


# Models as code: the workers of Spark do not find the modules of tests.
WAITS = """
import threading
from pathlib import Path
import mlflow

class Waits(mlflow.pyfunc.PythonModel):
    '''Tells that it predicts, and does not end.'''

    def predict(self, context, model_input, params=None):
        Path(model_input["x"].iloc[0]).touch()
        threading.Event().wait(30)

mlflow.models.set_model(Waits())
"""
TRIPLES = """
import mlflow

class Triples(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["x"] > 48_000).any():
            raise ValueError(f"too much:\\n{model_input}")
        return model_input["x"] * 3

mlflow.models.set_model(Triples())
"""


@pytest.fixture
def version(monkeypatch, tmp_path):
    """Give a version whose files are a model that was saved here."""

    def of(code, inputs, outputs):
        folder = tmp_path / "model"
        (tmp_path / "code.py").write_text(code)
        signature = ModelSignature(Schema(inputs), Schema(outputs))
        mlflow.pyfunc.save_model(
            folder, python_model=str(tmp_path / "code.py"), signature=signature, pip_requirements=["mlflow"]
        )
        monkeypatch.setattr(
            "airflow_uc_models.engines.spark.download_version",
            lambda hook, version, destination: Path(shutil.copytree(folder, destination)),
        )
        return SimpleNamespace(uri="models:/a.b.c/1", name="a.b.c", version=1)

    return of


def test_cancelling_ends_the_job_and_removes_what_it_wrote(spark, version, tmp_path):
    waits = version(WAITS, [ColSpec("string", "x")], [ColSpec("double")])
    pq.write_table(pa.table({"x": [str(tmp_path / "predicts")]}), tmp_path / "in.parquet")
    engine = SparkEngine()
    work = job(input=str(tmp_path / "in.parquet"), output=str(tmp_path / "out"))
    raised = []

    def start():
        try:
            engine.start(work, None, waits)
        except PredictionError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    while not (tmp_path / "predicts").exists():
        assert thread.is_alive(), raised
        thread.join(0.05)
    assert any(path.name.startswith(".out.") for path in tmp_path.iterdir())
    engine.cancel()
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]
    thread.join(30)
    assert len(raised) == 1


@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
def test_a_model_that_cannot_be_loaded_is_told_and_not_retried(spark, version, tmp_path, on_bad_rows):
    broken = version(TRIPLES, [ColSpec("double", "x")], [ColSpec("double")])
    mlmodel = tmp_path / "model" / "MLmodel"
    mlmodel.write_text(
        mlmodel.read_text().replace("loader_module: mlflow.pyfunc.loaders.code_model", "loader_module: no_such_loader")
    )
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "in.parquet")
    work = job(input=str(tmp_path / "in.parquet"), output=str(tmp_path / "out"), on_bad_rows=on_bad_rows)
    with pytest.raises(ModelContentError, match=r"models:/a\.b\.c/1 cannot be loaded.*no_such_loader"):
        SparkEngine().start(work, None, broken)
    assert not (tmp_path / "out").exists()


ALONE = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import psutil
from airflow_uc_models.engines import InferenceJob, spark
from airflow_uc_models.exceptions import PredictionError

model, source, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
spark.download_version = lambda hook, version, destination: model
version = SimpleNamespace(uri="models:/a.b.c/1", name="a.b.c", version=1)
before = dict(os.environ)
for name, options in json.loads(sys.argv[4]).items():
    job = InferenceJob(input=source, output=f"{folder}/{name}", key="aaaa1111bbbb2222", mode="append", options=options)
    told = spark.SparkEngine().start(job, None, version)
    if "master" in options:
        try:
            spark.SparkEngine().start(replace(job, input=sys.argv[5]), None, version)
        except PredictionError as error:
            print(error)
    print(json.dumps({
        "rows": told.rows,
        "variables": [name for name in os.environ if os.environ[name] != before.get(name)],
        "children": [child.name() for child in psutil.Process().children()],
    }))
"""


@pytest.mark.parametrize("way", [{"master": "local[1]"}, pytest.param({"remote": "local[1]"}, marks=pytest.mark.soak)])
def test_sessions_of_its_own_are_gone_in_the_end(version, tmp_path, way):
    """Of Spark in this machine's Java, or of Spark Connect; a process of its own, which has neither.

    What Java prints goes to the task's log, so it has no value of a row on which the model fails.
    """
    if shutil.which("java") is None:
        pytest.skip("there is no java on this machine")
    version(TRIPLES, [ColSpec("double", "x")], [ColSpec("double")])
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"x": [48151.625]}), tmp_path / "bad.parquet")
    arguments = [
        tmp_path / "model",
        tmp_path / "in.parquet",
        tmp_path,
        json.dumps({"out": way}),
        tmp_path / "bad.parquet",
    ]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "48151" not in done.stdout + done.stderr
    assert ("ValueError: too much" in done.stdout) is ("master" in way)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert told == [{"rows": 2, "variables": [], "children": []}]
    found = pq.read_table(tmp_path / "out").to_pydict()
    assert found == {"x": [1.0, 2.0], "prediction": [3.0, 6.0], "dag_run_key": [KEY, KEY]}
