"""Processes of the demo: each started in a session of its own, known again after a crash, stopped without rest.

Three things tell that a process is ours: the mark in its environment; where it has overwritten that with a title (many
Airflow processes do), a session that we started together with a working directory in our folder; and of PostgreSQL,
whose processes all have sessions of their own, the working directory alone, which is that of its data.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from scripts.demo.errors import DemoError

MARK = "UC_MODELS_DEMO_HOME"
DATABASE = "postgres"


class Processes:
    """What runs for one demo folder.

    :param home: the folder; every process and all that it starts carry it in their environment
    :param logs: where each one's output goes
    """

    def __init__(self, home: Path, logs: Path) -> None:
        self.home = str(home)
        self.logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._record = home / "sessions.json"
        self._sessions: set[int] = set(json.loads(self._record.read_text())) if self._record.exists() else set()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process that must run until it is stopped."""
        with self.log_of(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, MARK: self.home},
                cwd=self.home,
                start_new_session=True,
            )
        self._sessions.add(self._running[name].pid)
        self._record.write_text(json.dumps(sorted(self._sessions)))
        return self._running[name]

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str], timeout: float) -> None:
        """Run a process to its end; DemoError if it fails."""
        process = self.start(name, command, environment)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{name} did not end within {timeout:.0f} s.\n{self.tail(name)}") from None
        del self._running[name]
        if status:
            raise DemoError(f"{name} failed with status {status}.\n{self.tail(name)}")

    def check(self) -> None:
        """Raise DemoError if one has ended on its own."""
        for name, process in self._running.items():
            if (status := process.poll()) is not None:
                raise DemoError(f"{name} ended with status {status}.\n{self.tail(name)}")

    def kill(self, name: str) -> None:
        """Kill a process with all that it started, as if its machine had died."""
        process = self._running.pop(name)
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()

    def log_of(self, name: str) -> Path:
        """Return the file that holds a process's output."""
        return self.logs / f"{name}.log"

    def tail(self, name: str, lines: int = 25) -> str:
        """Return the end of a process's output."""
        path = self.log_of(name)
        text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
        return "\n".join([f"The end of {path}:", *(f"  {line}" for line in text)])

    def stop(self, grace: float) -> None:
        """Stop all, politely first, and leave none behind, also none that an earlier demo in this folder left."""
        for name, process in self._running.items():
            if name != DATABASE:
                process.terminate()  # the first of each session; it knows how to stop its own children
        self._await_end(grace, self._clients)
        self._kill_leftovers(self._clients)
        self._stop_database()
        for process in self._running.values():
            process.wait()
        self._forget()

    def stop_leftovers(self) -> int:
        """Stop what a killed demo left running in this folder and return how many processes that were."""
        found, clients = self._ours(), self._clients()
        for process in clients:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(clients, timeout=10)
        self._kill_leftovers(self._clients)
        self._stop_database()
        self._forget()
        return len(found)

    def _stop_database(self) -> None:
        """Stop PostgreSQL when nobody uses it any more, so that it writes all it has and starts at once next time."""
        for process in self._ours():
            with contextlib.suppress(psutil.NoSuchProcess):
                # To the server: end sessions and stop; to its other processes: cancel your query.
                process.send_signal(signal.SIGINT)
        self._await_end(10, self._ours)
        self._kill_leftovers(self._ours)

    def _await_end(self, seconds: float, living: Callable[[], list[psutil.Process]]) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for process in self._running.values():
                process.poll()  # reaps it
            if not living():
                return
            time.sleep(0.05)

    def _forget(self) -> None:
        self._running.clear()
        self._sessions.clear()
        self._record.unlink(missing_ok=True)

    def _kill_leftovers(self, living: Callable[[], list[psutil.Process]]) -> None:
        for _ in range(50):
            leftovers = living()
            if not leftovers:
                return
            for process in leftovers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(leftovers, timeout=2)
        raise DemoError(f"These processes cannot be stopped: {', '.join(str(p.pid) for p in leftovers)}")

    def _ours(self) -> list[psutil.Process]:
        """Return the processes that are surely ours: nobody else's are ever touched."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _clients(self) -> list[psutil.Process]:
        """Return all but the database's."""
        return [process for process in self._ours() if not self._is_database(process)]

    def _is_database(self, process: psutil.Process) -> bool:
        try:
            return process.name() == DATABASE and Path(process.cwd()).is_relative_to(self.home)
        except (psutil.Error, OSError):
            return False

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if os.getsid(process.pid) in self._sessions and process.cwd() == self.home:
                return True
            if self._is_database(process):
                return True
            return process.environ().get(MARK) == self.home
        except (psutil.Error, OSError):
            return False  # gone, or somebody else's
