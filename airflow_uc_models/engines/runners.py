"""Where the engine ``local`` runs a model: in the task's process, or in processes of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from airflow_uc_models.environments.cache import EnvironmentCache
from airflow_uc_models.environments.environment import Environment
from airflow_uc_models.environments.process import ModelProcess, Start
from airflow_uc_models.environments.scoring import Asked, Predicted, score
from airflow_uc_models.exceptions import InvalidArgumentError, ModelEnvironmentError

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Predicts batches."""

    @property
    def ahead(self) -> int:
        """How many batches may be on their way while the result of an earlier one is waited for."""

    def submit(self, rows: pa.RecordBatch, asked: Asked) -> Callable[[], Predicted]:
        """Begin with a batch; what is returned waits for its predictions, and raises what the model raised."""


@dataclass(frozen=True, slots=True)
class InProcess:
    """Predicts in this process, when the result is waited for.

    :param predict: the model's, as pyfunc loads it
    """

    predict: Callable[..., Any]

    @property
    def ahead(self) -> int:
        """A batch is predicted when its result is waited for."""
        return 0

    def submit(self, rows: pa.RecordBatch, asked: Asked) -> Callable[[], Predicted]:
        """Return what predicts the batch."""
        return partial(score, self.predict, rows, asked)


@dataclass
class Processes:
    """Predicts in one or several processes that have loaded the model."""

    processes: Sequence[ModelProcess]
    _answers: list[list[Future[Predicted]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._answers = [[] for _ in self.processes]

    @property
    def ahead(self) -> int:
        """One batch is predicted in each, and one is on its way there."""
        return 2 * len(self.processes)

    def submit(self, rows: pa.RecordBatch, asked: Asked) -> Callable[[], Predicted]:
        """Send a batch to the process that has the least to do."""
        self._answers = [[answer for answer in answers if not answer.done()] for answers in self._answers]
        index = min(range(len(self.processes)), key=lambda number: len(self._answers[number]))
        answer = self.processes[index].submit_rows(rows, asked)
        self._answers[index].append(answer)
        return answer.result


@dataclass(frozen=True, slots=True)
class Workers:
    """What processes are started for.

    :param number: how many
    :param folder: where the model's files are, or will be
    :param label: how messages name the model
    :param undo: gets what ends the processes at once
    """

    number: int
    folder: Path
    label: str
    undo: list[Callable[[], None]]

    @property
    def threads(self) -> int | None:
        """How many threads the model's libraries may use in each."""
        return max(1, available_cpus() // self.number) if self.number > 1 else None


@dataclass(frozen=True, slots=True)
class Warmed:
    """Processes that wait for their model, in an environment that an earlier task has built.

    :param key: of the environment
    """

    key: str
    processes: Sequence[ModelProcess]


@contextmanager
def warmed(about: str, workers: Workers) -> Iterator[Warmed | None]:
    """Have processes for the time of the block that import what they need, if it is known where the model runs.

    :param about: the model version; ``remember_environment`` has told its environment
    """
    cache: EnvironmentCache | None = None
    with suppress(InvalidArgumentError):  # no place for environments is told when one is needed
        cache = EnvironmentCache.configured()
    key = cache.recall(about) if cache else None
    with ExitStack() as stack:
        warm = None
        with suppress(ModelEnvironmentError):  # likewise
            if key and cache and (place := stack.enter_context(cache.existing(key))):
                how = Start(place / "bin" / "python", workers.folder, workers.label, threads=workers.threads)
                processes = [stack.enter_context(ModelProcess.started(how)) for _ in range(workers.number)]
                workers.undo.extend(process.kill for process in processes)
                for process in processes:
                    process.submit("warm")
                warm = Warmed(key, processes)
        yield warm


@contextmanager
def processes_of(environment: Environment, workers: Workers, warm: Warmed | None = None) -> Iterator[Processes]:
    """Have processes with the model for the time of the block, in its environment.

    :param warm: are taken if they are in this environment
    """
    with ExitStack() as stack:
        if warm and warm.key == environment.key:
            processes = warm.processes
        else:
            for process in warm.processes if warm else ():
                process.kill()
            python = stack.enter_context(environment.interpreter())
            how = environment.start(python, workers.folder, workers.threads)
            processes = [stack.enter_context(ModelProcess.started(how)) for _ in range(workers.number)]
            workers.undo.extend(process.kill for process in processes)
        for told in [process.submit("load", {"folder": str(workers.folder)}) for process in processes]:
            log.debug("The model is loaded in a process of its own: %s", dict(told.result().head))
        yield Processes(processes)
        for process in processes:  # all at once, as each takes a while to end
            process.release()


def remember_environment(about: str, environment: Environment) -> None:
    """Note where a model version runs, for ``warmed``."""
    if environment.key:
        EnvironmentCache.configured().remember(about, environment.key)


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
