"""From a condition to its outcome: gathers the facts that the condition asks for, and no others."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from airflow_uc_models.conditions import (
    AliasedModelVersion,
    Condition,
    FoundAlready,
    Met,
    NewModelVersion,
    NewRegisteredModel,
    Outcome,
    TaggedModelVersion,
    Waiting,
)
from airflow_uc_models.entities import ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import NotFoundError
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.facts import NO_SCHEMA
from airflow_uc_models.registry.poll import FEW_VERSIONS
from airflow_uc_models.registry.registration import version_if_there, versions_of
from airflow_uc_models.watches import RECONCILE_SECONDS

_NEXT_NUMBERS = 3


@dataclass
class Looked:
    """What one wait remembers of its looks, so that the next one need not list every version again.

    :param newest: the highest version number there was
    :param until: when all versions are listed again: a number that came and went between two looks hides the next one
    """

    newest: int = 0
    until: float = 0.0


def evaluate(registry: Registry, condition: Condition, looked: Looked | None = None) -> Call[Outcome]:
    """Return how a condition stands now.

    What waiting cannot mend is raised (a missing privilege, refused credentials) or comes back as Failed.

    :param looked: the same object at every look of one wait
    """
    if isinstance(condition, NewModelVersion):
        return (yield from _new_model_version(registry, condition, looked or Looked()))
    if isinstance(condition, TaggedModelVersion):
        return (yield from _tagged_model_version(registry, condition))
    if isinstance(condition, AliasedModelVersion):
        return (yield from _aliased_model_version(registry, condition))
    if isinstance(condition, FoundAlready):
        name, number = condition.model_name, condition.version
        found = yield from (_model(registry, name) if number is None else version_if_there(registry, name, number))
        return condition.decide(found)
    if isinstance(condition, NewRegisteredModel):
        return (yield from _new_registered_model(registry, condition))
    raise TypeError(f"No facts are known for {type(condition).__name__}")


# -- a new version


def _new_model_version(registry: Registry, condition: NewModelVersion, looked: Looked) -> Call[Outcome]:
    if condition.alias is not None and not registry.capabilities.aliases:
        raise registry.unsupported("aliases", "Leave out the alias.")
    if condition.tags:
        registry.tag_rules("Leave out the tags.")
    # Search answers with an empty list where the model is missing, so the model itself is asked for.
    model = yield from _model(registry, condition.model_name)
    if model is None:
        return condition.decide(None, [], time.time())
    versions = yield from _candidates(registry, condition, model, looked)
    outcome = condition.decide(model, versions, time.time())
    if not isinstance(outcome, Met):
        return outcome
    # Search results lack aliases, and tags in Unity Catalog.
    version = yield from version_if_there(registry, condition.model_name, outcome.version.version)
    return Met(version) if version else _deleted(outcome)


def _candidates(
    registry: Registry, condition: NewModelVersion, model: RegisteredModel, looked: Looked
) -> Call[list[ModelVersion]]:
    if condition.alias is not None:
        number = model.aliases.get(condition.alias, 0)
        return (yield from _read_all(registry, condition, [number] if number > condition.after else []))
    now = time.monotonic()
    if now < looked.until and not (yield from _comes_next(registry, condition.model_name, looked.newest)):
        return []
    after = condition.after if registry.capabilities.version_order else 0
    try:
        listed = yield from versions_of(registry, condition.model_name, after=after)
    except NotFoundError:
        return []  # deleted since; the next look finds it missing
    found = [version for version in listed if version.version > condition.after]
    # Where new versions cannot be searched for, the next numbers are asked for, once there was nothing to wait for.
    remember = not found and len(listed) > FEW_VERSIONS
    looked.newest = max((version.version for version in listed), default=0)
    looked.until = now + RECONCILE_SECONDS if remember else 0.0
    if condition.tags and not registry.capabilities.tag_search:
        return (yield from _read_all(registry, condition, [v.version for v in found]))
    return found


def _comes_next(registry: Registry, name: str, newest: int) -> Call[bool]:
    """Whether there is one of the next few numbers; some may have come and gone."""
    for number in range(newest + 1, newest + 1 + _NEXT_NUMBERS):
        if (yield from version_if_there(registry, name, number)) is not None:
            return True
    return False


def _read_all(registry: Registry, condition: NewModelVersion, numbers: list[int]) -> Call[list[ModelVersion]]:
    versions = []
    for number in numbers:
        version = yield from version_if_there(registry, condition.model_name, number)
        if version is not None:
            versions.append(version)
    return versions


# -- a tag


def _tagged_model_version(registry: Registry, condition: TaggedModelVersion) -> Call[Outcome]:
    rules = registry.tag_rules("Wait for new versions with ModelVersionSensor.")
    rules.check_key(condition.tag)
    for value in (*(condition.values or ()), *condition.failed_values):
        rules.check({condition.tag: value})
    number = condition.version
    if condition.alias is not None:
        registry.expect_aliases()
        # Registries disagree on the answer for an alias that does not exist; the alias map does not.
        model = yield from _model(registry, condition.model_name)
        number = model.aliases.get(condition.alias) if model else None
    if number is None:
        return condition.decide(None)
    version = yield from version_if_there(registry, condition.model_name, number)
    if version is None and condition.alias is not None:
        # It went in the midst of this look, and the next look finds where the alias went; or it went long ago: MLflow
        # servers before 3.17 leave the aliases of a deleted version behind.
        model = yield from _model(registry, condition.model_name)
        if model is None or model.aliases.get(condition.alias) != number:
            return Waiting(f"Version {number} of {condition.model_name} has just been deleted.")
    return condition.decide(version)


# -- an alias


def _aliased_model_version(registry: Registry, condition: AliasedModelVersion) -> Call[Outcome]:
    if not registry.capabilities.aliases:
        raise registry.unsupported("aliases", "Wait for new versions with ModelVersionSensor.")
    model = yield from _model(registry, condition.model_name)
    number = condition.target(model) if model else None
    # A version that was deleted meanwhile takes its aliases with it, which the next look finds.
    version = None if number is None else (yield from version_if_there(registry, condition.model_name, number))
    return condition.decide(model, version)


# -- a registered model


def _new_registered_model(registry: Registry, condition: NewRegisteredModel) -> Call[Outcome]:
    if condition.model_name is not None:
        try:
            model = yield from registry.get_registered_model(condition.model_name)
        except NotFoundError as error:
            return condition.decide(None if error.error_code in NO_SCHEMA else [])
        return condition.decide([model])
    try:
        models = yield from registry.search_registered_models(schema=condition.schema)
    except NotFoundError:
        return condition.decide(None)
    outcome = condition.decide(models)
    if not isinstance(outcome, Met):
        return outcome
    # Search results lack aliases, and tags in Unity Catalog. The time stays the one that the next look compares with.
    listed = outcome.entity
    found = yield from _model(registry, listed.name)
    return Met(replace(found, created_at=listed.created_at)) if found else _deleted(outcome)


# -- the parts


def _model(registry: Registry, name: str) -> Call[RegisteredModel | None]:
    """Return a model, or None if there is none."""
    try:
        return (yield from registry.get_registered_model(name))
    except NotFoundError:
        return None


def _deleted(outcome: Met) -> Waiting:
    """Say that what was listed is gone."""
    return Waiting(f"{outcome.entity.uri} has just been deleted.")
