"""Parameters of inference: what a signature allows, checked before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.signatures import Field, Signature, type_name

# What MLflow converts on its own (mlflow/models/utils.py, _enforce_param_datatype).
_TAKES: Mapping[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "string": (str,),
    "datetime": (str,),
}


class RenderedText(str):
    """What a template has rendered to: text, also where a number is meant."""


def checked_params(signature: Signature | None, params: Mapping[str, Any] | None, label: str) -> dict[str, Any] | None:
    """Return the parameters as the model takes them; InvalidArgumentError lists all that the signature does not allow.

    :param label: how messages name the model
    """
    if not params:
        return None
    known = {field.column: field for field in (signature.params if signature else None) or ()}
    if not known:
        raise InvalidArgumentError(
            f"{label} takes no params: its signature has none. Log the model with them, or leave out {_listed(params)}."
        )
    problems, given = [], {}
    for name, value in params.items():
        field = known.get(name)
        if field is None:
            problems.append(f"there is no parameter {name!r}; the signature has {_listed(known)}")
            continue
        given[name] = _meant(value, field)
        if not _fits(given[name], field):
            problems.append(f"{name!r} must be {type_name(field.type)}, not {type(value).__name__}")
    if problems:
        raise InvalidArgumentError(f"The params do not fit {label}: {'; '.join(problems)}.")
    return given


def _meant(value: Any, field: Field) -> Any:
    """Return what a rendered template means for this parameter."""
    if isinstance(value, date):  # a datetime, too; what is sent elsewhere is JSON
        return value.isoformat()
    if not isinstance(value, RenderedText):
        return value
    if field.type["type"] in ("string", "datetime") and not field.type.get("shape"):
        return str(value)
    try:
        return json.loads(value.lower() if value in ("True", "False", "None") else value.replace("'", '"'))
    except ValueError:
        return str(value)


def _fits(value: Any, field: Field) -> bool:
    if value is None:
        return True
    if field.type.get("shape"):
        return isinstance(value, (list, tuple)) and all(_is_of(item, field.type["type"]) for item in value)
    return _is_of(value, field.type["type"])


def _is_of(value: Any, kind: str) -> bool:
    if kind == "object":
        return isinstance(value, Mapping)
    wanted = _TAKES.get(kind)
    if wanted is None:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, int):
        return -(2**31) <= value < 2**31
    return isinstance(value, wanted)


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
