"""Kill -9 of a worker in the middle of a register and of a copy: Airflow's retry leaves exactly one READY version.

Airflow's scheduler, LocalExecutor and API server are real, and so is the MLflow server. A proxy before it holds one
answer back; while the task waits for it, its process and the worker above it are killed.
"""

from __future__ import annotations

import os
import threading
import time

import psutil
import pytest
from support.mlflow_server import RunningServer
from support.models import log_model
from support.proxy import Fault, Proxy

from scripts.demo.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(stack):
    return RunningServer(stack.mlflow_url)


def kill_worker(proxy: Proxy) -> None:
    """Kill the task that talks to the proxy, and the worker that supervises it."""
    port = int(proxy.url.rpartition(":")[2])
    for process in psutil.process_iter():
        try:
            waits = any(c.raddr and c.raddr.port == port for c in process.net_connections("tcp"))
        except psutil.Error:
            continue
        if waits and process.pid != os.getpid():
            worker = process.parent()
            assert worker is not None
            assert "airflow" in " ".join(worker.cmdline()).lower()
            process.kill()
            worker.kill()
            return
    raise AssertionError("no task waits at the proxy")


def await_state(stack: Stack, dag_id: str, run_id: str) -> list[dict]:
    deadline = time.monotonic() + 120
    while stack.api.run_state(dag_id, run_id) not in {"success", "failed"}:
        assert time.monotonic() < deadline, stack.api.tasks(dag_id, run_id)
        time.sleep(0.3)
    return stack.api.tasks(dag_id, run_id)


def run_killed(stack: Stack, dag_id: str, params: dict, fault: Fault) -> None:
    """Run a Dag, kill its worker when the fault holds it, and wait for the retry."""
    fault.hold = threading.Event()
    stack.proxy.faults.append(fault)
    run_id = f"killed-{params['name']}"
    stack.api.trigger(dag_id, run_id, params)
    assert fault.seen.wait(90), "the task never got there"
    kill_worker(stack.proxy)
    fault.hold.set()
    (task,) = await_state(stack, dag_id, run_id)
    log = "\n".join(stack.api.log(dag_id, run_id, "work", task["try_number"]))
    assert (task["state"], task["try_number"]) == ("success", 2), log


def creates(name: str):
    return lambda r: r.path.endswith("model-versions/create") and r.body["name"] == name


@pytest.mark.parametrize("after", [True, False], ids=["after the create", "before the create"])
@pytest.mark.parametrize("job", ["register", "copy"])
def test_one_ready_version_is_left(stack, server, job, after):
    logged = log_model(server)
    client = server.client()
    name = f"prod.killed.{job}_{after}"
    uri = logged.uri
    if job == "copy":
        client.create_registered_model(f"dev.killed.source_{after}")
        client.create_model_version(f"dev.killed.source_{after}", logged.uri, model_id=logged.model_id)
        uri = f"models:/dev.killed.source_{after}/1"
    run_killed(stack, f"killed_{job}", {"name": name, "uri": uri}, Fault(creates(name), after=after))
    found = client.search_model_versions(f"name='{name}'")
    assert [(int(v.version), v.status) for v in found] == [(1, "READY")]


def test_a_folder_whose_upload_was_cut_off(stack, server, tmp_path):
    import mlflow

    client = server.client()
    uri = client.get_logged_model(log_model(server).model_id).artifact_location
    folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=tmp_path, tracking_uri=server.url)
    name = "prod.killed.folder"

    def finalizes(request) -> bool:
        return request.method == "PATCH" and "/logged-models/" in request.path

    run_killed(stack, "killed_register", {"name": name, "uri": str(folder)}, Fault(finalizes, after=False))
    found = client.search_model_versions(f"name='{name}'")
    assert [(int(v.version), v.status) for v in found] == [(1, "READY")]
    experiment = client.get_experiment_by_name(f"airflow_uc_models/{name}")
    models = client.search_logged_models([experiment.experiment_id])
    assert [str(m.status) for m in models] == ["READY"], "the cut-off upload was cleared away"
