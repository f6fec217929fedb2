"""Watchers in a real Airflow: its triggerer is killed and the registry fails, and still no version is missed."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.databricks import connection_json
from support.registries import Subject
from support.watching import WatchingStack, admin, running

from airflow_uc_models.emulator import Emulator, Settings
from scripts.demo.home import Home

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

DAGS = Path(__file__).parent / "watching_dags"
# The provider renews tokens that live for less than two minutes more.
TOKEN_SECONDS = 130.0


@dataclass(frozen=True)
class Size:
    """How much happens: some in each test run, all of it in `make soak`."""

    models: int
    versions: int
    kills: int
    down_seconds: float
    blocked_seconds: float


# Other tests run beside the small one; a process that waits for its turn looks blocked, too; Airflow tells of 0.2 s.
SMALL, FULL = Size(5, 60, 2, 12, blocked_seconds=1.5), Size(20, 500, 5, 60, blocked_seconds=0.2)


@pytest.fixture(scope="module", params=[SMALL, pytest.param(FULL, marks=pytest.mark.soak)], ids=["small", "full"])
def size(request) -> Size:
    return request.param


@pytest.fixture(scope="module")
def stack(size, tmp_path_factory) -> Iterator[WatchingStack]:
    """The running Airflow; its watchers authenticate by OAuth, with tokens that live for seconds."""
    home = Home(tmp_path_factory.mktemp("watching"))
    home.prepare(fresh=True)
    with Emulator(Settings(token_seconds=TOKEN_SECONDS)) as workspace:
        workspace.add_principal("robot", client_id="robot-id", client_secret="robots-secret")
        workspace.add_schema("dev.ml_team")
        for privilege, securable in (("USE CATALOG", "dev"), ("USE SCHEMA", "dev.ml_team"), ("EXECUTE", "dev")):
            workspace.grant("robot", privilege, securable)
        oauth = {"login": "robot-id", "extra": {"service_principal_oauth": True}}
        variables = {
            "AIRFLOW_CONN_WORKSPACE": connection_json(workspace, "robots-secret", **oauth),
            "WATCHED_MODELS": str(size.models),
        }
        with running(WatchingStack(home, workspace, DAGS, variables), "watched_models") as stack:
            yield stack


@pytest.fixture(scope="module")
def registry(stack) -> Iterator[Subject]:
    with admin(stack.workspace, "dev.ml_team") as subject:
        yield subject


def expected(size: Size, registry: Subject) -> set[tuple[str, int]]:
    names = [f"dev.ml_team.m{number}" for number in range(size.models)]
    return {(name, version) for name in names for version in registry.versions(name)}


def told(stack: WatchingStack) -> set[tuple[str, int]]:
    return {(event.model_name, event.version or 0) for event in stack.events()}


def test_a_killed_triggerer_and_a_failing_registry_lose_no_version(stack, registry, size, record_property):
    faults = stack.workspace.faults
    for fault in ({"status": 429, "retry_after": 0}, {"status": 503}, {"reset": True}):
        # of the watchers' requests; whoever registers versions is not what is tested here
        faults.add(method="GET", count=None, probability=0.033, **fault)
    done = threading.Event()

    def register() -> None:
        # Seeded, so that the same happens each time.
        dice, last = random.Random(5), 8.0 * size.kills
        for number in range(size.models):
            registry(lambda r, n=number: r.create_registered_model(f"dev.ml_team.m{n}"))
        for _ in range(size.versions):
            registry.version(f"dev.ml_team.m{dice.randrange(size.models)}")
            time.sleep(last / size.versions)
        done.set()

    registering = threading.Thread(target=register, daemon=True)
    registering.start()
    killed = 0
    while killed < size.kills:
        before = len(stack.events())
        stack.until(lambda b=before: len(stack.events()) > b or done.is_set(), 90)
        stack.kill_triggerer()
        killed += 1
        stack.start_triggerer()
    registering.join(300)
    assert done.is_set()
    everything = expected(size, registry)
    assert len(everything) == size.versions
    stack.until(lambda: told(stack) >= everything, 240, lambda: everything - told(stack))
    faults.clear()
    assert told(stack) == everything  # and none that does not exist
    events = stack.events()
    keys = {event.key for event in events}
    repeats = len(events) - len(keys)
    assert len(keys) == size.versions  # a repeat is known by its key
    print(f"\n{size.versions} versions, {size.kills} kills: {len(events)} events, {repeats} repeats, none lost")
    record_property("repeats", repeats)
    runs_succeed(stack)


def runs_succeed(stack: WatchingStack) -> None:
    """Every run that a watcher started found the version that started it."""

    states: set[str] = set()

    def all_ended() -> bool:
        states.clear()
        states.update(stack.api.run_state("watched_models", run_id) for run_id in stack.api.run_ids("watched_models"))
        return bool(states) and not states & {"queued", "running"}

    stack.until(all_ended, 240, lambda: states)
    assert states == {"success"}


def test_while_the_registry_is_down_watchers_wait_and_say_so_once(stack, registry, size):
    failing_before = stack.triggerer_log().count("Cannot watch")
    again_before = stack.triggerer_log().count(" again")
    stack.workspace.faults.add(count=None, status=503)
    stack.until(lambda: [s["status"] for s in stack.watcher_states()] == ["failing"] * size.models, 90)
    time.sleep(size.down_seconds)  # long enough for a token to expire in the meantime
    stack.workspace.faults.clear()
    registry.version("dev.ml_team.m0")
    everything = expected(size, registry)
    stack.until(lambda: told(stack) >= everything, 120)
    stack.until(lambda: {s["status"] for s in stack.watcher_states()} == {"ok"}, 60, stack.watcher_states)
    log = stack.triggerer_log()
    assert log.count("Cannot watch") - failing_before == size.models
    assert log.count(" again") - again_before >= size.models


def test_a_withdrawn_privilege_is_told_and_recovered_from(stack, registry, size):
    workspace = stack.workspace
    workspace.revoke("robot", "EXECUTE", "dev")
    stack.until(lambda: {s["status"] for s in stack.watcher_states()} == {"failing"}, 60, stack.watcher_states)
    assert all("EXECUTE" in state["error"] for state in stack.watcher_states())
    registry.version("dev.ml_team.m1")
    workspace.grant("robot", "EXECUTE", "dev")
    everything = expected(size, registry)
    stack.until(lambda: told(stack) >= everything, 90)
    stack.until(lambda: {s["status"] for s in stack.watcher_states()} == {"ok"}, 60, stack.watcher_states)
    runs_succeed(stack)


def test_the_event_loop_was_never_blocked_and_no_watcher_has_failed(stack, size):
    log = stack.triggerer_log()
    blocked = re.findall(r"async thread was blocked for ([\d.]+) seconds", log)
    assert [seconds for seconds in blocked if float(seconds) >= size.blocked_seconds] == []
    assert "exited with error" not in log
    assert "Traceback" not in log
