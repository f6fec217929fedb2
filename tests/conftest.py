"""One Airflow home, one MLflow server and one recording proxy per session; everything listens on loopback."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# Airflow reads its configuration at the first import, so this comes before anything that imports it.
_HOME = Path(tempfile.mkdtemp(prefix="uc-models-airflow-"))
os.environ.update(
    {
        "AIRFLOW_HOME": str(_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_HOME / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # a test may run two Dags of one name
        "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
)
(_HOME / "dags").mkdir()
sys.path.insert(0, str(Path(__file__).parent))

from support.dag_runs import DagRunner, init_airflow  # noqa: E402
from support.databricks import connection_json  # noqa: E402
from support.mlflow_server import MlflowServer  # noqa: E402
from support.open_source import OpenSourceServer, open_source_server  # noqa: E402
from support.proxy import Proxy  # noqa: E402

from airflow_uc_models.emulator import Emulator, Settings  # noqa: E402


@pytest.fixture(scope="session")
def airflow_home() -> Iterator[Path]:
    """A migrated Airflow metadata database of this session's own."""
    import shutil

    init_airflow()
    yield _HOME
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real `mlflow server` on SQLite, artifacts proxied from a folder."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def proxy(mlflow_server: MlflowServer) -> Iterator[Proxy]:
    """A proxy before the MLflow server that records requests and plays faults."""
    with Proxy(mlflow_server.url) as running:
        yield running


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch, mlflow_server: MlflowServer) -> str:
    """The id of an `mlflow` connection to the server."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_TEST", mlflow_server.connection_json())
    return "mlflow_test"


@pytest.fixture(scope="session")
def open_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSourceServer]:
    """An open-source Unity Catalog server: the emulator's, or the real one that UNITY_CATALOG_URI names."""
    with open_source_server(tmp_path_factory.mktemp("unity-catalog")) as server:
        yield server


@pytest.fixture
def open_source_connection(monkeypatch: pytest.MonkeyPatch, open_source: OpenSourceServer) -> str:
    """The id of a `unity_catalog` connection to the server."""
    monkeypatch.setenv("AIRFLOW_CONN_UNITY_CATALOG_TEST", open_source.connection_json())
    return "unity_catalog_test"


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """A Databricks workspace for the whole session; tests take `workspace`, which is empty at first."""
    with Emulator() as running:
        yield running


@pytest.fixture(scope="session")
def presigned_emulator() -> Iterator[Emulator]:
    """Another one, whose files are moved by presigned addresses."""
    with Emulator(Settings(storage="presigned")) as running:
        yield running


@pytest.fixture(params=["files", "presigned"])
def each_workspace(request: pytest.FixtureRequest, emulator: Emulator) -> Emulator:
    """An empty workspace, for each way in which it lets files be moved."""
    found: Emulator = emulator if request.param == "files" else request.getfixturevalue("presigned_emulator")
    found.reset()
    return found


@pytest.fixture
def workspace(emulator: Emulator) -> Emulator:
    """The workspace, with nothing in it."""
    emulator.reset()
    return emulator


@pytest.fixture
def databricks(monkeypatch: pytest.MonkeyPatch, workspace: Emulator) -> str:
    """The id of a `databricks` connection to the workspace, as its admin."""
    monkeypatch.setenv("AIRFLOW_CONN_DATABRICKS_TEST", connection_json(workspace))
    return "databricks_test"


@pytest.fixture
def dag_runner(
    airflow_home: Path,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> DagRunner:
    """Run operators through Airflow's own task runner."""
    return DagRunner(request.node.name, capfd, caplog)


@pytest.fixture
def model_name(request: pytest.FixtureRequest) -> str:
    """A model name of this test's own."""
    import uuid

    return f"dev.tests.m{uuid.uuid4().hex[:12]}"


# What takes longest comes first, so that of several processes none waits long for the others at the end. Files in one
# row share an Airflow or a Spark and go to one process; not all rows that start an Airflow begin at once.
_ROWS = (
    ("stack/test_killed_workers.py", "stack/test_secrets.py", "stack/test_approval_in_browser.py"),
    ("test_demo.py",),
    ("test_demo_databricks.py",),
    ("engines/test_spark.py", "engines/test_spark_job.py"),
    ("operators/test_databricks_faults.py",),
    ("stack/test_example_watchers.py",),
    ("stack/test_watchers.py",),
)
_ROW = {f"tests/{file}": number for number, row in enumerate(_ROWS) for file in row}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the rows above."""
    items.sort(key=lambda item: _ROW.get(item.nodeid.partition("::")[0], len(_ROWS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files, and whole rows."""
    from xdist.scheduler import LoadFileScheduling

    class Rows(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return str(_ROW.get(file, file))

    return Rows(config, log)
