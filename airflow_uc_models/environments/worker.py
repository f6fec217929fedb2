"""The side of the model: a process that loads it once and answers calls until its task is gone.

Runs in the environment of the model, without Airflow, on any Python from 3.10.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from airflow_uc_models.environments.loading import load_pyfunc
from airflow_uc_models.environments.messages import Message, receive, send

# What a task may have done here: a function of the model, a dict of plain JSON and record batches. It returns a dict,
# or a dict and record batches.
FUNCTIONS = {
    "warm": "airflow_uc_models.environments.worker:warm",
    "load": "airflow_uc_models.environments.worker:load",
    "predict": "airflow_uc_models.environments.scoring:predict",
    "evaluate": "airflow_uc_models.environments.trials:evaluate",
    "smoke_test": "airflow_uc_models.environments.trials:smoke_test",
}
_PR_SET_PDEATHSIG = 1


class LoadedModel:
    """The model of this process.

    :param folder: the model's files
    :param label: how messages name it
    """

    def __init__(self, folder: str, label: str) -> None:
        self.folder, self.label = Path(folder), label
        self._pyfunc: Any = None

    @property
    def pyfunc(self) -> Any:
        """The model, as pyfunc loads it; loaded when it is first asked for."""
        if self._pyfunc is None:
            self._pyfunc = load_pyfunc(self.folder, self.label)
        return self._pyfunc


def warm(model: LoadedModel, arguments: dict[str, Any], batches: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG001
    """Import what every model needs, while its files are not there yet."""
    for name in ("mlflow.pyfunc", "pandas", "pyarrow"):
        importlib.import_module(name)
    return {}


def load(model: LoadedModel, arguments: dict[str, Any], batches: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG001
    """Load the model and tell what with; ModelContentError if it cannot be loaded.

    Arguments: ``folder``, where the model's files are, if not where they were to be when the process was started.
    """
    model.folder = Path(arguments.get("folder") or model.folder)
    import mlflow

    assert model.pyfunc  # noqa: S101 - or it raises
    return {"python": sys.version.split()[0], "mlflow": mlflow.__version__}


def main(arguments: list[str]) -> None:
    """Answer calls from one pipe on another one."""
    parser = argparse.ArgumentParser()
    for name in ("--requests", "--responses", "--parent"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--folder", "--label"):
        parser.add_argument(name, required=True)
    given = parser.parse_args(arguments)
    _die_with(given.parent)
    for pipe in (given.requests, given.responses):  # processes that the model starts must not hold them
        os.set_inheritable(pipe, False)
    calls: queue.Queue[Message | None] = queue.Queue(maxsize=1)
    with os.fdopen(given.requests, "rb") as requests, os.fdopen(given.responses, "wb") as responses:
        threading.Thread(target=_read, args=(requests, calls), daemon=True).start()
        model = LoadedModel(given.folder, given.label)
        while (call := calls.get()) is not None:
            send(responses, _answer(model, call))


def _read(requests: IO[bytes], calls: queue.Queue[Message | None]) -> None:
    """Read ahead, so that the next call is here when the last one is answered."""
    while (call := receive(requests)) is not None:
        calls.put(call)
    calls.put(None)


def _answer(model: LoadedModel, call: Message) -> Message:
    try:
        module, _, name = FUNCTIONS[call.head["function"]].partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        answer = function(model, dict(call.head["arguments"]), call.batches)
        result, batches = answer if isinstance(answer, tuple) else (answer, ())
        head = {"result": result}
        json.dumps(head)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a model may raise anything
        # Without the text: what a model raises may quote rows, and this goes to a log.
        lines = "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__
        return Message({"error": type(error).__name__, "text": str(error), "traceback": lines})
    return Message(head, batches)


def _die_with(parent: int) -> None:
    """End when the task's process ends, even if it is killed while this one computes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
