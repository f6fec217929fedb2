"""From a condition to its outcome: gathers the facts that the condition asks for, and no others."""

from __future__ import annotations

import time

from airflow_uc_models.conditions import Condition, Met, NewModelVersion, Outcome, Waiting
from airflow_uc_models.entities import ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import NotFoundError
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.registration import versions_of


def evaluate(registry: Registry, condition: Condition) -> Call[Outcome]:
    """Return how a condition stands now.

    What waiting cannot mend is raised (a missing privilege, refused credentials) or comes back as Failed.
    """
    if isinstance(condition, NewModelVersion):
        return (yield from _new_model_version(registry, condition))
    raise TypeError(f"No facts are known for {type(condition).__name__}")


def _new_model_version(registry: Registry, condition: NewModelVersion) -> Call[Outcome]:
    if condition.alias is not None and not registry.capabilities.aliases:
        raise registry.unsupported("aliases", "Leave out the alias.")
    if condition.tags:
        registry.tag_rules()
    # Search answers with an empty list where the model is missing, so the model itself is asked for.
    try:
        model = yield from registry.get_registered_model(condition.model_name)
    except NotFoundError:
        return condition.decide(None, [], time.time())
    versions = yield from _candidates(registry, condition, model)
    outcome = condition.decide(model, versions, time.time())
    if not isinstance(outcome, Met):
        return outcome
    # Search results lack aliases, and tags in Unity Catalog.
    version = yield from _read(registry, condition.model_name, outcome.version.version)
    return Met(version) if version else Waiting(f"{outcome.version.uri} has just been deleted.")


def _candidates(registry: Registry, condition: NewModelVersion, model: RegisteredModel) -> Call[list[ModelVersion]]:
    if condition.alias is not None:
        number = model.aliases.get(condition.alias, 0)
        return (yield from _read_all(registry, condition, [number] if number > condition.after else []))
    try:
        found = yield from versions_of(registry, condition.model_name, after=condition.after)
    except NotFoundError:
        return []  # deleted since; the next look finds it missing
    if condition.tags and not registry.capabilities.tag_search:
        return (yield from _read_all(registry, condition, [v.version for v in found]))
    return found


def _read_all(registry: Registry, condition: NewModelVersion, numbers: list[int]) -> Call[list[ModelVersion]]:
    versions = []
    for number in numbers:
        version = yield from _read(registry, condition.model_name, number)
        if version is not None:
            versions.append(version)
    return versions


def _read(registry: Registry, name: str, number: int) -> Call[ModelVersion | None]:
    """Return a version, or None if it was deleted since it was listed."""
    try:
        return (yield from registry.get_model_version(name, number))
    except NotFoundError:
        return None
