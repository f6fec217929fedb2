"""Which flavors a model was saved in, for rules that allow some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PYTHON_FUNCTION = "python_function"


def flavors_of(mlmodel: Mapping[str, Any]) -> frozenset[str]:
    """Return the flavors of a parsed MLmodel file.

    Nearly all models also have the flavor ``python_function``. It counts only where it loads the model by other code
    than that of mlflow's module of another flavor of the same model: there it runs whatever the model's author wrote.
    """
    flavors = mlmodel.get("flavors")
    if not isinstance(flavors, Mapping):
        return frozenset()
    names = {str(name) for name in flavors}
    generic = flavors.get(PYTHON_FUNCTION)
    loader = str(generic.get("loader_module")) if isinstance(generic, Mapping) else ""
    of_others = {f"mlflow.{name}" for name in names - {PYTHON_FUNCTION}}
    return frozenset(names - {PYTHON_FUNCTION} if loader in of_others else names)
