"""What a sensor waits for: a condition decides from observed facts, and travels to a trigger as plain JSON.

Nothing here does I/O or knows Airflow. ``registry/watch.py`` gathers the facts; sensors and triggers act on the
outcome. That a poke and a deferred wait come to the same end follows from both asking the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from airflow_uc_models.conditions.alias import AliasedModelVersion
from airflow_uc_models.conditions.base import Condition, Failed, Met, Outcome, Waiting
from airflow_uc_models.conditions.found import FoundAlready
from airflow_uc_models.conditions.model_version import NewModelVersion, TaggedModelVersion
from airflow_uc_models.conditions.registered_model import NewRegisteredModel
from airflow_uc_models.exceptions import InvalidArgumentError

__all__ = [
    "AliasedModelVersion",
    "Condition",
    "Failed",
    "FoundAlready",
    "Met",
    "NewModelVersion",
    "NewRegisteredModel",
    "Outcome",
    "TaggedModelVersion",
    "Waiting",
    "condition_from_json",
]

_KINDS: dict[str, type[Condition]] = {
    kind.kind: kind
    for kind in (AliasedModelVersion, FoundAlready, NewModelVersion, NewRegisteredModel, TaggedModelVersion)
}


def condition_from_json(value: Mapping[str, Any]) -> Condition:
    """Rebuild a condition; keys that this release does not know are left out.

    Deferred tasks outlive upgrades: what an earlier release stored must still be read, so a kind or a field is
    never renamed, and a new field has a default.
    """
    kind = _KINDS.get(str(value.get("kind")))
    if kind is None:
        raise InvalidArgumentError(f"Unknown condition {value.get('kind')!r}; known are {', '.join(sorted(_KINDS))}.")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: item for key, item in value.items() if key in known})
