"""Creating exactly one version: what makes a retry find its earlier try instead of doing the work twice.

A version carries the tag ``airflow_task_key`` from its create request on. Whoever is about to create looks for
it first, and again when the answer to a create got lost; when two tries raced, the lower number stays.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping

from airflow_uc_models.entities import PENDING_REGISTRATION, ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import AlreadyExistsError, NotFoundError, UnknownEffectError
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call

log = logging.getLogger(__name__)

TASK_KEY_TAG = "airflow_task_key"
_CREATE_TRIES = 5


def task_key(dag_id: str, run_id: str, task_id: str, map_index: int, source: str) -> str:
    """Return the digest that all tries of one task instance share, and no other task instance has."""
    text = "\x1f".join((dag_id, run_id, task_id, str(map_index), source))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def versions_of(registry: Registry, name: str) -> Call[list[ModelVersion]]:
    """Return all versions of a model, newest first."""
    name = registry.normalize(name)
    order = ["version_number DESC"] if registry.capabilities.version_order else None
    found = yield from registry.search_model_versions(filter_string=f"name={_quoted(name)}", order_by=order)
    return sorted(found, key=lambda v: v.version, reverse=True)


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


def ensure_registered_model(
    registry: Registry,
    name: str,
    *,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Call[tuple[RegisteredModel, bool]]:
    """Return the model and whether this call made it."""
    try:
        return (yield from registry.get_registered_model(name)), False
    except NotFoundError:
        pass
    try:
        return (yield from registry.create_registered_model(name, description=description, tags=tags)), True
    except (AlreadyExistsError, UnknownEffectError):
        # Somebody else was faster, or the answer got lost.
        return (yield from registry.get_registered_model(name)), False


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
    if earlier := (yield from _settle(registry, name, key)):
        return earlier, False
    for attempt in range(1, _CREATE_TRIES + 1):
        try:
            made = yield from create()
        except UnknownEffectError:
            if found := (yield from _settle(registry, name, key)):
                return found, True
            if attempt == _CREATE_TRIES:
                raise
            log.warning("No answer to the create of a version of %s, and none was made; trying again", name)
            continue
        kept = yield from _settle(registry, name, key)
        return (kept, kept.version == made.version) if kept else (made, True)
    raise AssertionError("unreachable")


def _settle(registry: Registry, name: str, key: str) -> Call[ModelVersion | None]:
    """Return the oldest version of this key, deleting what other tries left beside it."""
    found = yield from find_by_task_key(registry, name, key)
    if not found:
        return None
    first, *others = sorted(found, key=lambda v: (v.status == PENDING_REGISTRATION, v.version))
    for version in others:
        log.warning("Deleting version %s of %s: another try of this task made version %s", version.version, name, first)
        try:
            yield from registry.delete_model_version(name, version.version)
        except NotFoundError:
            log.info("It is gone already")
    # Search results lack aliases, and tags in Unity Catalog.
    return (yield from registry.get_model_version(name, first.version))


def _quoted(name: str) -> str:
    """Quote a name for a search filter, whose grammar knows both quotes and no escape."""
    return f'"{name}"' if "'" in name else f"'{name}'"
