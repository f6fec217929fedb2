"""The side of the task: a process that runs a model in its environment, and calls to it."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from airflow_uc_models import exceptions
from airflow_uc_models.environments import bootstrap
from airflow_uc_models.environments.build import scrubbed
from airflow_uc_models.environments.messages import Message, receive, send
from airflow_uc_models.environments.scoring import Asked, Predicted
from airflow_uc_models.exceptions import ModelEnvironmentError, PredictionError, UCModelsError
from airflow_uc_models.scratch import scratch_folder

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)
# What the model's process prints, line by line.
model_log = logging.getLogger(f"{__name__}.output")

_LAST_LINES = 15
_PATIENCE = 10.0
# Credentials of package indexes.
_OF_BUILDS = ("UV_", "PIP_")
_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """How to start a model's process.

    :param python: the interpreter of the environment
    :param folder: the model's files
    :param label: how messages name the model
    :param path: folders from which modules are imported before the environment's own
    :param threads: how many threads the libraries of the model may use; None leaves it to them
    """

    python: Path
    folder: Path
    label: str
    path: Sequence[str] = ()
    threads: int | None = None

    def variables(self) -> dict[str, str]:
        """Return the environment variables of the process: no credentials that this package knows of."""
        given = {name: value for name, value in scrubbed(os.environ).items() if not name.startswith(_OF_BUILDS)}
        if self.path:
            given["PYTHONPATH"] = os.pathsep.join(self.path)
        if self.threads is not None:
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                given.setdefault(name, str(self.threads))
        return given | {"PYTHONUNBUFFERED": "1"}


class ModelProcess:
    """A running process of a model: calls are answered one by one, in their order.

    What it prints goes to the task's log. It ends with the task, however that ends; on Linux with the thread that has
    started it, so start it in one that stays.
    """

    def __init__(self, start: Start, working_folder: str) -> None:
        self.label = start.label
        (requests, to_model), (from_model, responses) = _pipe(), _pipe()
        self._requests: IO[bytes] = os.fdopen(to_model, "wb")
        self._responses: IO[bytes] = os.fdopen(from_model, "rb")
        try:
            self._process = subprocess.Popen(
                _command(start, requests, responses),
                cwd=working_folder,
                env=start.variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[requests, responses],
            )
        except OSError as error:
            self._requests.close()
            self._responses.close()
            raise ModelEnvironmentError(f"The process of {self.label} cannot be started: {error}") from error
        finally:
            os.close(requests)
            os.close(responses)
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="to-model")
        self._receiver = ThreadPoolExecutor(1, thread_name_prefix="from-model")

    @classmethod
    @contextmanager
    def started(cls, start: Start) -> Iterator[ModelProcess]:
        """Have a process for the time of the block; it may still be loading the model."""
        with scratch_folder("process") as working_folder:
            process = cls(start, str(working_folder))
            try:
                yield process
                process.finish()
            finally:
                process.kill()
                process.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def submit(
        self, function: str, arguments: Mapping[str, Any] | None = None, batches: Sequence[pa.RecordBatch] = ()
    ) -> Future[Message]:
        """Have one of ``worker.FUNCTIONS`` called; what it raises is raised by the Future's ``result``.

        ``result().head`` is what the function returns as JSON, ``result().batches`` are its record batches.

        Raises, through the Future: the error of this package that the function raised, PredictionError for any other,
        and if the process has died.
        """
        sent = self._sender.submit(
            send, self._requests, Message({"function": function, "arguments": dict(arguments or {})}, batches)
        )
        return self._receiver.submit(self._answer, sent)

    def call(
        self, function: str, arguments: Mapping[str, Any] | None = None, batches: Sequence[pa.RecordBatch] = ()
    ) -> Mapping[str, Any]:
        """Call a function as ``submit`` does, wait, and return its JSON."""
        return self.submit(function, arguments, batches).result().head

    def submit_rows(self, rows: pa.RecordBatch, asked: Asked) -> Future[Predicted]:
        """Have rows predicted that fit the model's signature."""
        answer = self.submit("predict", asked.to_json(), [rows])
        return _mapped(answer)

    def predict(self, rows: pa.RecordBatch, asked: Asked | None = None) -> pa.RecordBatch:
        """Predict rows that fit the signature; returns one column ``prediction``, or several with their names."""
        predicted = self.submit_rows(rows, asked or Asked()).result()
        assert predicted.columns is not None  # noqa: S101 - without quarantine there are all rows or an error
        return predicted.columns

    def release(self) -> None:
        """Tell the process that there will be no more calls, so that it ends by itself."""
        self._sender.shutdown()
        with suppress(BrokenPipeError):
            self._requests.close()

    def finish(self) -> None:
        """Let the process end by itself."""
        self.release()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)

    def kill(self) -> None:
        """End the process and what it started, now. Safe in a signal handler."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release what the ended process leaves."""
        self._process.wait()
        self._sender.shutdown(cancel_futures=True)
        self._receiver.shutdown(cancel_futures=True)
        with suppress(BrokenPipeError):
            self._requests.close()
        self._responses.close()
        self._listener.join(_PATIENCE)

    def _answer(self, sent: Future[None]) -> Message:
        answer = receive(self._responses)
        if answer is None:
            raise self._death()
        with suppress(BrokenPipeError):
            sent.result()
        if "error" in answer.head:
            raise self._error(answer.head)
        return Message(answer.head["result"], answer.batches)

    def _error(self, head: Mapping[str, Any]) -> UCModelsError:
        """Return what the function raised: an error of this package as it was."""
        kind = getattr(exceptions, head["error"], None)
        if isinstance(kind, type) and issubclass(kind, UCModelsError):
            return kind(head["text"])
        log.info("In the process of %s:\n%s", self.label, head["traceback"].rstrip())
        return PredictionError(f"{head['error']}: {head['text']}")

    def _death(self) -> UCModelsError:
        """Return how the process ended, for which nobody asked it."""
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return ModelEnvironmentError(f"The process of {self.label} has closed its pipe.")
        self._listener.join(_PATIENCE)
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += ", as happens where memory runs out" if code == -signal.SIGKILL else ""
        last = "".join(f"\n  {line}" for line in self._last_lines) or " none"
        return ModelEnvironmentError(f"The process of {self.label} {how}. Its last lines:{last}")

    def _listen(self) -> None:
        """Log what the process prints."""
        output = self._process.stdout
        assert output is not None  # noqa: S101 - it is a pipe
        with output:
            for line in output:
                text = line.decode(errors="replace").rstrip()
                self._last_lines.append(text)
                relay(text)


_MLFLOW_LINE = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING) (.*)")
_PYTHON_WARNING = re.compile(r"\S+:\d+: \w*Warning: ")
_relayed: set[str] = set()


def relay(line: str) -> None:
    """Log a line that a model's process has printed: of mlflow's only warnings, and each of these once in a task.

    An evaluation goes through the same code for the candidate, the champion and each slice, and warns each time.
    """
    by_mlflow = _MLFLOW_LINE.match(line)
    if by_mlflow and by_mlflow[1] != "WARNING":
        model_log.debug("%s", line)
        return
    if not (by_mlflow or _PYTHON_WARNING.match(line)):
        # Python quotes the line of code below a warning.
        model_log.log(logging.DEBUG if line.startswith("  ") and "warn" in line else logging.INFO, "%s", line)
        return
    text = by_mlflow[2] if by_mlflow else line
    if text not in _relayed:
        _relayed.add(text)
        model_log.warning("%s", line)


def _command(start: Start, requests: int, responses: int) -> list[str]:
    pipes = ["--requests", str(requests), "--responses", str(responses), "--parent", str(os.getpid())]
    return [str(start.python), bootstrap.__file__, *pipes, "--folder", str(start.folder), "--label", start.label]


def _pipe() -> tuple[int, int]:
    """Return the ends of a new pipe, to read and to write, large enough to lose no time on."""
    reading, writing = os.pipe()
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def _mapped(answer: Future[Message]) -> Future[Predicted]:
    """Return a Future of the answer's content."""
    mapped: Future[Predicted] = Future()

    def done(finished: Future[Message]) -> None:
        if error := finished.exception():
            mapped.set_exception(error)
        else:
            message = finished.result()
            bad = [(index, reason) for index, reason in message.head["bad"]]
            mapped.set_result(Predicted(message.batches[0] if message.batches else None, bad))

    answer.add_done_callback(done)
    return mapped
