"""A real MLflow server for tests: SQLite, artifacts served from a folder, a free loopback port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import httpx
from packaging.version import Version

# Before 3.17 a server leaves the aliases of a deleted version behind (its store compares the number with text).
LEAVES_ALIASES = Version(metadata.version("mlflow")) < Version("3.17")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class MlflowServer:
    """Started on entry, stopped on exit by process id.

    :param folder: holds the database, the artifacts and the log
    :param arguments: more arguments of `mlflow server`
    """

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.arguments = arguments
        self.env = env or {}
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def backend_store_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def connection_json(self, **extra: Any) -> str:
        """The server as the value of an AIRFLOW_CONN_ variable."""
        return json.dumps({"conn_type": "mlflow", "host": self.url, "extra": {"max_retry_seconds": 20} | extra})

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.backend_store_uri, "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), *self.arguments]
        env = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")} | self.env
        env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # spares seven processes that no test needs
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, env=env, start_new_session=True
            )
        self._await_health()

    def _await_health(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health", timeout=2, verify=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError("mlflow server did not start:\n" + (self.folder / "server.log").read_text()[-3000:])

    def stop(self) -> None:
        """Stop the server with its workers: all are in its process group."""
        import signal

        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.process = None

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def client(self) -> Any:
        """An MlflowClient on this server."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)


@dataclass
class RunningServer:
    """An MLflow server that somebody else runs."""

    url: str

    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)
