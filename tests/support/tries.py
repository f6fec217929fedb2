"""Two tries of one task instance at once: each in a process of its own, one of them held before a request of its."""

from __future__ import annotations

import json
import logging
import os
import pickle
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from support.contexts import context
from support.proxy import Fault, Proxy, Recorded

# A model that is never loaded: few files make few requests.
MLMODEL = """\
flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.txt
    env: {}
signature:
  inputs: '[{"type": "double", "name": "f0"}]'
  outputs: '[{"type": "long"}]'
"""
PATIENCE = 120  # seconds until a try counts as one that waits for ever


class Gate(Proxy):
    """A proxy that stops before one request and waits until it is told to go on.

    :param at: the number of the request, from 1
    """

    def __init__(self, target: str, at: int) -> None:
        super().__init__(target)
        self.at = at
        self.stopped, self.go_on = threading.Event(), threading.Event()

    def fault_for(self, recorded: Recorded) -> Fault | None:
        """Stop before the request of that number."""
        fault = super().fault_for(recorded)
        with self._lock:
            is_it = not self.stopped.is_set() and len(self.requests) >= self.at
            if is_it:
                self.stopped.set()
        if is_it:
            self.go_on.wait(PATIENCE)
        return fault


@dataclass
class XCom:
    """The XComs of one task instance, which its tries share; in files, as each try is a process."""

    folder: Path

    def push(self, key: str, value: Any) -> None:
        """Keep a value."""
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".", delete=False) as file:
            json.dump(value, file)
        Path(file.name).replace(self.folder / quote(key, safe=""))

    def pull(self, key: str = "return_value", **_: Any) -> Any:
        """Return the value, None if there is none."""
        file = self.folder / quote(key, safe="")
        return json.loads(file.read_text()) if file.exists() else None


@dataclass
class Ended:
    """How a try ended.

    :param error: the error's message, None where the try succeeded
    :param can_retry: whether Airflow would try the task again after this error
    :param events: what the task tells of models
    """

    value: Any = None
    error: str | None = None
    can_retry: bool = True
    kind: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""


@dataclass
class Try:
    """A process that runs one try."""

    pid: int
    pipe: int
    log: Path

    @classmethod
    def start(cls, work: Callable[[], Ended], scratch: Path, environment: dict[str, str]) -> Try:
        """Fork a process that does the work."""
        reader, writer = os.pipe()
        log = scratch / f"try-{time.monotonic_ns()}.log"
        sys.stdout.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads; the child needs none
            pid = os.fork()
        if pid == 0:
            _in_child(work, writer, log, environment)
        os.close(writer)
        return cls(pid, reader, log)

    def has_ended(self) -> bool:
        """Whether the try has said how it ended."""
        return bool(select.select([self.pipe], [], [], 0.005)[0])

    def end(self) -> Ended:
        """Wait for the try and return how it ended."""
        deadline, said = time.monotonic() + PATIENCE, b""
        while time.monotonic() < deadline:
            if select.select([self.pipe], [], [], 1)[0]:
                part = os.read(self.pipe, 1 << 16)
                if not part:
                    break
                said += part
        else:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.pipe)
        os.waitpid(self.pid, 0)
        log = self.log.read_text()
        assert said, f"the try waits for ever, or died: {log}"
        ended: Ended = pickle.loads(said)
        ended.log = log
        return ended


def _in_child(work: Callable[[], Ended], writer: int, log: Path, environment: dict[str, str]) -> None:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(environment)
        file = os.open(log, os.O_WRONLY | os.O_CREAT)
        for number in (1, 2):
            os.dup2(file, number)
        root = logging.getLogger()
        root.handlers = [logging.StreamHandler(os.fdopen(os.dup(file), "w", buffering=1))]
        root.setLevel(logging.INFO)
        ended = work()
        said = pickle.dumps(ended)
        while said:
            said = said[os.write(writer, said) :]
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(0)  # nothing of the parent's is to be torn down here


class _Outlets:
    """Takes what is told of any asset."""

    def __getitem__(self, _: Any) -> Any:
        return SimpleNamespace(extra={}, add=lambda *_, **__: None)


def run_try(make: Callable[[], Any], number: int, xcom: XCom, **more: Any) -> Ended:
    """Run a try of the operator that ``make`` returns, in this process."""
    from airflow.sdk.exceptions import AirflowException

    from airflow_uc_models.compat import AirflowFailException

    operator = make()
    of_task = context(operator, number, outlet_events=_Outlets(), **more)
    of_task["ti"].xcom_push, of_task["ti"].xcom_pull = xcom.push, xcom.pull
    of_task["ti"].task_id = "task"
    ended = Ended()
    try:
        value = operator.execute(of_task)
        ended.value = json.loads(json.dumps(value, default=str))
        xcom.push("return_value", ended.value)
    except Exception as error:
        ended.error, ended.kind = str(error) or type(error).__name__, type(error).__name__
        ended.can_retry = not isinstance(error, AirflowFailException) and isinstance(
            error, AirflowException | Exception
        )
    ended.events = [event.to_json() for event, *_ in getattr(operator, "_told", None) or []]
    return ended


@dataclass
class Race:
    """Two tries of one task instance, and the server that they use.

    :param url: of the server
    :param connection: a connection in JSON to the server at a URL
    :param conn_id: the connection's id
    """

    url: str
    connection: Callable[[str], str]
    conn_id: str
    scratch: Path

    def run(
        self, make: Callable[[], Any], *, held: int, at: int, meanwhile: Callable[[], Any] | None = None
    ) -> tuple[Ended, Ended | None]:
        """Hold one try before a request, let the other one run to its end, then let the first one go on.

        :param held: the number of the try that is held, 1 or 2
        :param at: the number of the request
        :param meanwhile: what else happens when the other one has ended
        :return: how the held one and the other one ended; None for the other where the first had fewer requests
        """
        xcom = self._xcom()
        with self._gate(at) as gate:
            first = self._start(make, held, xcom, gate.url)
            while not gate.stopped.is_set() and not first.has_ended():
                gate.stopped.wait(0.02)
            other = None
            if gate.stopped.is_set():
                other = self._start(make, 3 - held, xcom, self.url).end()
                if meanwhile:
                    meanwhile()
            gate.go_on.set()
            return first.end(), other

    def alone(self, make: Callable[[], Any], number: int = 1) -> Ended:
        """Run one try in this process, and return how it ended: what it imports need not be imported by each other."""
        return run_try(make, number, self._xcom())

    def _xcom(self) -> XCom:
        return XCom(Path(tempfile.mkdtemp(dir=self.scratch, prefix="xcom-")))

    def _start(self, make: Callable[[], Any], number: int, xcom: XCom, url: str) -> Try:
        environment = {f"AIRFLOW_CONN_{self.conn_id.upper()}": self.connection(url)}
        return Try.start(lambda: run_try(make, number, xcom), self.scratch, environment)

    @contextmanager
    def _gate(self, at: int) -> Iterator[Gate]:
        gate = Gate(self.url, at)
        with gate:
            try:
                yield gate
            finally:
                gate.go_on.set()
