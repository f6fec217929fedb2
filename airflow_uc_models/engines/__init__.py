"""Where batch inference runs: one module per engine, all given the same job.

An engine is a class with ``check`` (refuse, before any call, what it cannot do), ``run`` and ``cancel``. A new one is
a module here and a line in ``_ENGINES``; the operator stays as it is.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook

_ENGINES = {"local": "LocalEngine"}


@dataclass(frozen=True, slots=True)
class InferenceJob:
    """What is to be scored, whatever the engine.

    :param input: where the rows are
    :param output: where rows and predictions go
    :param input_format: ``parquet`` or ``csv``; None tells it by the file names
    :param batch_size: rows that are predicted at once; None leaves it to the engine
    :param keep_columns: input columns that the output has, too; None for all
    :param signature_required: refuse a model without a signature
    :param key: the task key; marks what an unfinished try leaves behind, so that the next one finds it
    """

    input: str
    output: str
    input_format: str | None = None
    batch_size: int | None = None
    keep_columns: tuple[str, ...] | None = None
    signature_required: bool = True
    key: str = "manual"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a finished job tells."""

    rows: int
    seconds: float


class InferenceEngine(Protocol):
    """What the operator asks of an engine."""

    def check(self, job: InferenceJob) -> None:
        """Raise for what is wrong with the job, as far as that shows without the model."""

    def run(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion) -> Scored:
        """Score all rows with this version; on failure no output appears and an earlier one stays."""

    def cancel(self) -> None:
        """Undo what ``run`` has begun: the task's process is about to be killed. Called in a signal handler."""


def engine_of(name: str) -> InferenceEngine:
    """Return the engine of this name; InvalidArgumentError with the names there are."""
    if name not in _ENGINES:
        raise InvalidArgumentError(f"There is no engine {name!r} for batch inference; there is {', '.join(_ENGINES)}.")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    engine: InferenceEngine = getattr(module, _ENGINES[name])()
    return engine
