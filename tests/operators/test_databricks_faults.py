"""Every operator and sensor over a `databricks` connection to a workspace that fails, now and then or for good."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest
import tenacity
from airflow.providers.standard.operators.empty import EmptyOperator
from support.approvals import answering
from support.databricks import IN_PARTS, connection_json
from support.databricks_tasks import Scene, make
from support.models import save_model

from airflow_uc_models.exceptions import RegistryUnavailableError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.operators.base import TaskStopped
from scripts.privileges import ROWS

PASSING = {
    "too many requests": {"status": 429, "retry_after": 0},
    "busy before the effect": {"status": 503},
    "busy after the effect": {"status": 503, "when": "after"},
    "reset before the effect": {"reset": True},
    "reset after the effect": {"reset": True, "when": "after"},
}
# what differs from run to run, in XCom
VOLATILE = {"at", "input", "created_at", "updated_at", "seconds", "tags", "path", "output", "storage_location"}
EXPECTED = {}  # what is left without faults
TRANSFERS = ("RegisterModelOperator", "CopyModelVersionOperator", "DownloadModelVersionOperator")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def presigned(presigned_emulator):
    presigned_emulator.reset()
    return presigned_emulator


@pytest.fixture
def quick(monkeypatch):
    """Wait little between two tries."""
    monkeypatch.setattr("airflow_uc_models.hooks.transport._backoff", tenacity.wait_fixed(0.02))


@pytest.fixture
def run(dag_runner, monkeypatch, model, tmp_path):
    """Run tasks of these rows, each on a scene of its own; ``during`` begins when the scenes are there."""
    pd.DataFrame([[0.1] * 4], columns=[f"f{i}" for i in range(4)]).to_parquet(tmp_path / "in.parquet")
    dag_id = dag_runner.dag_id

    def run(workspace, rows, connection=None, during=suppress, **options):
        monkeypatch.setenv("AIRFLOW_CONN_WS", connection or connection_json(workspace))
        scenes = [Scene(workspace, number, row.case, model, tmp_path) for number, row in enumerate(rows)]
        errors, ended = {}, {}

        def define():
            for row, scene in zip(rows, scenes, strict=True):
                task_id = f"t{scene.number}"
                follow = {"follow_if_approved": f"after_{task_id}"} if row.task.startswith("Branch") else {}
                common = {"task_id": task_id, "registry_conn_id": "ws", **follow, **options}
                made = make(row.task, scene, errors, ended, **common)
                if follow:
                    made >> EmptyOperator(task_id=f"after_{task_id}")

        dag_runner.dag_id = f"{dag_id}_{time.monotonic_ns()}"
        with during(), answering(*["Approve"] * 3):  # a retry asks again
            result = dag_runner.run(define)
        result.scenes, result.errors, result.seconds = scenes, errors, ended
        return result

    return run


def all_of(result):
    """What a run left: per task its state, what it returned, and the models it worked on."""
    found = {}
    for scene in result.scenes:
        task_id = f"t{scene.number}"
        value = _lasting(result.xcom(task_id))
        if isinstance(value, list):  # models that other tasks make meanwhile are of no interest
            value = [item for item in value if not isinstance(item, dict) or item["name"] == scene.names["model"]]
        found[task_id] = (result.task_state(task_id), value, scene.snapshot())
    return found


def _lasting(value):
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in VOLATILE}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("storage", "seed"), [("files", 1), pytest.param("files", 2, marks=pytest.mark.soak), ("presigned", 3)]
)
def test_one_fault_in_ten_requests_changes_nothing(run, workspace, presigned, quick, storage, seed):
    found = workspace if storage == "files" else presigned
    if not EXPECTED:
        undisturbed = run(found, ROWS)
        assert undisturbed.state == "success", undisturbed.errors
        EXPECTED.update(all_of(undisturbed))
        found.reset()
    found.faults._random.seed(seed)

    @contextmanager
    def faults():
        played = [found.faults.add(count=None, probability=0.021, **fault) for fault in PASSING.values()]
        yield
        assert min(fault.hits for fault in played) >= 1
        found.faults.clear()

    result = run(found, ROWS, during=faults, retries=2, retry_delay=timedelta(0))
    assert all_of(result) == EXPECTED, result.errors
    # by chance a file meets more faults than it is tried, not two of them
    assert sum(result.ti(f"t{scene.number}").try_number - 1 for scene in result.scenes) <= 1, result.errors


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def silent():
    """A port where connections are taken and nothing is ever answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(256)
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["every answer is 503", "nothing listens", "nothing answers"])
def test_a_workspace_that_is_down_is_given_up_on(run, workspace, silent, quick, kind):
    port = {"nothing listens": closed_port(), "nothing answers": silent}.get(kind, workspace.port)
    extra = {"max_retry_seconds": 0.1, "timeout": 0.2}

    @contextmanager
    def down():
        if port == workspace.port:
            workspace.faults.add(count=None, status=503)
        yield
        workspace.faults.clear()

    rows = [row for row in ROWS if "Sensor" not in row.task]
    result = run(workspace, rows, connection_json(workspace, port=port, extra=extra), during=down)
    wrong = {}
    for row, scene in zip(rows, result.scenes, strict=True):
        task_id = f"t{scene.number}"
        error = result.errors.get(task_id)
        if not isinstance(error, RegistryUnavailableError) or "'ws'" not in str(error):
            wrong[row] = repr(error)
        if result.seconds[task_id] > 5:
            wrong[row] = f"took {result.seconds[task_id]} s: {error}"
    assert not wrong


BROKEN = {
    "503": {"status": 503},
    "resets": {"reset": True},
    "silence": {},
}


@pytest.mark.parametrize("storage", ["files", "presigned"])
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.timeout(90)
def test_file_transfers_that_never_work_are_given_up_on(run, workspace, presigned, quick, storage, kind):
    """All goes well until the first file: from then on nothing does, the cleaning up included."""
    found = workspace if storage == "files" else presigned
    fault = BROKEN[kind] or {"hold": threading.Event()}

    @contextmanager
    def broken():
        found.faults.add("/fs/|/storage/|/delete$", count=None, **fault)
        yield
        found.faults.clear()

    rows = list({row.task: row for row in ROWS if row.task in TRANSFERS}.values())
    extra = {"max_retry_seconds": 0.5, "timeout": 0.5}
    result = run(found, rows, connection_json(found, extra=extra), during=broken)
    told = {row: (result.seconds[f"t{i}"], repr(result.errors.get(f"t{i}"))) for i, row in enumerate(rows)}
    assert all(isinstance(result.errors.get(f"t{i}"), RegistryUnavailableError) for i in range(len(rows))), told
    assert max(result.seconds.values()) < 20, told
    assert {v.status for m in found.workspace.state.models.values() for v in m.versions.values()} == {
        "READY", "PENDING_REGISTRATION",
    }  # fmt: skip


def test_by_default_a_workspace_is_given_up_on_within_two_minutes(databricks):
    transport = ModelRegistryHook(databricks).endpoint.transport
    # no try begins after max_retry_seconds, and each ends after timeout
    assert transport.max_retry_seconds + transport.timeout <= 120


TOKEN = "dapi0123456789secret"


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_not_accepted_fails_once(run, workspace, monkeypatch, status):
    settings = replace(workspace.settings, rejected_token_status=status)
    monkeypatch.setattr(workspace.workspace, "settings", settings)
    result = run(workspace, ROWS, connection_json(workspace, TOKEN), retries=2, retry_delay=timedelta(0))
    wrong = {}
    for row, scene in zip(ROWS, result.scenes, strict=True):
        ti, text = result.ti(f"t{scene.number}"), str(result.errors.get(f"t{scene.number}"))
        if (ti.state, ti.try_number) != ("failed", 1) or "token of connection 'ws'" not in text:
            wrong[row] = (ti.state, ti.try_number, text)
    assert not wrong
    assert TOKEN not in result.output


@contextmanager
def killed_at(workspace, path, number):
    """Send this process SIGTERM when so many requests to that path have come in; Airflow's handler is in place then."""
    before, killed = signal.getsignal(signal.SIGTERM), []

    def kill():
        deadline = time.monotonic() + 30
        while len(workspace.requests.find(path)) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        if time.monotonic() < deadline and signal.getsignal(signal.SIGTERM) not in {signal.SIG_DFL, before}:
            killed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("storage", "task", "files", "size"),
    [
        ("files", "RegisterModelOperator", 1, 120 << 20),
        ("files", "RegisterModelOperator", 60, 1000),
        ("presigned", "RegisterModelOperator", 60, 1000),
        ("files", "DownloadModelVersionOperator", 60, 1000),
    ],
)
def test_a_killed_task_stops_its_transfer_at_once(run, workspace, presigned, model, storage, task, files, size):
    if not IN_PARTS and (files == 1 or task.startswith("Download")):
        pytest.skip("this release of databricks-sdk sends a file in one piece, and fetches it where it sent it")
    found = workspace if storage == "files" else presigned
    extra = model / "extra"
    extra.mkdir()
    for number in range(files):
        (extra / f"{number}.bin").touch()
        os.truncate(extra / f"{number}.bin", size)
    uploads = "/storage/" if storage == "presigned" or files == 1 else "/extra/"
    path = uploads if task.startswith("Register") else "create-download-url"
    found.faults.add(path, count=None, delay=0.3)  # which makes it take 6 s and more
    row = next(row for row in ROWS if (row.task, row.case) in {(task, "a new model"), (task, "")})
    try:
        with killed_at(found, path, 4) as killed:
            result = run(found, [row])
    finally:
        shutil.rmtree(extra)
    stopped = time.monotonic()
    assert killed, "it was over before"
    assert result.task_state("t0") == "failed"
    assert isinstance(result.errors["t0"], TaskStopped)
    assert stopped - killed[0] < 5
    # the new model is gone again, with its unfinished version
    assert ("dev.ml_team.m" in result.scenes[0].snapshot()) == task.startswith("Download")
    # what was on its way may end; nothing else begins
    time.sleep(1.5)
    settled = len(found.requests.find(path))
    time.sleep(1)
    assert len(found.requests.find(path)) == settled
    assert not (result.scenes[0].scratch / "down0").exists()
    # the connections that were cut off are closed when their sessions are forgotten
    result.errors.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
