"""Listing versions by what they are, and deleting those that are no longer needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from airflow_uc_models.entities import FAILED_REGISTRATION, PENDING_REGISTRATION, READY, ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import (
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
    NotFoundError,
    RegistryError,
)
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.registration import versions_of

_STATUSES = (READY, PENDING_REGISTRATION, FAILED_REGISTRATION)


def search_versions(
    registry: Registry, name: str, *, tags: Mapping[str, str] | None = None, status: str | None = None
) -> Call[list[ModelVersion]]:
    """Return versions newest first, with their aliases; a missing model is an error, not an empty list.

    :param tags: only versions with all of these tags
    :param status: only versions of this status
    """
    if status is not None and status not in _STATUSES:
        raise InvalidArgumentError(f"status is one of {', '.join(_STATUSES)}, not {status!r}.")
    if tags:
        registry.tag_rules("Leave out the tags.").check(tags)
    model = yield from registry.get_registered_model(name)
    found = []
    for hit in (yield from versions_of(registry, model.name)):
        if status is not None and hit.status != status:
            continue
        version = hit
        if tags and not registry.capabilities.tag_search:
            version = yield from registry.get_model_version(model.name, hit.version)
        if tags and not tags.items() <= version.tags.items():
            continue
        found.append(replace(version, aliases=[a for a, v in model.aliases.items() if v == version.version]))
    return found


def delete_model(registry: Registry, name: str) -> Call[None]:
    """Delete a registered model, and where two have the name both; RegistryError if one of that name is left."""

    def find() -> Call[list[RegisteredModel]]:
        return registry.registered_models_named(name)

    def delete() -> Call[None]:
        return _delete_model(registry, name)

    yield from _delete_every(registry, find, delete, f"registered model {name}")


def _delete_every(
    registry: Registry, find: Callable[[], Call[list[Any]]], delete: Callable[[], Call[None]], what: str
) -> Call[None]:
    """Delete all that share a name or number; once where the registry gives none twice."""
    if registry.capabilities.unique_versions:
        return (yield from delete())
    there = yield from find()
    yield from delete()
    for _ in there[1:]:
        with suppress(NotFoundError):
            yield from delete()
    if (yield from find()):
        raise RegistryError(
            f"The {registry.capabilities.label} deleted {what}, and there is one all the same: it was made again "
            "meanwhile. Delete it again if it has to go, too."
        )


def _delete_model(registry: Registry, name: str) -> Call[None]:
    """Delete a model; where the registry refuses because of its versions, they are deleted first."""
    try:
        yield from registry.delete_registered_model(name)
    except (InvalidRequestError, ConflictError):
        versions = yield from versions_of(registry, name)
        if not versions:
            raise
        for version in versions:
            with suppress(NotFoundError):
                yield from _delete_version(registry, name, version.version)
        yield from registry.delete_registered_model(name)


def delete_one(
    registry: Registry, name: str, version: int, *, even_if_aliased: bool = False, missing_ok: bool = False
) -> Call[list[int]]:
    """Delete one version and return it in a list; an empty list where it is missing and that is accepted."""
    model = yield from registry.get_registered_model(name)
    aliases = sorted(alias for alias, at in model.aliases.items() if at == version)
    if aliases and not even_if_aliased:
        raise InvalidArgumentError(
            f"Version {version} of {name} was not deleted: {', '.join(map(repr, aliases))} points to it. Move the "
            "alias first, or set even_if_aliased=True to delete both."
        )
    for alias in aliases:
        # MLflow servers before 3.5 leave them behind, pointing to nothing.
        yield from registry.delete_registered_model_alias(name, alias)
    try:
        yield from _delete_version(registry, name, version)
    except NotFoundError:
        if not missing_ok:
            raise
        return []
    return [version]


def delete_older(registry: Registry, name: str, keep_last: int) -> Call[list[int]]:
    """Delete all but the newest READY versions, those with an alias, and those still being registered."""
    versions = yield from search_versions(registry, name)
    ready = [v.version for v in versions if v.is_ready]
    if len(ready) <= keep_last:
        return []
    oldest_kept = ready[keep_last - 1]
    deleted: list[int] = []
    for version in reversed(versions):
        if version.version >= oldest_kept or version.status == PENDING_REGISTRATION:
            continue
        # An alias may have been set since: ask anew each time, as a deletion takes aliases along.
        model = yield from registry.get_registered_model(name)
        if version.version in model.aliases.values():
            continue
        try:
            yield from _delete_version(registry, name, version.version)
        except NotFoundError:
            continue
        deleted.append(version.version)
    return deleted


def _delete_version(registry: Registry, name: str, version: int) -> Call[None]:
    """Delete the version of a number, and where two have the number both."""

    def find() -> Call[list[ModelVersion]]:
        return registry.model_versions_numbered(name, version)

    def delete() -> Call[None]:
        return registry.delete_model_version(name, version)

    yield from _delete_every(registry, find, delete, f"version {version} of {name}")
