"""Where batch inference runs: one module per engine, all given the same job.

An engine is a class with ``capabilities``, ``check``, ``start`` and ``cancel``, and ``resume`` where its jobs run
elsewhere. A new one is a module here and a line in ``_ENGINES``; the operator stays as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.job import EngineCapabilities, InferenceJob
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

__all__ = [
    "CsvOptions",
    "Ended",
    "EngineCapabilities",
    "InferenceEngine",
    "InferenceJob",
    "RemoteEngine",
    "Scored",
    "Waiting",
    "engine_of",
]

_ENGINES = {
    "local": "LocalEngine",
    "spark": "SparkEngine",
    "databricks": "DatabricksEngine",
    "ai_query": "AiQueryEngine",
}


@dataclass(frozen=True, slots=True)
class Scored:
    """What a finished job tells.

    :param rows: rows in the output of this run
    :param bad_rows: rows that were put aside
    :param details: what else the engine has to tell, as plain JSON; goes to XCom
    """

    rows: int
    seconds: float
    bad_rows: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The job runs elsewhere; the task may leave its worker until the trigger tells that it has ended.

    :param trigger: yields one event when the job has ended, well or not
    :param state: what ``resume`` needs to know, as plain JSON
    """

    trigger: BaseTrigger
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a Waiting.

    :param state: the one that Waiting had
    :param event: the payload of the trigger's event
    """

    state: Mapping[str, Any]
    event: Mapping[str, Any]


class InferenceEngine(Protocol):
    """What the operator asks of an engine; one that returns Waiting is a RemoteEngine."""

    capabilities: EngineCapabilities

    def check(self, job: InferenceJob) -> None:
        """Raise for what is wrong with the job beyond what ``capabilities`` tell, without the model or any call."""

    def start(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion) -> Scored | Waiting:
        """Score all rows with this version; on failure no output appears and an earlier one stays.

        An engine that scores elsewhere returns Waiting if ``job.deferrable``.
        """

    def cancel(self) -> None:
        """Undo what ``start`` has begun: the task's process is about to be killed. Called in a signal handler."""


class RemoteEngine(InferenceEngine, Protocol):
    """An engine whose jobs run elsewhere, so that the task need not stay."""

    def resume(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion, ended: Ended) -> Scored:
        """Finish a job whose end the trigger of Waiting has told."""


def engine_of(name: str) -> InferenceEngine:
    """Return the engine of this name; InvalidArgumentError with the names there are."""
    if name not in _ENGINES:
        raise InvalidArgumentError(f"There is no engine {name!r} for batch inference; there is {', '.join(_ENGINES)}.")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    engine: InferenceEngine = getattr(module, _ENGINES[name])()
    return engine
