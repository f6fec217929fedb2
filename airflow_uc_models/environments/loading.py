"""Loading a model with pyfunc, and what is wrong where that fails.

Runs in the environment of the model, too, so on any Python from 3.10.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_uc_models.exceptions import ModelContentError, ModelEnvironmentError

PYFUNC = "python_function"
_MOST_TEXT = 1_000
# What is the same at the next try. Other OSErrors may pass: a disk, or the network that a model loads more from.
_LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
# The same of libraries whose errors are no OSErrors.
_PASSING = {"httpx.TransportError", "urllib3.HTTPError", "http.HTTPException", "aiohttp.ClientConnectionError"}
_MOST_CAUSES = 10


def load_pyfunc(folder: Path, label: str) -> Any:
    """Load a downloaded model for prediction.

    Raises: ModelContentError with the cause if it cannot be loaded; ModelEnvironmentError, which is worth a retry, if
    memory, disk or network gave out.

    :param folder: holds ``MLmodel``
    :param label: how messages name the model
    """
    import mlflow.pyfunc

    try:
        return mlflow.pyfunc.load_model(str(folder))
    except (Exception, SystemExit) as error:  # a model's own code may raise anything
        told = f"{type(error).__name__}: {error}"[:_MOST_TEXT]
        if _may_pass(error):
            raise ModelEnvironmentError(f"{label} could not be loaded: {told}") from error
        raise ModelContentError(f"{label} cannot be loaded: {told}. {_advice(folder, error)}") from error


def _may_pass(error: BaseException) -> bool:
    """Whether memory, disk or network gave out, also where a library made an error of its own out of that."""
    found: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if found is None:
            return False
        names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(found).__mro__}
        is_passing = isinstance(found, MemoryError | OSError) and not isinstance(found, _LASTING)
        if is_passing or names & _PASSING:
            return True
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return False


def require_pyfunc(mlmodel: Mapping[str, Any], label: str) -> None:
    """Raise ModelContentError for a model that pyfunc cannot load, as it was saved without that flavor."""
    flavors = mlmodel.get("flavors") or {}
    if PYFUNC not in flavors:
        found = ", ".join(map(str, flavors)) or "none"
        raise ModelContentError(
            f"{label} has no flavor {PYFUNC}, which is what predicts; it has: {found}. "
            "Log it with a flavor of mlflow that writes one, or wrap it in an mlflow.pyfunc.PythonModel."
        )


def _advice(folder: Path, error: BaseException) -> str:
    if isinstance(error, ImportError):
        return (
            f"The model needs {error.name or 'a module'} as it was where the model was saved: its requirements do not "
            "name it, or were not followed (env_manager)."
        )
    import mlflow

    here = f"Python {sys.version.split()[0]} and mlflow {mlflow.__version__}"
    return f"It was saved with {_origin(folder)}, and loaded with {here}."


def _origin(folder: Path) -> str:
    import yaml

    try:
        content = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        python = content["flavors"][PYFUNC].get("python_version", "an unknown version")
        return f"Python {python} and mlflow {content.get('mlflow_version', 'of an unknown version')}"
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return "an unknown Python and mlflow"
