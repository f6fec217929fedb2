"""`make demo` from end to end: killed, interrupted, then played to its end, in one folder, in a hostile environment.

This is also where the example Dags run under the real scheduler and the real triggerer.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from support.airflow_database import rows
from support.demo_examples import run_all_with_defaults, signed_in, why

from scripts.demo.databases import database_of
from scripts.demo.home import Home
from scripts.demo.ports import Ports
from scripts.demo.processes import Processes

ROOT = Path(__file__).parents[1]
DEV, PROD = "dev.ml_team.breast_cancer", "prod.ml_team.breast_cancer"
READY, TRAINED = "done MLflow and Airflow", "done train"
# What must not reach the demo's servers: each of these alone would stop them or lead them astray.
HOSTILE = {
    "AIRFLOW_HOME": "/nonexistent",
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nonexistent/airflow.db",
    "AIRFLOW_CONN_MLFLOW_DEFAULT": '{"conn_type": "http", "host": "nowhere.invalid"}',
    "MLFLOW_TRACKING_URI": "http://nowhere.invalid",
    "MLFLOW_REGISTRY_URI": "databricks-uc",
    "DATABRICKS_HOST": "https://nowhere.invalid",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
}

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


class Demo:
    """A running demo and all that it has started."""

    def __init__(self, home: Path, *options: str) -> None:
        self.output = home.parent / f"output-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as output:
            self.process = psutil.Popen(
                [sys.executable, "-m", "scripts.demo", "--home", str(home), *options],
                cwd=ROOT,
                env={**os.environ, **HOSTILE, "HOME": str(home.parent)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def await_text(self, text: str) -> None:
        self.await_true(lambda: text in self.text)

    def await_true(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)

    def descendants(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "a home"


@pytest.fixture
def start(home):
    started = []

    def start():
        started.append(Demo(home))
        return started[-1]

    yield start
    for demo in started:
        if demo.process.is_running():
            demo.process.terminate()
            demo.process.wait(60)


@pytest.fixture(scope="module")
def bystander(home):
    """Somebody else's process that works in the demo's folder."""
    home.mkdir()
    process = subprocess.Popen(["sleep", "900"], cwd=home, start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def left_by_a_killed_demo(home, bystander):
    """What runs on after kill -9 of a demo."""
    demo = Demo(home)
    demo.await_text(READY)
    left = demo.descendants()
    assert len(left) >= 6, "MLflow, PostgreSQL, API server, scheduler, Dag processor, triggerer and their children"
    demo.process.kill()
    demo.process.wait()
    assert all(process.is_running() for process in left)
    return left


def run_demo(home: Path) -> subprocess.CompletedProcess[str]:
    """Run a demo that ends at once."""
    command = [sys.executable, "-m", "scripts.demo", "--home", str(home)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def gone(processes):
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_ctrl_c_stops_everything_it_started(start, home, left_by_a_killed_demo, bystander):
    demo = start()
    demo.await_text("that an earlier demo left here")
    stopped = re.search(r"Stopped (\d+) process\(es\) that an earlier demo left here", demo.text)
    assert stopped, demo.text
    assert int(stopped[1]) >= 6  # their number changes all the time: they start children, and these end
    assert gone(left_by_a_killed_demo)

    second = run_demo(home)
    assert second.returncode == 1
    assert f"Another demo (process {demo.process.pid}) is running" in second.stdout

    demo.await_true(lambda: len(demo.descendants()) >= 6)
    running = demo.descendants()
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(40) == 128 + signal.SIGINT
    assert gone(running)
    assert "Stopped before the end" in demo.text
    assert bystander.poll() is None


@pytest.fixture(scope="module")
def played(home, left_by_a_killed_demo):
    """A demo played to its end, in the folder in which two others were not."""
    demo = Demo(home)
    demo.await_text(TRAINED)
    running = demo.descendants()
    assert demo.process.wait(600) == 0, demo.text
    return demo, running, json.loads((home / "summary.json").read_text())


def test_the_story_is_told(played):
    demo, running, summary = played
    assert gone(running)
    assert [run["story"] for run in summary["runs"]] == [
        "The first model becomes Champion",
        "A worse model is refused",
        "A better model is promoted",
        "A rollback restores the first model",
    ]
    keys = {"story", "candidate_version", "metrics", "verdict", "reasons", "champion_before", "champion_after"}
    assert all(keys | {"rows_scored", "output"} == set(run) for run in summary["runs"])
    assert [run["verdict"] for run in summary["runs"]] == ["approved", "rejected", "approved", "rolled back"]
    assert [run["candidate_version"] for run in summary["runs"]] == [1, 2, 3, None]
    assert [(run["champion_before"], run["champion_after"]) for run in summary["runs"]] == [
        (None, 1),
        (1, 1),
        (1, 2),
        (2, 1),
    ]
    assert any("champion 0.9" in reason for reason in summary["runs"][1]["reasons"])
    assert summary["sensed_versions"] == [1, 2, 3]
    for run in summary["runs"]:
        assert run["story"] in demo.text.partition("What the registry says now")[2]


def test_the_registry_tells_the_same_when_the_servers_are_gone(played, home):
    from mlflow import MlflowClient

    summary = played[2]
    assert summary["model_name"] == PROD
    assert summary["tracking_uri"] == f"sqlite:///{home}/mlflow/mlflow.db"
    client = MlflowClient(tracking_uri=summary["tracking_uri"], registry_uri=summary["tracking_uri"])

    assert int(client.get_model_version_by_alias(PROD, "Champion").version) == summary["runs"][-1]["champion_after"]
    assert client.get_registered_model(PROD).tags["airflow_alias_history_Champion"] == "1"
    assert len(client.search_model_versions(f"name='{PROD}'")) == 2
    for run in summary["runs"][:3]:
        version = client.get_model_version(DEV, str(run["candidate_version"]))
        assert version.tags["validation_status"] == run["verdict"]
        assert client.get_run(version.run_id).data.metrics == run["metrics"]
    assert [v for v in range(1, 4) if "reviewed_by" in client.get_model_version(DEV, str(v)).tags] == [1, 2, 3]
    assert client.get_model_version(PROD, "2").tags["rolled_back_because"] == summary["runs"][3]["reasons"][0]


def test_the_predictions_are_those_of_the_champion_of_their_time(played):
    import mlflow
    import pandas as pd

    summary = played[2]
    mlflow.set_tracking_uri(summary["tracking_uri"])
    mlflow.set_registry_uri(summary["tracking_uri"])
    try:
        for run in summary["runs"][:3]:
            scored = pd.read_parquet(run["output"])
            assert len(scored) == run["rows_scored"] == 228
            champion = mlflow.pyfunc.load_model(f"models:/{PROD}/{run['champion_after']}")
            predicted = champion.predict(scored.drop(columns="prediction"))
            assert scored["prediction"].tolist() == predicted.tolist()
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture
def database(played, home):
    """Airflow's database, without Airflow."""
    home = Home(home)
    processes = Processes(home.root, home.logs)
    database = database_of(home, Ports.free().database)

    def await_(condition, what):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.1)

    database.start(processes, await_)
    yield database
    processes.stop(10)


def test_airflow_ran_what_was_told_and_loaded_every_dag(database):
    assert rows(database, "SELECT count(*) FROM import_error") == [(0,)]
    runs = rows(database, "SELECT dag_id, state, count(*) FROM dag_run GROUP BY 1, 2 ORDER BY 1, 2")
    assert [run for run in runs if run[1] == "success"] == [
        ("example_new_version_sensor", "success", 3),
        ("example_rollback", "success", 1),
        ("example_train_validate_promote_infer", "success", 3),
    ]
    assert {run[1] for run in runs} <= {"success", "running"}, "the sensor's Dag goes on listening"


def test_an_approval_is_left_open(played):
    assert played[2]["open_approval"] == "demo_approval"


@pytest.fixture(scope="module")
def ui(played, home):
    """`make ui` after that demo, and what the runs of it have kept as links."""
    ports = (home / "ports.json").read_text()
    demo = Demo(home, "--ui")
    demo.await_text("Ctrl-C stops everything")
    assert (home / "ports.json").read_text() == ports
    api = signed_in(demo.text)
    yield demo, api
    api.close()
    if demo.process.is_running():
        demo.process.terminate()
        demo.process.wait(60)


TRAINED_RUN = ("example_train_validate_promote_infer", "demo_3_better")


def test_links_of_the_demos_runs_lead_to_pages(ui):
    _, api = ui
    for task_id in ("register", "copy_to_prod", "set_champion"):
        link = api.xcom(*TRAINED_RUN, task_id, "model_version_url")
        page = httpx.get(link.partition("#")[0], trust_env=False, follow_redirects=True)
        assert page.status_code == 200, link


def test_the_test_button_works(ui):
    _, api = ui
    registry = {"connection_id": "tried", "conn_type": "mlflow", "host": mlflow_url(ui)}
    answer = api._answer("POST", "/api/v2/connections/test", json=registry)
    assert answer["status"] is True, answer


def mlflow_url(ui) -> str:
    return re.search(r"MLflow +(http://\S+)", ui[0].text)[1]


def test_every_example_runs_with_its_defaults_and_ctrl_c_ends_it_all(ui):
    demo, api = ui
    assert "waits for your approval" in demo.text
    states = run_all_with_defaults(api)
    assert set(states.values()) == {"success", "waiting"}, why(api, states)
    running = demo.descendants()
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 0
    assert gone(running)


def test_only_the_owner_reads_its_secrets(played, home):
    assert (home / "airflow").stat().st_mode & 0o077 == 0


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "precious.txt").write_text("x")
    done = run_demo(tmp_path)
    assert done.returncode == 1
    assert "was not made by this demo" in done.stdout
    assert (tmp_path / "mlflow" / "precious.txt").exists()
