"""Recognisable secrets go through a whole story, and are found nowhere afterwards.

Searched are the logs of all tasks and components (at level DEBUG), Airflow's database with XCom, rendered templates
and trigger rows, and whatever else lies in the stack's folder, its folder for temporary files included.
"""

from __future__ import annotations

import base64
import time

import httpx
import pytest
from cryptography.fernet import Fernet
from support.airflow_database import contents, rows
from support.mlflow_server import RunningServer
from support.models import log_model

from scripts.demo.settings import _fernet_key

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
RUN = "secrets-1"


@pytest.fixture(scope="module")
def story(stack, tmp_path_factory):
    """Play the Dag to its end and return what the trigger rows held meanwhile."""
    logged = log_model(RunningServer(stack.mlflow_url))
    folder = stack.home.root / "downloaded"
    stack.api.trigger("secrets", RUN, {"uri": logged.uri, "folder": str(folder)})
    triggers = await_triggers(stack)
    register_late(stack)
    deadline = time.monotonic() + 240
    while stack.api.run_state("secrets", RUN) not in {"success", "failed"}:
        assert time.monotonic() < deadline, stack.api.tasks("secrets", RUN)
        time.sleep(0.5)
    return triggers


def await_triggers(stack) -> list[str]:
    """Wait for both sensors to be deferred and return their triggers as the triggerer reads them."""
    fernet = Fernet(_fernet_key(stack.home.secret("fernet")))
    deadline = time.monotonic() + 120
    while True:
        found = rows(stack.database, "SELECT kwargs FROM trigger")
        if len(found) >= 2:
            # Airflow encrypts them in most cases, not in all.
            return [kwargs if kwargs.startswith("{") else fernet.decrypt(kwargs).decode() for (kwargs,) in found]
        assert time.monotonic() < deadline, stack.api.tasks("secrets", RUN)
        time.sleep(0.2)


def register_late(stack) -> None:
    """Make the version that the sensors wait for."""
    headers = {"Authorization": f"Bearer {stack.workspace.token}"}
    base = f"{stack.workspace.url}/api/2.0/mlflow/unity-catalog"
    with httpx.Client(headers=headers, trust_env=False) as client:
        for path, body in (
            ("registered-models/create", {"name": "dev.secret.late"}),
            ("model-versions/create", {"name": "dev.secret.late", "source": "x"}),
            ("model-versions/finalize", {"name": "dev.secret.late", "version": "1"}),
        ):
            client.post(f"{base}/{path}", json=body).raise_for_status()


def test_the_story_went_as_meant(stack, story):
    states = {task["task_id"]: task["state"] for task in stack.api.tasks("secrets", RUN)}
    wrong = {
        t: s for t, s in states.items() if s != ("failed" if t.startswith("fail_") else "success") and t != "never"
    }
    ran = [task for task, state in wrong.items() if state in {"failed", "success"}]
    logs = [line for task in ran for line in [task, *stack.api.log("secrets", RUN, task, 1)[-30:]]]
    assert not wrong, "\n".join([str(wrong), *logs])
    assert states["never"] == "skipped"
    assert (stack.home.root / "downloaded" / "MLmodel").is_file()


def test_triggers_hold_no_secrets(stack, story):
    assert all("dev.secret.late" in trigger for trigger in story)
    for secret in needles(stack):
        assert not any(secret in trigger for trigger in story)


def test_secrets_are_nowhere_in_the_database(stack, story):
    tables = dict(contents(stack.database))
    assert not tables or b"dev.secret.late" in tables["task_instance"] + tables["rendered_task_instance_fields"]
    held = [(kind, table) for table, content in tables.items() for kind, s in labelled(stack) if s.encode() in content]
    assert not held


def test_secrets_are_nowhere_on_disk(stack, story):
    found = []
    searched = 0
    for path in stack.home.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            searched += 1
            content = path.read_bytes()
            found += [(kind, str(path)) for kind, secret in labelled(stack) if secret.encode() in content]
    assert searched > 40
    assert any("no.such.model" in p.read_text() for p in stack.home.airflow.rglob("logs/**/*.log")), "the logs are here"
    assert not found


def labelled(stack) -> list[tuple[str, str]]:
    """All secrets, also in the forms in which headers carry them, and the tokens that were had for them."""
    plain = list(stack.secrets.items())
    pairs = {"password": "alice", "client_secret": "robot-id"}
    encoded = [
        (f"{kind} in base64", base64.b64encode(f"{pairs[kind]}:{secret}".encode()).decode())
        for kind, secret in plain
        if kind in pairs
    ]
    issued = list(stack.workspace.workspace.principals._issued)
    assert issued, "the service principal got tokens"
    return [*plain, *encoded, *(("an issued token", token) for token in issued)]


def needles(stack) -> list[str]:
    return [secret for _, secret in labelled(stack)]
