"""Version numbers that two versions share, and names that two models share.

The open-source Unity Catalog server gives a number out twice if two creates come at the same moment, or if one of them
is slow. Each call on a number then reaches one of the versions, and lists have both. What tells them apart is where
their files are stored. So whoever made a version asks, before any file is uploaded and again before the version is
finalized, which version its number reaches and which ones have it. If the number is not its own, the version is
deleted, provided that the number reaches it and not the other, and made again under the next number. Only its maker
ever deletes a version, so that no call meant for one reaches the other.

* A twin may still appear between the last look and the finalize request, which then reaches it. The answer shows
  that: the twin, whose maker has not uploaded anything yet, is deleted, and so is the version itself.
* As long as both exist, all calls on the number must reach the same one, as they do on the server's own database.
* A version that stays PENDING_REGISTRATION may remain, out of reach until the other ones of its number are deleted;
  of three that share it, where the makers of two were killed, it may come to hide the third.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import ConflictError, NotFoundError, UnknownEffectError
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call

log = logging.getLogger(__name__)

_LOOKS = 3


def is_same(one: ModelVersion, other: ModelVersion) -> bool:
    """Whether two answers are about the same version, whatever its number."""
    return (one.version, one.storage_location) == (other.version, other.storage_location)


def claim(registry: Registry, version: ModelVersion) -> Call[bool]:
    """Return whether this version has its number to itself; if not, it is deleted if it can be."""
    if registry.capabilities.unique_versions:
        return True
    for _ in range(_LOOKS):
        reached = yield from _reached(registry, version)
        sharing = yield from registry.model_versions_numbered(version.name, version.version)
        is_reached = reached is not None and is_same(reached, version)
        if is_reached and [is_same(v, version) for v in sharing] == [True]:
            return True
        if not is_reached and not any(is_same(v, version) for v in sharing):
            log.warning("%s is gone: somebody deleted that number", version.uri)
            return False
        if is_reached and (yield from delete_own(registry, version)):
            log.warning("The number of %s was given out twice; making another version", version.uri)
            return False
    log.warning("The number of %s was given out twice; one of the two stays pending and can't be deleted", version.uri)
    return False


def delete_own(registry: Registry, version: ModelVersion) -> Call[bool]:
    """Delete this version and return True; False if its number reaches another one, which is left alone."""
    if registry.capabilities.unique_versions:
        yield from registry.delete_model_version(version.name, version.version)
        return True
    for looks_left in reversed(range(_LOOKS)):
        reached = yield from _reached(registry, version)
        if reached is None:
            return True
        if not is_same(reached, version):
            return False
        try:
            # A request sent again, as its answer got lost, would reach the other one.
            yield from _sent_once(registry.delete_model_version(version.name, version.version))
        except NotFoundError:
            return True
        except UnknownEffectError:
            if not looks_left:
                raise
        else:
            return True
    raise AssertionError("unreachable")


def finalize(registry: Registry, version: ModelVersion) -> Call[ModelVersion]:
    """Declare an uploaded version complete and return it.

    Raises: ConflictError if another version has its number, or got it meanwhile.
    """
    if not (yield from claim(registry, version)):
        raise _conflict(version)
    try:
        done = yield from registry.finalize_model_version(version.name, version.version)
    except NotFoundError as error:
        if registry.capabilities.unique_versions:
            raise
        raise _conflict(version) from error
    if registry.capabilities.unique_versions or is_same(done, version):
        return done
    log.warning("%s was given out twice: the other one was finalized, which has no files yet. Deleting it", done.uri)
    yield from delete_own(registry, done)
    raise _conflict(version)


def expect_own(registry: Registry, version: ModelVersion, found: ModelVersion) -> None:
    """Raise ConflictError if what a number reaches is not this version."""
    if not registry.capabilities.unique_versions and not is_same(found, version):
        raise _conflict(version)


def finished(registry: Registry, versions: list[ModelVersion]) -> Call[list[ModelVersion]]:
    """Return the versions that are READY, without any that the maker of an older version of its number finalized.

    That happens by mistake, in ``finalize``; if both tasks are killed then, nobody has taken it back.
    """
    ready = [version for version in versions if version.is_ready]
    if registry.capabilities.unique_versions:
        return ready
    trusted = []
    for version in ready:
        sharing = yield from registry.model_versions_numbered(version.name, version.version)
        if all((other.created_at or 0) >= (version.created_at or 0) for other in sharing):
            trusted.append(version)
    return trusted


def _conflict(version: ModelVersion) -> ConflictError:
    return ConflictError(
        f"{version.uri} is not finished: its number was given to another version, too. Let one task at a time make "
        "versions of a model, such as with a pool of one slot."
    )


def _reached(registry: Registry, version: ModelVersion) -> Call[ModelVersion | None]:
    try:
        return (yield from registry.get_model_version(version.name, version.version))
    except NotFoundError:
        return None


def _sent_once(call: Call[None]) -> Call[None]:
    """Run a call of one request, which must not be sent a second time."""
    response = yield replace(next(call), repeatable=False)
    with suppress(StopIteration):
        call.send(response)
