"""Starts the MLflow server and Airflow, waits until both are healthy, stops both."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from scripts.demo.airflow_api import AirflowApi
from scripts.demo.databases import database_of
from scripts.demo.errors import DemoError
from scripts.demo.home import Home
from scripts.demo.ports import Ports
from scripts.demo.processes import Processes
from scripts.demo.registry import RegistryReader
from scripts.demo.settings import USER, airflow_environment, write_airflow_config

_COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
# More than any start has taken on a machine whose cores were shared by ten others.
_START_TIMEOUT = 900.0


class Stack:
    """A running MLflow server and a running Airflow in one folder.

    :param home: the folder
    :param ports: where they listen
    :param database: one of DATABASES; None: PostgreSQL where it runs
    """

    def __init__(self, home: Home, ports: Ports, database: str | None = None) -> None:
        self.home = home
        self.ports = ports
        self.processes = Processes(home.root, home.logs)
        self.database = database_of(home, ports.database, database)
        self.mlflow_url = f"http://127.0.0.1:{ports.mlflow}"
        self.workspace_url = f"http://127.0.0.1:{ports.workspace}" if home.registry == "databricks" else None
        self.airflow_url = f"http://127.0.0.1:{ports.airflow}"
        self.password = ""
        self.api = AirflowApi(self.airflow_url)

    def start(self, say: Callable[[str], None]) -> None:
        """Start both and return when they are healthy and the Dags are loaded.

        :param say: told what is being waited for
        """
        write_airflow_config(self.home, self.ports, self.database.url)
        self.password = self.home.secret("password")[:16]
        self._start_mlflow()
        self._start_receiver()
        if self.workspace_url:
            self._start_workspace()
        say("making Airflow's database")
        self.database.start(self.processes, self._await)
        environment = self.environment()
        airflow = [sys.executable, "-m", "airflow"]
        self.processes.run("airflow-migrate", [*airflow, "db", "migrate"], environment, _START_TIMEOUT)
        for component in _COMPONENTS:
            self.processes.start(f"airflow-{component}", [*airflow, component], environment)
        say("waiting for the MLflow server")
        self._await(lambda: _get(f"{self.mlflow_url}/health") is not None, "the MLflow server")
        if self.workspace_url:
            say("waiting for the workspace")
            config = f"{self.workspace_url}/.well-known/databricks-config"
            self._await(lambda: _get(config) is not None, "the emulated workspace")
        say("waiting for Airflow")
        self._await(self._airflow_is_healthy, "Airflow")
        self.api.sign_in(USER, self.password)

    def await_dags(self, dag_ids: set[str]) -> None:
        """Return when Airflow has loaded these Dags; DemoError if their files cannot be imported."""

        def loaded() -> bool:
            if errors := self.api.import_errors():
                raise DemoError("\n".join(["Airflow cannot import the example Dags:", *errors]))
            return dag_ids <= self.api.dag_ids()

        self._await(loaded, "the Dags")

    def _start_mlflow(self) -> None:
        # Clients write artifacts to the folder themselves, so they stay loadable through the database alone when the
        # server is gone; with --serve-artifacts their addresses would need a server.
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.ports.mlflow)]
        command += ["--workers", "1", "--backend-store-uri", self.home.tracking_uri]
        command += ["--no-serve-artifacts", "--default-artifact-root", (self.home.mlflow / "artifacts").as_uri()]
        self.processes.start("mlflow", command, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})

    def _start_receiver(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("receiver.py")), "--port", str(self.ports.receiver)]
        self.processes.start("receiver", command, os.environ)

    def _start_workspace(self) -> None:
        command = [sys.executable, "-m", "airflow_uc_models.emulator", "--port", str(self.ports.workspace)]
        command += ["--database", str(self.home.mlflow / "workspace.db"), "--tracking-uri", self.mlflow_url]
        # By a variable: what is in a command, all users of a machine can read.
        environment = {**os.environ, "EMULATOR_TOKEN": self.home.secret("workspace-token")}
        self.processes.start("workspace", command, environment)

    def registry(self) -> RegistryReader:
        """Return what MLflow's own client says about the registry."""
        if self.workspace_url is None:
            return RegistryReader(self.mlflow_url, self.mlflow_url)
        token = self.home.secret("workspace-token")
        os.environ.update({"DATABRICKS_HOST": self.workspace_url, "DATABRICKS_TOKEN": token})
        return RegistryReader("databricks", "databricks-uc")

    def environment(self) -> dict[str, str]:
        """Return the environment of Airflow's commands."""
        return {**os.environ, **airflow_environment(self.home, self.ports)}

    def _airflow_is_healthy(self) -> bool:
        health = _get(f"{self.airflow_url}/api/v2/monitor/health")
        return health is not None and all(part.get("status") == "healthy" for part in health.values())

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not condition():
            self.processes.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what} did not get ready within {_START_TIMEOUT:.0f} s; see {self.home.logs}.")
            time.sleep(0.2)

    def stop(self, grace: float) -> None:
        """Stop everything."""
        self.api.close()
        self.processes.stop(grace)


def _get(url: str) -> dict[str, dict[str, str]] | None:
    try:
        answer = httpx.get(url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return None
    if answer.status_code != httpx.codes.OK:
        return None
    return answer.json() if "json" in answer.headers.get("content-type", "") else {}
