"""Creating exactly one version: what makes a retry find its earlier try instead of doing the work twice.

A version carries the tag ``airflow_task_key`` from its create request on. Whoever is about to create looks for
it first, and again when the answer to a create got lost; when two tries raced, the lower number stays.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping

from airflow_uc_models.entities import PENDING_REGISTRATION, ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import AlreadyExistsError, InvalidRequestError, NotFoundError, UnknownEffectError
from airflow_uc_models.names import ModelRef
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call

log = logging.getLogger(__name__)

TASK_KEY_TAG = "airflow_task_key"
_CREATE_TRIES = 5


def task_key(dag_id: str, run_id: str, task_id: str, map_index: int, source: str) -> str:
    """Return the digest that all tries of one task instance share, and no other task instance has."""
    text = "\x1f".join((dag_id, run_id, task_id, str(map_index), source))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def versions_of(registry: Registry, name: str, *, after: int = 0) -> Call[list[ModelVersion]]:
    """Return the versions of a model that are newer than ``after``, newest first."""
    name = registry.normalize(name)
    where = f"name={_quoted(name)}"
    order = None
    if registry.capabilities.version_order:
        order = ["version_number DESC"]
        where += f" and version_number > {after}" if after else ""
    found = yield from registry.search_model_versions(filter_string=where, order_by=order)
    return sorted((v for v in found if v.version > after), key=lambda v: v.version, reverse=True)


def find_by_task_key(registry: Registry, name: str, key: str) -> Call[list[ModelVersion]]:
    """Return the versions that tries of one task instance made, oldest first; none if the model is missing."""
    name = registry.normalize(name)
    if registry.capabilities.tag_search:
        filter_string = f"name={_quoted(name)} and tags.{TASK_KEY_TAG}='{key}'"
        found = yield from registry.search_model_versions(filter_string=filter_string)
        return sorted(found, key=lambda v: v.version)
    # Where search gives no tags each version is read; the newest come first because an earlier try is recent.
    matching = []
    try:
        listed = yield from versions_of(registry, name)
    except NotFoundError:
        return []
    for item in listed:
        version = yield from registry.get_model_version(name, item.version)
        if version.tags.get(TASK_KEY_TAG) == key:
            matching.append(version)
    return matching[::-1]


def create_model_once(
    registry: Registry,
    name: str,
    key: str,
    *,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Call[tuple[RegisteredModel, bool]]:
    """Return the registered model of this name and whether a try of this task instance made it.

    The model carries the task key, so that a retry knows its own work again.
    """
    own = {TASK_KEY_TAG: key} if registry.capabilities.tags else {}
    for attempt in range(1, _CREATE_TRIES + 1):
        try:
            model = yield from registry.create_registered_model(
                name, description=description, tags={**(tags or {}), **own} or None
            )
        except AlreadyExistsError:
            model = yield from registry.get_registered_model(name)
        except UnknownEffectError as lost:
            try:
                model = yield from registry.get_registered_model(name)
            except NotFoundError:
                if attempt < _CREATE_TRIES:
                    continue
                raise lost from None
        else:
            return model, True
        return model, bool(own) and model.tags.get(TASK_KEY_TAG) == key
    raise AssertionError("unreachable")


def ensure_registered_model(registry: Registry, name: str, key: str) -> Call[tuple[RegisteredModel, bool]]:
    """Return the model, creating it where it is missing, and whether a try of this task instance made it."""
    try:
        model = yield from registry.get_registered_model(name)
    except NotFoundError:
        return (yield from create_model_once(registry, name, key))
    return model, model.tags.get(TASK_KEY_TAG) == key


def drop_if_empty(registry: Registry, name: str) -> Call[None]:
    """Delete a registered model that has no version: what a failed first registration left behind."""
    if not (yield from versions_of(registry, name)):
        log.warning("Deleting registered model %s, made for a version that then failed", name)
        yield from registry.delete_registered_model(name)


def create_version_once(
    registry: Registry,
    name: str,
    key: str,
    create: Callable[[], Call[ModelVersion]],
) -> Call[tuple[ModelVersion, bool]]:
    """Return the one version of this task key and whether this call made it.

    :param key: the task key; ``create`` must put it into the tags of its create request
    :param create: makes a new create call each time it is called
    """
    if earlier := (yield from settle(registry, name, key)):
        return earlier, False
    for attempt in range(1, _CREATE_TRIES + 1):
        try:
            made = yield from create()
        except UnknownEffectError:
            if found := (yield from settle(registry, name, key)):
                return found, True
            if attempt == _CREATE_TRIES:
                raise
            log.warning("No answer to the create of a version of %s, and none was made; trying again", name)
            continue
        kept = yield from settle(registry, name, key)
        return (kept, kept.version == made.version) if kept else (made, True)
    raise AssertionError("unreachable")


def settle(registry: Registry, name: str, key: str) -> Call[ModelVersion | None]:
    """Return the one version that tries of this task made, or None; what they left beside it is deleted."""
    found = yield from find_by_task_key(registry, name, key)
    if not found:
        return None
    first, *others = sorted(found, key=lambda v: (v.status == PENDING_REGISTRATION, v.version))
    for version in others:
        log.warning("Deleting %s: another try of this task made %s", version.uri, first.uri)
        try:
            yield from registry.delete_model_version(name, version.version)
        except NotFoundError:
            log.info("It is gone already")
    # Search results lack aliases, and tags in Unity Catalog.
    return (yield from registry.get_model_version(name, first.version))


def _quoted(name: str) -> str:
    """Quote a name for a search filter, whose grammar knows both quotes and no escape."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def resolve(registry: Registry, reference: ModelRef) -> Call[ModelVersion]:
    """Return the version that a reference names, by number or by what its alias says now."""
    name = registry.normalize(reference.name)
    if reference.version is not None:
        return (yield from registry.get_model_version(name, reference.version))
    assert reference.alias is not None  # noqa: S101 - ModelRef has one of the two
    if not registry.capabilities.aliases:
        raise registry.unsupported("aliases", "Name the version by its number.")
    try:
        return (yield from registry.get_model_version_by_alias(name, reference.alias))
    except (NotFoundError, InvalidRequestError):
        # Registries disagree on the answer for an alias that does not exist; the alias map does not.
        model = yield from registry.get_registered_model(name)
        if reference.alias in model.aliases:
            raise
        existing = ", ".join(sorted(model.aliases)) or "none"
    raise NotFoundError(f"Model {name} has no alias {reference.alias!r} (existing: {existing}).")
