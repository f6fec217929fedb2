"""The folder of a demo: what lies where, who may use it, and which secrets its Airflow has."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.demo.errors import DemoError

_OURS = ".made-by-airflow-uc-models-demo"
_COMPLETE = ".complete"


class Home:
    """A demo's folder.

    :param root: ``DEMO_HOME``; made if it is missing
    :param registry: ``mlflow``, or ``databricks`` for an emulated workspace
    """

    def __init__(self, root: Path, registry: str = "mlflow") -> None:
        self.registry = registry
        self.root = root.expanduser().resolve()
        self.airflow = self.root / "airflow"
        self.mlflow = self.root / "mlflow"
        self.logs = self.root / "logs"
        self.data = self.root / "data"
        self.summary = self.root / "summary.json"
        self.ports = self.root / "ports.json"

    @property
    def tracking_uri(self) -> str:
        """The registry as a database, which stays readable when the server is gone."""
        return f"sqlite:///{self.mlflow}/mlflow.db"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other demos out of this folder; the system frees the lock of a process that was killed."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise DemoError(
                    f"Another demo (process {lock.read().strip() or 'unknown'}) is running in {self.root}. "
                    "Stop it, or choose another folder: make demo DEMO_HOME=..."
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def prepare(self, *, fresh: bool) -> None:
        """Make the folders; a fresh start removes what an earlier demo left, and nothing else."""
        folders = (self.airflow, self.mlflow, self.logs, self.data)
        for folder in folders:
            if folder.exists() and any(folder.iterdir()) and not (folder / _OURS).exists():
                raise DemoError(f"{folder} was not made by this demo. Choose another folder: make demo DEMO_HOME=...")
        if fresh:
            self.summary.unlink(missing_ok=True)
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in folders:
            folder.mkdir(exist_ok=True)
            (folder / _OURS).touch()
        self.airflow.chmod(0o700)  # passwords and keys

    def is_complete(self, database: str) -> bool:
        """Whether a demo got as far as running here, on this registry and this database, so that it can go on."""
        mark = self.airflow / _COMPLETE
        return mark.exists() and mark.read_text() == f"{self.registry} {database}"

    def mark_complete(self, database: str) -> None:
        """Note that everything in the folder is made."""
        (self.airflow / _COMPLETE).write_text(f"{self.registry} {database}")

    def secret(self, name: str) -> str:
        """Return a secret that was drawn for this folder and stays the same in it."""
        path = self.airflow / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            known[name] = secrets.token_urlsafe(48)
            write_private(path, json.dumps(known))
        return known[name]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
