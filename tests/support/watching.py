"""A running Airflow whose watchers listen to an emulated workspace, and whose triggerer is killed now and then."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from airflow.sdk import Context

from airflow_uc_models.emulator import Emulator
from airflow_uc_models.events import ModelEvent
from scripts.demo.home import Home
from scripts.demo.ports import Ports
from scripts.demo.settings import airflow_environment, forget_callers_settings
from scripts.demo.stack import Stack
from support.airflow_database import rows
from support.databricks import connection_json
from support.registries import EMULATED, Subject

TRIGGERER = "airflow-triggerer"
# Before Airflow 3.3 assets have no state; what watchers say of themselves is then in the triggerer's log alone.
HAS_STATE_STORE = "asset_state_store" in Context.__annotations__
_SAID = re.compile(r"Cannot watch (.+?), going on trying: (.+)|Watching (.+?) again")
_PAGE = 100


class WatchingStack(Stack):
    """Airflow with Dags of a folder, and a workspace in this process.

    :param dags: the folder
    :param variables: more variables for Airflow's processes
    """

    def __init__(self, home: Home, workspace: Emulator, dags: Path, variables: Mapping[str, str]) -> None:
        super().__init__(home, Ports.free())
        self.workspace = workspace
        self.dags = dags
        self.variables = variables
        self.log_before = 0  # what earlier triggerers have written, in bytes

    def environment(self) -> dict[str, str]:
        inherited = dict(os.environ)
        forget_callers_settings(inherited)
        return {
            **inherited,
            **airflow_environment(self.home, self.ports),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            # A triggerer that was killed is missed, and its triggers are given to the next one, after this long.
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            **self.variables,
        }

    def start_triggerer(self) -> None:
        log = self.processes.log_of(TRIGGERER)
        self.log_before = log.stat().st_size if log.exists() else 0
        self.processes.start(TRIGGERER, [sys.executable, "-m", "airflow", "triggerer"], self.environment())

    def kill_triggerer(self) -> None:
        """Kill -9 of the triggerer and of the process that runs its triggers."""
        self.processes.kill(TRIGGERER)

    def triggerer_log(self, after: int = 0) -> str:
        """What the triggerer has printed, without colours; the text after so many bytes."""
        text = self.processes.log_of(TRIGGERER).read_bytes()[after:].decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def events(self) -> list[ModelEvent]:
        """Every asset event there is, oldest first, as the event that a watcher sent.

        Read from the database: Airflow 3.3.2 does not list them while a run that they started is queued.
        """
        found = self.rows("SELECT extra FROM asset_event ORDER BY id")
        return [ModelEvent.from_json(_plain(extra)["payload"]) for (extra,) in found]

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """What Airflow's database says."""
        return rows(self.database, query, **values)

    def watcher_states(self) -> list[dict[str, Any]]:
        """What the watchers of all assets say of themselves: `status` and, if it is `failing`, the `error`."""
        assets = self.api.get("/api/v2/assets", params={"limit": _PAGE})["assets"]
        if not HAS_STATE_STORE:
            said = _SAID.findall(self.triggerer_log(self.log_before))
            errors = {what: error for failing, error, well in said for what in (failing or well,)}
            states = [{"status": "failing", "error": error} if error else {"status": "ok"} for error in errors.values()]
            return states + [{"status": "ok"}] * (len(assets) - len(states))  # they said nothing
        states = []
        for asset in assets:
            kept = self.api.get(f"/api/v2/assets/{asset['id']}/state-store")
            states += [
                _plain(item["value"])
                for item in kept["asset_state_store"]
                if item["key"].startswith("uc_models_watcher")
            ]
        return states

    def until(self, condition: Callable[[], Any], seconds: float, what: Callable[[], Any] = str) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.processes.check()
            assert time.monotonic() < deadline, what()
            time.sleep(0.5)


Running = TypeVar("Running", bound=WatchingStack)


@contextmanager
def running(stack: Running, *dag_ids: str) -> Iterator[Running]:
    """Start an Airflow, wait for its Dags, and stop it at the end."""
    try:
        stack.start(lambda _: None)
        stack.await_dags(set(dag_ids))
        yield stack
    finally:
        stack.stop(10)


@contextmanager
def admin(workspace: Emulator, schema: str) -> Iterator[Subject]:
    """The workspace, for who registers versions in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_ADMIN", connection_json(workspace))
        yield Subject("admin", schema, EMULATED)


def _plain(value: Any) -> Any:
    """JSON as its value; PostgreSQL gives that already, SQLite its text."""
    return json.loads(value) if isinstance(value, str) else value
