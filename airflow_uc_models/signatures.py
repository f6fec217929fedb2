"""Model signatures as MLmodel files hold them, and whether one model can take another's place.

Whoever calls the champion must be able to call the candidate with the same data and read what comes back:

* Inputs: none dropped, none retyped, no required one added, none made required. Optional ones may be added, and a
  type may become wider: ``integer`` to ``long`` or ``double``, ``float`` to ``double``, anything to ``any``. These
  are the conversions that MLflow makes on its own when it checks data against a signature; ``long`` to ``double`` is
  not among them, so a caller that sends whole numbers would be turned away by the candidate.
* Outputs: none dropped, none retyped, not even to a wider type: it would change the tables they are written to.
* Parameters of inference: none dropped, none retyped, wider types as for inputs. Each has a default, so any may be
  added.
* A tensor keeps its element type. A dimension of an input may become free (-1), one of an output may become fixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from airflow_uc_models.exceptions import ModelContentError

# (champion's type, candidate's type): mlflow/models/utils.py, _enforce_mlflow_datatype
_WIDER = {("integer", "long"), ("integer", "double"), ("float", "double")}
_TYPE_KEYS = ("type", "items", "values", "properties", "tensor-spec", "shape")
_MANY = 10


@dataclass(frozen=True, slots=True)
class Field:
    """One input, output or parameter.

    :param name: None for what is known by its position only; a number where the model was trained on an array
    :param type: MLflow's JSON of the type: ``{"type": "double"}``, ``{"type": "array", "items": {...}}``,
        ``{"type": "tensor", "tensor-spec": {...}}`` ...
    :param required: whether a caller must give it
    """

    name: str | int | None
    type: Mapping[str, Any]
    required: bool = True

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """Read one entry of a schema, as any version of MLflow wrote it; raise if it has no type."""
        kind = _kind(entry)
        return cls(entry.get("name"), kind, _is_required(entry))

    @property
    def column(self) -> str | None:
        """The name as a file can have it: that of a model trained on an array may be a whole number."""
        return None if self.name is None else str(self.name)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives; None where the signature says nothing."""

    inputs: tuple[Field, ...] | None = None
    outputs: tuple[Field, ...] | None = None
    params: tuple[Field, ...] | None = None

    @classmethod
    def of_mlmodel(cls, mlmodel: Mapping[str, Any]) -> Self | None:
        """Read the signature of a parsed MLmodel file; None if the model has none.

        Raises: ModelContentError for a signature that is not as MLflow writes it.
        """
        entry = mlmodel.get("signature")
        if not entry:
            return None
        if not isinstance(entry, Mapping):
            raise ModelContentError(f"The signature in the MLmodel file is not a mapping: {entry!r}.")
        parts = {part: _fields(part, entry.get(part)) for part in ("inputs", "outputs", "params")}
        return cls(**parts) if any(parts.values()) else None


def compatible(candidate: Signature | None, champion: Signature | None) -> list[str]:
    """Return what keeps the candidate from taking the champion's place; an empty list if nothing does."""
    if champion is None:
        return []
    if candidate is None:
        return ["the candidate has no signature, the champion has one"]
    return [
        *_inputs(candidate.inputs, champion.inputs),
        *_outputs(candidate.outputs, champion.outputs),
        *_params(candidate.params or (), champion.params or ()),
    ]


def output_problems(predicted: tuple[Field, ...], declared: tuple[Field, ...]) -> list[str]:
    """Return where a prediction is not as a signature says; unlike a candidate's, it may not have more outputs."""
    reasons = _outputs(predicted, declared)
    names = {field.name for field in declared}
    if None not in names:
        reasons += [f"output {field.name!r} is added" for field in predicted if field.name not in {None, *names}]
    elif len(predicted) > len(declared):
        reasons.append(f"there are {len(predicted)} outputs instead of {len(declared)}")
    return reasons


def type_name(kind: Mapping[str, Any]) -> str:
    """Return a type in words, such as ``double``, ``array<long>`` or ``tensor<float32, [-1, 4]>``."""
    match kind["type"]:
        case "array":
            return f"array<{type_name(kind['items'])}>"
        case "map":
            return f"map<{type_name(kind['values'])}>"
        case "object":
            properties = sorted(kind["properties"].items())
            return "object<" + ", ".join(f"{key}: {type_name(item)}" for key, item in properties) + ">"
        case "tensor":
            spec = kind["tensor-spec"]
            return f"tensor<{spec['dtype']}, {list(spec['shape'])}>"
        case name:
            # A parameter's shape is [-1] for a list and null for a single value.
            return f"list<{name}>" if kind.get("shape") else str(name)


def _is_required(entry: Mapping[str, Any]) -> bool:
    """Whether a value must be given; MLflow 2.4 to 2.9 wrote ``optional`` where later versions write ``required``."""
    if entry.get("required") is not None:
        return bool(entry["required"])
    return not entry.get("optional")


def _kind(entry: Any) -> dict[str, Any]:
    """Return a type in MLflow's present JSON, nested ones included; raise if it is no type."""
    kind: dict[str, Any] = {key: entry[key] for key in _TYPE_KEYS if entry.get(key) is not None}
    # MLflow itself still reads parameters that name their type "dtype".
    kind.setdefault("type", entry.get("dtype"))
    if not isinstance(kind["type"], str):
        raise TypeError(f"{dict(entry)!r} has no type")
    for inner in ("items", "values"):
        if inner in kind:
            kind[inner] = _kind(kind[inner])
    if "properties" in kind:
        kind["properties"] = {
            str(name): {**_kind(item), "required": _is_required(item)} for name, item in kind["properties"].items()
        }
    return kind


def _fields(part: str, value: Any) -> tuple[Field, ...] | None:
    """Read one schema: MLflow writes it as a JSON list inside the YAML."""
    try:
        entries = json.loads(value) if isinstance(value, str) else value
        if entries is None:
            return None
        fields = tuple(Field.parse(entry) for entry in entries)
        for field in fields:
            type_name(field.type)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelContentError(f"The {part} of the signature in the MLmodel file cannot be read: {error}.") from error
    return fields


def _inputs(candidate: tuple[Field, ...] | None, champion: tuple[Field, ...] | None) -> list[str]:
    if champion is None:
        return []
    if (reason := _other_form("inputs", candidate, champion)) is not None:
        return [reason]
    new, old = _by_key(candidate or ()), _by_key(champion)
    reasons = [f"input {key} is dropped" for key in old if key not in new]
    for key, field in new.items():
        before = old.get(key)
        if before is None:
            reasons += [f"required input {key} ({type_name(field.type)}) is added"] if field.required else []
        elif not _takes(field.type, before.type):
            reasons.append(_retyped("input", key, field, before))
        elif field.required and not before.required:
            reasons.append(f"input {key} was optional and becomes required")
    return reasons


def _outputs(candidate: tuple[Field, ...] | None, champion: tuple[Field, ...] | None) -> list[str]:
    if champion is None:
        return []
    if (reason := _other_form("outputs", candidate, champion)) is not None:
        return [reason]
    new, old = _by_key(candidate or ()), _by_key(champion)
    reasons = []
    for key, before in old.items():
        if key not in new:
            reasons.append(f"output {key} is dropped")
        elif not _gives(new[key].type, before.type):
            reasons.append(_retyped("output", key, new[key], before))
    return reasons


def _params(candidate: tuple[Field, ...], champion: tuple[Field, ...]) -> list[str]:
    new, old = _by_key(candidate), _by_key(champion)
    reasons = []
    for key, before in old.items():
        if key not in new:
            reasons.append(f"parameter {key} is dropped")
        elif not _takes(new[key].type, before.type):
            reasons.append(_retyped("parameter", key, new[key], before))
    return reasons


def _other_form(part: str, candidate: tuple[Field, ...] | None, champion: tuple[Field, ...]) -> str | None:
    """Say it in one reason, not one per column, if the candidate names its fields otherwise than the champion."""
    if candidate is None:
        return f"the candidate's signature has no {part}, the champion's has {_listed(champion)}"
    named, were_named = ({field.name is not None for field in fields} for fields in (candidate, champion))
    if candidate and champion and named != were_named:
        return f"the {part} change from {_listed(champion)} to {_listed(candidate)}"
    return None


def _takes(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether an input of type ``new`` takes every value of type ``old``."""
    if new["type"] == "any":
        return True
    if new["type"] != old["type"]:
        return (old["type"], new["type"]) in _WIDER and bool(new.get("shape")) == bool(old.get("shape"))
    match new["type"]:
        case "array":
            return _takes(new["items"], old["items"])
        case "map":
            return _takes(new["values"], old["values"])
        case "object":
            return _object_takes(new["properties"], old["properties"])
        case "tensor":
            return _shape_within(old["tensor-spec"], new["tensor-spec"])
    return type_name(new) == type_name(old)


def _object_takes(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether an object of the old properties can be given where the new ones are asked for."""
    if any(key not in new for key in old):
        return False
    return all(
        _takes(item, old[key]) and (old[key].get("required", True) or not item.get("required", True))
        if key in old
        else not item.get("required", True)
        for key, item in new.items()
    )


def _gives(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether whoever reads an output of type ``old`` can read one of type ``new``."""
    if old["type"] == "any":
        return True
    if new["type"] != old["type"]:
        return False
    match new["type"]:
        case "array":
            return _gives(new["items"], old["items"])
        case "map":
            return _gives(new["values"], old["values"])
        case "object":
            return all(
                key in new["properties"] and _gives(new["properties"][key], item)
                for key, item in old["properties"].items()
            )
        case "tensor":
            return _shape_within(new["tensor-spec"], old["tensor-spec"])
    return True


def _shape_within(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> bool:
    """Whether every tensor of the inner type is one of the outer type."""
    if inner["dtype"] != outer["dtype"] or len(inner["shape"]) != len(outer["shape"]):
        return False
    return all(wide in (-1, narrow) for narrow, wide in zip(inner["shape"], outer["shape"], strict=True))


def _retyped(noun: str, key: str, field: Field, before: Field) -> str:
    return f"{noun} {key} changes from {type_name(before.type)} to {type_name(field.type)}"


def _by_key(fields: Iterable[Field]) -> dict[str, Field]:
    """Index fields by name, or by position from 1 where they have none."""
    return {str(i) if f.name is None else repr(f.name): f for i, f in enumerate(fields, 1)}


def _listed(fields: tuple[Field, ...]) -> str:
    """Return fields in words, cut where they are many."""
    words = [f"{type_name(f.type)}" if f.name is None else repr(f.name) for f in fields]
    more = f" and {len(words) - _MANY} more" if len(words) > _MANY else ""
    return (", ".join(words[:_MANY]) or "none") + more
