"""One running Airflow for all tests of this folder, before an MLflow server and an emulated workspace."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databricks import connection_json
from support.proxy import Proxy

from airflow_uc_models.emulator import Emulator, Settings
from scripts.demo.home import Home
from scripts.demo.ports import Ports
from scripts.demo.settings import airflow_environment, forget_callers_settings
from scripts.demo.stack import Stack

DAG_IDS = {"killed_register", "killed_copy", "secrets"}


class WatchedStack(Stack):
    """A stack whose Dags reach MLflow through a proxy, and which notices a dead worker within seconds.

    :param secrets: what must be found nowhere, by the kind of credentials
    """

    proxy: Proxy
    workspace: Emulator

    def __init__(self, home: Home, ports: Ports) -> None:
        super().__init__(home, ports)
        kinds = ("token", "client_secret", "password", "refused_token", "dead_password")
        self.secrets = {kind: f"{kind}-{secrets.token_hex(12)}" for kind in kinds}

    def environment(self) -> dict[str, str]:
        inherited = dict(os.environ)
        forget_callers_settings(inherited)
        temporary = self.home.root / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            **inherited,
            **airflow_environment(self.home, self.ports),
            **self._secret_connections(),
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / "dags"),
            "AIRFLOW_CONN_WATCHED": self.proxy.connection_json(),
            "AIRFLOW_CONN_WATCHED_WORKSPACE": connection_json(self.workspace),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "TMPDIR": str(temporary),
        }

    def _secret_connections(self) -> dict[str, str]:
        oauth = {"login": "robot-id", "extra": {"service_principal_oauth": True}}
        dead = {"port": 1, "extra": {"max_retry_seconds": 0.1}}
        mlflow = {
            "conn_type": "mlflow",
            "host": self.mlflow_url,
            "login": "alice",
            "password": self.secrets["password"],
        }
        return {
            "AIRFLOW_CONN_BY_TOKEN": connection_json(self.workspace, self.secrets["token"]),
            "AIRFLOW_CONN_BY_CLIENT": connection_json(self.workspace, self.secrets["client_secret"], **oauth),
            "AIRFLOW_CONN_BY_PASSWORD": json.dumps(mlflow),
            "AIRFLOW_CONN_REFUSED": connection_json(self.workspace, self.secrets["refused_token"]),
            "AIRFLOW_CONN_DEAD": connection_json(self.workspace, self.secrets["dead_password"], **dead),
        }


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedStack]:
    """The running stack."""
    home = Home(tmp_path_factory.mktemp("stack"))
    home.prepare(fresh=True)
    stack = WatchedStack(home, Ports.free())
    with Proxy(stack.mlflow_url) as stack.proxy, Emulator(Settings(tracking_uri=stack.mlflow_url)) as stack.workspace:
        stack.workspace.add_principal("ann", token=stack.secrets["token"], is_admin=True)
        stack.workspace.add_principal(
            "robot", client_id="robot-id", client_secret=stack.secrets["client_secret"], is_admin=True
        )
        try:
            stack.start(lambda _: None)
            stack.await_dags(DAG_IDS)
            yield stack
        finally:
            stack.stop(10)
