"""What tasks cost: set an alias, set two tags and read a version, with our operators and with MlflowClient in @task.

Two Dags of three tasks, the same calls in the same order on one MLflow server. A whole process runs one Dag once:
Airflow's LocalExecutor with one worker, which runs each task in a fork, as Celery's workers do. CPU seconds (user and
system, with all children) and peak memory are the kernel's; MLflow and Airflow's API server are not in them.

``--more`` adds two ways in which Airflow's own share is larger than all the rest, as three tasks that do nothing show:
a new process per task (as the Kubernetes executor starts them), and ``dag.test()``, which holds an API server, too.

    python benchmarks/task_overhead.py [--more]
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/: its copy.py would stand before the standard library's

import argparse
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

GOAL = 0.6
MODEL = "dev.bench.model"
PYTHON = [sys.executable, "-W", "ignore"]

OURS = f"""
import os
from airflow.sdk import DAG
from airflow_uc_models.operators import (
    GetModelVersionOperator, SetModelVersionTagsOperator, SetRegisteredModelAliasOperator,
)

version = int(os.environ["VERSION"])
with DAG("ours", default_args={{"registry_conn_id": "bench"}}) as dag:
    alias = SetRegisteredModelAliasOperator(
        task_id="alias", model_name="{MODEL}", alias="Champion", version=version
    )
    tags = SetModelVersionTagsOperator(
        task_id="tags", model_name="{MODEL}", version=version, tags={{"stage": "prod", "by": "bench"}}
    )
    get = GetModelVersionOperator(task_id="get", model_name="{MODEL}", alias="Champion")
    alias >> tags >> get
"""
THEIRS = f"""
import os
from airflow.sdk import DAG, task

version = os.environ["VERSION"]

def client():
    from mlflow import MlflowClient

    return MlflowClient(os.environ["MLFLOW_URL"], os.environ["MLFLOW_URL"])

with DAG("theirs") as dag:
    @task
    def alias():
        client().set_registered_model_alias("{MODEL}", "Champion", version)

    @task
    def tags():
        mlflow = client()
        for key, value in {{"stage": "prod", "by": "bench"}}.items():
            mlflow.set_model_version_tag("{MODEL}", version, key, value)

    @task
    def get():
        found = client().get_model_version_by_alias("{MODEL}", "Champion")
        return {{"version": int(found.version), "tags": found.tags, "status": found.status}}

    alias() >> tags() >> get()
"""
NOTHING = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("nothing") as dag:
    EmptyOperator(task_id="alias") >> EmptyOperator(task_id="tags") >> EmptyOperator(task_id="get")
"""
DAG_TEST = """

if __name__ == "__main__":
    raise SystemExit(str(dag.test().state) != "success")
"""
DAGS = {"ours": OURS, "theirs": THEIRS, "nothing": NOTHING}

# Makes one run of each Dag, with its tasks queued, and prints what an executor is given for each task.
QUEUE = """
import json, sys
from airflow.api.common.trigger_dag import trigger_dag
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteTask
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType

generator, made = BaseExecutor().jwt_generator, {}
for dag_id in json.loads(sys.argv[1]):
    with create_session() as session:
        run = trigger_dag(dag_id, triggered_by=DagRunTriggeredByType.TEST, session=session)
        run.state = DagRunState.RUNNING
        tasks = {ti.task_id: ti for ti in run.get_task_instances(session=session)}
        for ti in tasks.values():
            ti.state = TaskInstanceState.QUEUED
        session.flush()
        ordered = [tasks[name] for name in ("alias", "tags", "get")]
        made[dag_id] = [ExecuteTask.make(ti, generator=generator).model_dump_json() for ti in ordered]
print("WORKLOADS" + json.dumps(made))
"""
# One worker, so the tasks run in turn.
EXECUTOR = """
import json, sys, time
from pydantic import TypeAdapter
from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteTask

executor = LocalExecutor(parallelism=1)
executor.start()
for workload in json.loads(sys.argv[1]):
    executor.queue_workload(TypeAdapter(ExecuteTask).validate_json(workload), session=None)
while executor.queued_tasks or executor.running:
    executor.heartbeat()
    time.sleep(0.05)
executor.end()
"""
STATES = """
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session

with create_session() as session:
    states = {str(ti.state) for ti in session.query(TaskInstance)}
raise SystemExit(0 if states == {"success"} else f"task states: {states}")
"""

Usage = tuple[float, float]  # CPU seconds, peak memory in MB


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def server(command: list[str], health: str, log: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a server in a process group of its own until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=log.parent, start_new_session=True)
    try:
        for _ in range(1_200):
            try:
                urllib.request.urlopen(health, timeout=2).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(log.read_text()) from None
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def mlflow_server(folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Run an MLflow server with a model of two versions."""
    url = env["MLFLOW_URL"]
    command = [*PYTHON, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]

    def post(path: str, **body: str) -> None:
        request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=60).close()

    with server(command, f"{url}/health", folder / "mlflow.log", env):
        post("registered-models/create", name=MODEL)
        for _ in range(2):
            post("model-versions/create", name=MODEL, source="s3://bucket/model")
        yield


@contextmanager
def airflow_api(folder: Path, env: dict[str, str], port: int) -> Iterator[None]:
    """Run Airflow's execution API on a fresh database that knows the Dags."""
    dags = Path(env["AIRFLOW__CORE__DAGS_FOLDER"])
    dags.mkdir()
    for name, code in DAGS.items():
        (dags / f"{name}.py").write_text(code + DAG_TEST)
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        subprocess.run([*PYTHON, "-m", "airflow", *command], env=env, check=True, capture_output=True)
    command = [*PYTHON, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--apps", "execution", "--workers", "1"]
    with server(command, f"http://127.0.0.1:{port}/execution/health", folder / "api.log", env):
        yield


def measure(command: list[str], env: dict[str, str], log: Path) -> Usage:
    """Run a process to its end."""
    with log.open("wb") as output:
        process = subprocess.Popen([*PYTHON, *command], env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(log.read_text()[-4_000:])
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


class Runner:
    """Runs the Dags in the ways that are compared."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.log = folder / "run.log"
        self.env = env

    def set_turn(self, turn: int) -> None:
        """Say which version the tasks shall work on."""
        self.env["VERSION"] = str(turn % 2 + 1)  # the alias moves each time

    def queue(self, dag_id: str) -> list[str]:
        """Make a Dag run with queued tasks, outside the measurement."""
        command = [*PYTHON, "-c", QUEUE, json.dumps([dag_id])]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        workloads: list[str] = json.loads(done.stdout.rpartition("WORKLOADS")[2])[dag_id]
        return workloads

    def in_executor(self, dag_id: str) -> Usage:
        """Run the tasks in forks of one LocalExecutor worker."""
        return measure(["-c", EXECUTOR, json.dumps(self.queue(dag_id))], self.env, self.log)

    def in_processes(self, dag_id: str) -> Usage:
        """Run each task in a new process."""
        module = "airflow.sdk.execution_time.execute_workload"
        commands = [["-m", module, "--json-string", workload] for workload in self.queue(dag_id)]
        usages = [measure(command, self.env, self.log) for command in commands]
        return sum(cpu for cpu, _ in usages), max(memory for _, memory in usages)

    def in_dag_test(self, dag_id: str) -> Usage:
        """Run the Dag with dag.test()."""
        return measure([f"{self.env['AIRFLOW__CORE__DAGS_FOLDER']}/{dag_id}.py"], self.env, self.log)

    def check(self) -> None:
        """Raise unless every task there was succeeded."""
        subprocess.run([*PYTHON, "-c", STATES], env=self.env, check=True)

    def compare(self, title: str, way: Callable[[str], Usage], dag_ids: list[str], repeat: int) -> float:
        """Run the Dags in turn, print medians, and return the ratio of CPU seconds."""
        results: dict[str, list[Usage]] = {dag_id: [] for dag_id in dag_ids}
        for turn in range(repeat + 1):
            self.set_turn(turn)
            for dag_id in dag_ids:
                usage = way(dag_id)
                if turn:  # the first turn writes bytecode
                    results[dag_id].append(usage)
        print(f"{title} (median of {repeat})")
        medians = {}
        for dag_id, usages in results.items():
            cpu, memory = (statistics.median(column) for column in zip(*usages, strict=True))
            medians[dag_id] = cpu, memory
            print(f"  {dag_id:<8} {cpu:6.2f} s CPU  {memory:5.0f} MB peak")
        ratios = [ours / theirs for ours, theirs in zip(medians["ours"], medians["theirs"], strict=True)]
        print(f"  ratio    {ratios[0]:6.2f}        {ratios[1]:5.2f}", flush=True)
        return ratios[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--more", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port, url = Path(name), free_port(), f"http://127.0.0.1:{free_port()}"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "MLFLOW"))} | {
            "AIRFLOW_HOME": name,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": f"{name}/dags",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW_CONN_BENCH": json.dumps({"conn_type": "mlflow", "host": url}),
            "MLFLOW_URL": url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "VERSION": "1",
        }
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as an installed package is
        runner = Runner(folder, env)
        with mlflow_server(folder, env), airflow_api(folder, env, port):
            ratio = runner.compare("LocalExecutor", runner.in_executor, ["ours", "theirs"], arguments.repeat)
            print(f"  goal     {GOAL:6.2f} at most", flush=True)
            if arguments.more:
                runner.compare("a process per task", runner.in_processes, list(DAGS), arguments.repeat)
                runner.compare("dag.test()", runner.in_dag_test, list(DAGS), arguments.repeat)
            runner.check()
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
