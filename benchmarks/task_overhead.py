"""What a task costs: set an alias, set two tags and read a version, with our operators and with MlflowClient in @task.

Two Dags of three tasks, the same calls in the same order against one MLflow server. Each run is a process of its own
that runs its Dag once with ``dag.test()`` on a metadata database prepared beforehand; CPU seconds (user and system,
with children) and peak memory are the kernel's. There all three tasks share one process and import mlflow once; with
an executor each task pays for it anew.

    python benchmarks/task_overhead.py
"""

from __future__ import annotations

import argparse
import json
import os
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
def mlflow_server(folder: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        for _ in range(900):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError((folder / "server.log").read_text()) from None
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def measure(command: list[str], env: dict[str, str], log: Path) -> tuple[float, float]:
    """Run a process to its end and return its CPU seconds and its peak memory in MB."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(log.read_text()[-4_000:])
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def prepare_airflow(home: Path, env: dict[str, str]) -> dict[str, Path]:
    dags = home / "dags"
    dags.mkdir(parents=True)
    files = {"ours": OURS + RUN, "MlflowClient": THEIRS + RUN, "Airflow alone": EMPTY}
    paths = {}
    for name, code in files.items():
        paths[name] = dags / f"{name.replace(' ', '_').lower()}.py"
        paths[name].write_text(code)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    return paths


def prepare_model(url: str) -> None:
    def post(path: str, **body: str) -> None:
        request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=30).close()

    post("registered-models/create", name=MODEL)
    for _ in range(2):
        post("model-versions/create", name=MODEL, source="s3://bucket/model")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as url:
        home = Path(folder) / "airflow"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "MLFLOW"))} | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW_CONN_BENCH": json.dumps({"conn_type": "mlflow", "host": url}),
            "MLFLOW_URL": url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        paths = prepare_airflow(home, env)
        prepare_model(url)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
        for turn in range(repeat + 1):
            for name, path in paths.items():
                command = [sys.executable, "-W", "ignore", str(path)]
                result = measure(command, env | {"VERSION": str(turn % 2 + 1)}, home / "log")
                if turn:  # the first turn writes bytecode and the Dags' rows
                    results[name].append(result)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    for name, (seconds, memory) in medians.items():
        print(f"{name:<14} {seconds:6.2f} s CPU  {memory:6.0f} MB peak  (median of {repeat})")
    cpu = medians["ours"][0] / medians["MlflowClient"][0]
    print(f"CPU ratio      {cpu:6.2f}  (goal: at most {GOAL})")
    print(f"memory ratio   {medians['ours'][1] / medians['MlflowClient'][1]:6.2f}")
    alone = medians["Airflow alone"][0]
    added = (medians["ours"][0] - alone) / (medians["MlflowClient"][0] - alone)
    print(f"CPU ratio of what is added to Airflow alone  {added:.2f}")
    return 0 if cpu <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
