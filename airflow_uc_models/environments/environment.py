"""Which environment a model runs in, and why."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airflow_uc_models.environments.bootstrap import OLDEST
from airflow_uc_models.environments.build import Builder, find_uv, uv_program
from airflow_uc_models.environments.cache import EnvironmentCache
from airflow_uc_models.environments.process import ModelProcess, Start
from airflow_uc_models.environments.requirements import ModelRequirements, read_requirements
from airflow_uc_models.exceptions import InvalidArgumentError, ModelContentError

log = logging.getLogger(__name__)

LOCAL, UV, VIRTUALENV = "local", "uv", "virtualenv"
_MOST_NAMED = 3


@dataclass(frozen=True)
class Environment:
    """Where a model's packages come from.

    :param manager: ``local`` is this worker's own interpreter and packages; ``uv`` and ``virtualenv`` build others
    :param reason: why, in one sentence
    :param label: how messages name the model
    :param requirements: what is built; None for ``local``
    """

    manager: str
    reason: str
    label: str
    requirements: ModelRequirements | None = None

    @property
    def is_local(self) -> bool:
        """Whether the model can run in the task's own process."""
        return self.requirements is None

    @property
    def key(self) -> str | None:
        """What the cache calls it; None for ``local``."""
        return self._builder.key if self.requirements else None

    @property
    def _builder(self) -> Builder:
        assert self.requirements is not None  # noqa: S101 - else nothing is built
        return Builder(self.manager, self.requirements, self.label)

    @contextmanager
    def interpreter(self) -> Iterator[Path]:
        """Have the environment's Python for the time of the block; it is built before, if nobody has done so."""
        if self.requirements is None:
            yield Path(sys.executable)
            return
        with EnvironmentCache.configured().environment(self._builder.key, self._builder.build) as place:
            yield place / "bin" / "python"

    def start(self, python: Path, folder: Path, threads: int | None = None) -> Start:
        """Return how a process of a model is started here.

        :param python: what ``interpreter`` gave
        :param folder: the model's files
        :param threads: how many threads the model's libraries may use
        """
        # What Airflow and Dags add to the path is there for a model in the task's process, too.
        path = sys.path if self.is_local else []
        return Start(python, folder, self.label, path, threads)

    @contextmanager
    def process(self, folder: Path) -> Iterator[ModelProcess]:
        """Have a process with the model for the time of the block.

        Raises: ModelEnvironmentError if the environment cannot be built.
        """
        with self.interpreter() as python, ModelProcess.started(self.start(python, folder)) as process:
            yield process


def environment_of(folder: Path, env_manager: str | None = None, label: str | None = None) -> Environment:
    """Return the environment of a downloaded model, as asked for or by its requirements; builds nothing yet.

    Without ``env_manager`` it is ``local`` if this worker has all that the model asks for, where for a version that is
    pinned its bug fix releases will do, and for mlflow every later one of the same major version; else ``uv``, or
    ``virtualenv`` where uv is missing.

    Raises: ModelContentError if the model asks for what cannot be built; InvalidArgumentError if uv is missing.

    :param folder: holds ``MLmodel``
    :param label: how messages name the model
    """
    label = label or f"the model in {folder}"
    environment = _environment(folder, env_manager, label)
    log.info("Loading %s in the environment %s: %s", label, environment.manager, environment.reason)
    return environment


def _environment(folder: Path, env_manager: str | None, label: str) -> Environment:
    if env_manager == LOCAL:
        return Environment(LOCAL, "env_manager says so", label)
    if env_manager == UV:
        uv_program()
    elif env_manager not in (None, VIRTUALENV):
        raise InvalidArgumentError(f"env_manager must be {LOCAL}, {UV} or {VIRTUALENV}, not {env_manager!r}.")
    requirements = read_requirements(folder, label)
    if requirements is None:
        if env_manager is None:
            return Environment(LOCAL, "the model names no requirements", label)
        raise ModelContentError(
            f"{label} has no requirements.txt, so no environment can be built for it with {env_manager}. Log it with "
            "pip_requirements, or set env_manager='local'."
        )
    if env_manager is not None:
        _check_python(requirements, label)
        return Environment(env_manager, "env_manager says so", label, requirements)
    differences = requirements.differences()
    if not differences:
        return Environment(LOCAL, "this worker has what the model asks for", label)
    _check_python(requirements, label)
    manager = UV if find_uv() else VIRTUALENV
    more = len(differences) - _MOST_NAMED
    told = "; ".join(differences[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return Environment(manager, told, label, requirements)


def _check_python(requirements: ModelRequirements, label: str) -> None:
    """Raise ModelContentError for a Python that is too old to speak with the task."""
    asked = tuple(int(number) for number in requirements.python_minor.split(".") if number.isdigit())
    if len(asked) == len(OLDEST) and asked < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ModelContentError(
            f"{label} asks for Python {requirements.python_minor}, and {oldest} is the oldest for which environments "
            "are built. Log it anew with a newer Python, or set env_manager='local' to try this worker's packages."
        )
