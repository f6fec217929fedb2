"""Creating exactly one version: what makes a retry find its earlier try instead of doing the work twice.

A version carries the tag ``airflow_task_key`` from its create request on; where the registry has no tags, the last
line of its description is ``airflow_task_key: <key>``. Whoever is about to create looks for it first, and again when
the answer to a create got lost. Two tries can run at once: of finished versions the lowest number stays, and what an
earlier try still uploads is taken over by the later one (`keep_first`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from airflow_uc_models.entities import ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnknownEffectError,
)
from airflow_uc_models.names import ModelRef
from airflow_uc_models.registry import comments, shared_numbers
from airflow_uc_models.registry.base import Registry, quoted
from airflow_uc_models.registry.call import Call

log = logging.getLogger(__name__)

TASK_KEY_TAG = comments.TASK_KEY_TAG
_CREATE_TRIES = 5
_ONE = "Let one task at a time make versions of a model, such as with a pool of one slot."


def task_key(dag_id: str, run_id: str, task_id: str, map_index: int, source: str) -> str:
    """Return the digest that all tries of one task instance share, and no other task instance has."""
    text = "\x1f".join((dag_id, run_id, task_id, str(map_index), source))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def keyed(
    registry: Registry, key: str, description: str | None, tags: Mapping[str, str] | None = None
) -> tuple[str | None, dict[str, str]]:
    """Return description and tags for a create request, with the task key in the tags or, without tags, below the text.

    What the description of another version carries of that kind is left out. ``airflow_copied_from`` and its like
    among the tags go where the key goes; any other tag is refused where there are none.

    Raises: InvalidArgumentError for a description that is too long with what is added to it.
    """
    text, _ = comments.split(description)
    carried = {**(tags or {}), TASK_KEY_TAG: key}
    if registry.capabilities.tags is None:
        if set(carried) - set(comments.OWN_TAGS):
            registry.tag_rules()
        text, carried = comments.join(text, carried), {}
    registry.check_texts(description=text)
    return text, carried


def key_of(registry: Registry, item: ModelVersion | RegisteredModel) -> str | None:
    """Return the task key that a version or model carries."""
    if registry.capabilities.tags is not None:
        return item.tags.get(TASK_KEY_TAG)
    return comments.split(item.description)[1].get(TASK_KEY_TAG)


def redescribed(registry: Registry, item: ModelVersion | RegisteredModel, description: str) -> str:
    """Return a new description that still carries what the old one does, where the registry has no tags."""
    if registry.capabilities.tags is not None:
        return description
    return comments.join(comments.split(description)[0], comments.split(item.description)[1])


def versions_of(registry: Registry, name: str, *, after: int = 0) -> Call[list[ModelVersion]]:
    """Return the versions of a model that are newer than ``after``, newest first."""
    name = registry.normalize(name)
    where = f"name={quoted(name)}"
    order = None
    if registry.capabilities.version_order:
        order = ["version_number DESC"]
        where += f" and version_number > {after}" if after else ""
    found = yield from registry.search_model_versions(filter_string=where, order_by=order)
    return sorted((v for v in found if v.version > after), key=lambda v: v.version, reverse=True)


def version_if_there(registry: Registry, name: str, version: int) -> Call[ModelVersion | None]:
    """Return a version with its tags, or None where it is gone; of two that share the number, the complete one."""
    found = yield from registry.model_versions_numbered(name, version)
    return max(found, key=lambda item: item.is_ready, default=None)


def find_by_task_key(
    registry: Registry,
    name: str,
    key: str,
    *,
    since: int = 0,
    after: int = 0,
    may_be: Callable[[ModelVersion], bool] = lambda _: True,
) -> Call[list[ModelVersion]]:
    """Return the versions that tries of one task instance made, oldest first; none if the model is missing.

    :param since: milliseconds since the epoch; what is older is none of them and need not be read
    :param after: none of them has this number or a lower one
    :param may_be: whether a listed version can be one of them, by its source and run
    """
    name = registry.normalize(name)
    if registry.capabilities.tag_search:
        filter_string = f"name={quoted(name)} and tags.{TASK_KEY_TAG}='{key}'"
        found = yield from registry.search_model_versions(filter_string=filter_string)
        return sorted(found, key=lambda v: v.version)
    matching = []
    try:
        listed = yield from registry.list_model_versions(name)
    except NotFoundError:
        return []
    for item in listed:
        if item.version <= after or (item.created_at or since) < since or not may_be(item):
            continue
        version: ModelVersion | None = item
        if registry.capabilities.tags is not None:  # which search does not give
            version = yield from version_if_there(registry, name, item.version)
        if version is not None and key_of(registry, version) == key:
            matching.append(version)
    return sorted(matching, key=lambda version: version.version)


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
    text, own = keyed(registry, key, description, tags)
    for attempt in range(1, _CREATE_TRIES + 1):
        try:
            model = yield from registry.create_registered_model(name, description=text, tags=own or None)
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
        return model, key_of(registry, model) == key
    raise AssertionError("unreachable")


def ensure_registered_model(registry: Registry, name: str, key: str) -> Call[tuple[RegisteredModel, bool]]:
    """Return the model, creating it where it is missing, and whether a try of this task instance made it."""
    try:
        model = yield from registry.get_registered_model(name)
    except NotFoundError:
        return (yield from create_model_once(registry, name, key))
    return model, key_of(registry, model) == key


def drop_if_empty(registry: Registry, name: str) -> Call[None]:
    """Delete a registered model that has no version: what a failed first registration left behind."""
    if (yield from versions_of(registry, name)):
        return
    log.warning("Deleting registered model %s, made for a version that then failed", name)
    try:
        yield from registry.delete_registered_model(name, force=False)
    except (ConflictError, InvalidRequestError) as error:
        log.info("It stays, as somebody made a version of it meanwhile: %s", error)


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


def create_pending_version(
    registry: Registry,
    name: str,
    key: str,
    create: Callable[[], Call[ModelVersion]],
    *,
    since: int = 0,
    after: int = 0,
    may_be: Callable[[ModelVersion], bool] = lambda _: True,
) -> Call[ModelVersion]:
    """Create a version whose files are yet to be uploaded; where the answer got lost, look for it.

    Raises: ConflictError where the registry gives its number to somebody else too, time and again.

    :param since, after, may_be: as `find_by_task_key` takes them
    """
    for attempt in range(1, _CREATE_TRIES + 1):
        try:
            made = yield from create()
        except UnknownEffectError:
            found = yield from find_by_task_key(registry, name, key, since=since, after=after, may_be=may_be)
            if not found:
                if attempt == _CREATE_TRIES:
                    raise
                log.warning("No answer to the create of a version of %s, and none was made; trying again", name)
                continue
            made = found[-1]
        if (yield from shared_numbers.claim(registry, made)):
            return made
    raise ConflictError(f"Could not make a version of {name}: others make versions of it at the same time. {_ONE}")


def finalize_version(registry: Registry, version: ModelVersion) -> Call[ModelVersion]:
    """Declare an uploaded version complete and return it; a registry may take a while until it is READY.

    Raises: ConflictError where somebody else's version has the same number.
    """
    try:
        return (yield from shared_numbers.finalize(registry, version))
    except (InvalidRequestError, ConflictError) as error:
        if error.status is None:
            raise
        # An earlier request, whose answer got lost, may have done it; or the answer was a success without a body.
        found = yield from registry.get_model_version(version.name, version.version)
        shared_numbers.expect_own(registry, version, found)
        if not found.is_ready and not 200 <= error.status < 300:
            raise
        return found


def settle(registry: Registry, name: str, key: str, *, since: int = 0) -> Call[ModelVersion | None]:
    """Return the one finished version that tries of this task made, or None; whatever else they left is deleted.

    What is left pending belongs to a try whose worker died, or to one that runs at the same time and is overtaken.
    """
    found = yield from find_by_task_key(registry, name, key, since=since)
    first = yield from keep_first(registry, found)
    if first is None or not registry.capabilities.tag_search:
        return first
    return (yield from registry.get_model_version(name, first.version))  # search results lack aliases


def keep_first(registry: Registry, found: Sequence[ModelVersion]) -> Call[ModelVersion | None]:
    """Return the first finished one of the versions that tries of a task made, or None; the others are deleted.

    What is pending is a killed try's, or a live one's that still uploads it. The try that comes later wins: it deletes
    that version and makes its own, and the other one is told so when it goes on (see `is_taken_over`).
    """
    finished = yield from shared_numbers.finished(registry, list(found))
    others = [version for version in found if version not in finished]
    if not finished:
        for version in [version for version in others if not version.is_ready]:
            done = yield from _take_over(registry, version)
            if done and (yield from shared_numbers.finished(registry, [done])):
                finished.append(done)
                others.remove(version)
    first = min(finished, key=lambda v: v.version, default=None)
    for version in (*others, *(v for v in finished if v is not first)):
        log.warning("Deleting %s (%s), left by another try of this task", version.uri, version.status)
        try:
            yield from shared_numbers.delete_own(registry, version)
        except NotFoundError:
            log.info("It is gone already")
        except PermissionDeniedError as error:  # whoever may make versions need not be allowed to delete them
            log.warning("It stays, and does no harm: %s", error)
    if first is not None and comments.TAKEN_OVER_TAG in first.tags:
        yield from registry.delete_model_version_tag(first.name, first.version, comments.TAKEN_OVER_TAG)
        first = replace(first, tags={k: v for k, v in first.tags.items() if k != comments.TAKEN_OVER_TAG})
    return first


def _take_over(registry: Registry, version: ModelVersion) -> Call[ModelVersion | None]:
    """Announce that a pending version will be deleted; return it if it has become READY instead.

    Its maker finalizes it, then looks for the announcement; this try makes the announcement, then looks whether it is
    READY. So whichever way their requests are mixed, at least one of the two learns of the other. Without tags there
    is no announcement: a version that becomes READY between this look and the delete is lost to the other try.
    """
    try:
        if registry.capabilities.tags is not None:
            yield from registry.set_model_version_tag(version.name, version.version, comments.TAKEN_OVER_TAG, "true")
        now = yield from registry.get_model_version(version.name, version.version)
    except NotFoundError:
        return None
    except PermissionDeniedError as error:
        log.debug("Could not announce that %s is taken over: %s", version.uri, error)
        return None
    return now if now.is_ready and shared_numbers.is_same(now, version) else None


def is_taken_over(registry: Registry, version: ModelVersion) -> Call[bool]:
    """Whether another try of the same task has deleted this version, or is about to."""
    now = yield from version_if_there(registry, version.name, version.version)
    return now is None or not shared_numbers.is_same(now, version) or comments.TAKEN_OVER_TAG in now.tags


def resolve(registry: Registry, reference: ModelRef) -> Call[ModelVersion]:
    """Return the version that a reference names, by number or by what its alias says now."""
    name = registry.normalize(reference.name)
    if reference.version is not None:
        return (yield from registry.get_model_version(name, reference.version))
    assert reference.alias is not None  # noqa: S101 - ModelRef has one of the two
    registry.expect_aliases()
    try:
        return (yield from registry.get_model_version_by_alias(name, reference.alias))
    except (NotFoundError, InvalidRequestError):
        # Registries disagree on the answer for an alias that does not exist; the alias map does not.
        model = yield from registry.get_registered_model(name)
        if reference.alias in model.aliases:
            raise
        existing = ", ".join(sorted(model.aliases)) or "none"
    raise NotFoundError(f"Model {name} has no alias {reference.alias!r} (existing: {existing}).")
