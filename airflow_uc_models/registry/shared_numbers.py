"""Version numbers that two versions share.

The open-source Unity Catalog server gives a number out twice if two creates come at the same moment. Each call on a
number then reaches one of the versions, and nothing tells which; the other is out of reach. What tells them apart is
where their files lie. So whoever made a version looks, before any file is uploaded and again before the version is
declared complete, whether its number is its own. If it is not, the version is deleted, provided that the number
reaches it and not the other, and made again under the next number. The one thing that can remain is a version of that
number that stays PENDING_REGISTRATION, out of reach until the other one is deleted.
"""

from __future__ import annotations

import logging

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import NotFoundError
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call

log = logging.getLogger(__name__)

_LOOKS = 3


def is_same(one: ModelVersion, other: ModelVersion) -> bool:
    """Whether two answers are about the same version, whatever its number."""
    return (one.version, one.storage_location) == (other.version, other.storage_location)


def claim(registry: Registry, version: ModelVersion) -> Call[bool]:
    """Return whether this version has its number for itself; where not, it is deleted if it can be."""
    if registry.capabilities.unique_versions:
        return True
    for _ in range(_LOOKS):
        listed = yield from registry.search_model_versions(filter_string=f"name='{version.name}'")
        sharing = [v for v in listed if v.version == version.version]
        if not any(is_same(v, version) for v in sharing):
            log.warning("%s is gone: somebody deleted that number", version.uri)
            return False
        if len(sharing) == 1:
            return True
        if (yield from delete_own(registry, version)):
            log.warning("The number of %s was given out twice; making another version", version.uri)
            return False
    log.warning("The number of %s was given out twice; one of the two stays pending and can't be deleted", version.uri)
    return False


def delete_own(registry: Registry, version: ModelVersion) -> Call[bool]:
    """Delete this version and return True; False where its number reaches another one, which is left alone."""
    if not registry.capabilities.unique_versions:
        try:
            reached = yield from registry.get_model_version(version.name, version.version)
        except NotFoundError:
            return True
        if not is_same(reached, version):
            return False
    yield from registry.delete_model_version(version.name, version.version)
    return True
