"""What a task costs: set an alias, set two tags and read a version, with our operators and with MlflowClient in @task.

Two Dags of three tasks, the same calls in the same order on one MLflow server. Two ways to run them, both in fresh
processes, whose CPU seconds (user and system, with children) and peak memory are the kernel's:

* as executors do: each task is a process of its own (``airflow.sdk.execution_time.execute_workload``, which is what
  the Kubernetes executor starts) that talks to an API server outside the measurement. The goal stands for this one.
* with ``dag.test()``: one process for the Dag, which holds an API server of its own, too. Airflow's share of it is so
  large that no operator could reach the goal; a Dag of three empty tasks shows it.

    python benchmarks/task_overhead.py
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOAL = 0.6
MODEL = "dev.bench.model"

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
RUN = """

if __name__ == "__main__":
    run = dag.test()
    version = run.get_task_instance("get").xcom_pull(task_ids="get")["version"]
    if str(run.state) != "success" or version != int(os.environ["VERSION"]):
        raise SystemExit(f"{run.state} {version}")
"""
# Nothing but Airflow: what both have in common.
EMPTY = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("empty") as dag:
    EmptyOperator(task_id="a") >> EmptyOperator(task_id="b") >> EmptyOperator(task_id="c")

if __name__ == "__main__":
    if str(dag.test().state) != "success":
        raise SystemExit(1)
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def server(command: list[str], health: str, log: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server in a process group of its own until the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=env, cwd=log.parent, start_new_session=True
        )
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
def mlflow_server(folder: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    with server(command, f"{url}/health", folder / "mlflow.log"):
        yield url


@contextmanager
def airflow_api(port: int, env: dict[str, str], home: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--apps", "execution", "--workers", "1"]
    with server(command, f"http://127.0.0.1:{port}/execution/health", home / "api.log", env):
        yield


def measure(command: list[str], env: dict[str, str], log: Path) -> tuple[float, float]:
    """Run a process to its end and return its CPU seconds and its peak memory in MB."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(log.read_text()[-4_000:])
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


# Makes one run of each Dag, with its tasks queued, and writes what an executor would be given for each task.
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


def prepare_airflow(home: Path, env: dict[str, str]) -> dict[str, Path]:
    dags = home / "dags"
    dags.mkdir(parents=True)
    files = {"ours": OURS + RUN, "theirs": THEIRS + RUN, "Airflow alone": EMPTY}
    paths = {}
    for name, code in files.items():
        paths[name] = dags / f"{name.replace(' ', '_').lower()}.py"
        paths[name].write_text(code)
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        environment = env | {"VERSION": "1"}
        subprocess.run([sys.executable, "-m", "airflow", *command], env=environment, check=True, capture_output=True)
    return paths


def prepare_model(url: str) -> None:
    def post(path: str, **body: str) -> None:
        request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=30).close()

    post("registered-models/create", name=MODEL)
    for _ in range(2):
        post("model-versions/create", name=MODEL, source="s3://bucket/model")


def queue(env: dict[str, str], dag_ids: list[str]) -> dict[str, list[str]]:
    command = [sys.executable, "-W", "ignore", "-c", QUEUE, json.dumps(dag_ids)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    workloads: dict[str, list[str]] = json.loads(done.stdout.rpartition("WORKLOADS")[2])
    return workloads


def run_tasks(workloads: list[str], env: dict[str, str], log: Path) -> tuple[float, float]:
    """Run each task in a process of its own; return the sum of CPU seconds and the highest peak memory."""
    module = "airflow.sdk.execution_time.execute_workload"
    usages = []
    for workload in workloads:
        command = [sys.executable, "-W", "ignore", "-m", module, "--json-string", workload]
        usages.append(measure(command, env, log))
        if '"final_state":"success"' not in log.read_text().replace(" ", ""):
            raise RuntimeError(log.read_text()[-4_000:])
    return sum(cpu for cpu, _ in usages), max(memory for _, memory in usages)


def report(title: str, results: dict[str, list[tuple[float, float]]]) -> float:
    """Print medians and return the ratio of CPU seconds."""
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    print(f"{title} (median of {len(results['ours'])})")
    for name, (seconds, memory) in medians.items():
        print(f"  {name:<14} {seconds:6.2f} s CPU  {memory:6.0f} MB peak")
    ours, theirs = medians["ours"], medians["theirs"]
    print(f"  ratio          {ours[0] / theirs[0]:6.2f}        {ours[1] / theirs[1]:6.2f}")
    return ours[0] / theirs[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as url:
        home = Path(folder) / "airflow"
        port = free_port()
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "MLFLOW"))} | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW_CONN_BENCH": json.dumps({"conn_type": "mlflow", "host": url}),
            "MLFLOW_URL": url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        paths = prepare_airflow(home, env)
        prepare_model(url)
        as_tasks: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
        in_dag_test: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
        with airflow_api(port, env, home):
            for turn in range(repeat + 1):
                versioned = env | {"VERSION": str(turn % 2 + 1)}
                for name, workloads in queue(versioned, list(as_tasks)).items():
                    result = run_tasks(workloads, versioned, home / "log")
                    if turn:  # the first turn writes bytecode
                        as_tasks[name].append(result)
        for turn in range(repeat + 1):
            for name, path in paths.items():
                command = [sys.executable, "-W", "ignore", str(path)]
                result = measure(command, env | {"VERSION": str(turn % 2 + 1)}, home / "log")
                if turn:
                    in_dag_test[name].append(result)
    ratio = report("Three tasks, each a process", as_tasks)
    print(f"  goal           {GOAL:6.2f} at most")
    report("One process with dag.test()", in_dag_test)
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
