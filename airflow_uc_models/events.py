"""What happens in a model registry, found by comparing two looks at it.

Unity Catalog tells nobody what happens in it, so whoever wants to know looks again and compares. The kinds of events
are named as in MLflow's webhooks (``mlflow/webhooks``: entity, dot, action); the kinds that MLflow does not have are
named after the same pattern. Nothing here does I/O or knows Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Self

from airflow_uc_models.entities import FAILED_REGISTRATION, PENDING_REGISTRATION, READY
from airflow_uc_models.ranges import from_ranges, to_ranges

REGISTERED_MODEL_CREATED = "registered_model.created"
REGISTERED_MODEL_DELETED = "registered_model.deleted"
REGISTERED_MODEL_TAG_SET = "registered_model_tag.set"
REGISTERED_MODEL_TAG_DELETED = "registered_model_tag.deleted"
MODEL_VERSION_CREATED = "model_version.created"
MODEL_VERSION_READY = "model_version.ready"
MODEL_VERSION_FAILED = "model_version.failed"
MODEL_VERSION_DELETED = "model_version.deleted"
MODEL_VERSION_TAG_SET = "model_version_tag.set"
MODEL_VERSION_TAG_DELETED = "model_version_tag.deleted"
MODEL_VERSION_ALIAS_CREATED = "model_version_alias.created"
MODEL_VERSION_ALIAS_DELETED = "model_version_alias.deleted"

ALIAS_KINDS = frozenset({MODEL_VERSION_ALIAS_CREATED, MODEL_VERSION_ALIAS_DELETED})
MODEL_TAG_KINDS = frozenset({REGISTERED_MODEL_TAG_SET, REGISTERED_MODEL_TAG_DELETED})
VERSION_TAG_KINDS = frozenset({MODEL_VERSION_TAG_SET, MODEL_VERSION_TAG_DELETED})
MODEL_KINDS = frozenset({REGISTERED_MODEL_CREATED, REGISTERED_MODEL_DELETED})
VERSION_KINDS = frozenset({MODEL_VERSION_CREATED, MODEL_VERSION_READY, MODEL_VERSION_FAILED, MODEL_VERSION_DELETED})
KINDS = MODEL_KINDS | VERSION_KINDS | ALIAS_KINDS | MODEL_TAG_KINDS | VERSION_TAG_KINDS

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class VersionState:
    """A model version as it was seen.

    :param tags: its tags; None where they were not read
    """

    status: str = READY
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ModelState:
    """A registered model as it was seen; what was not read is None, and makes no event.

    :param created_at: milliseconds since the epoch, by which a model of the same name is known for another one
    :param versions: by number
    :param aliases: version by alias; None where they were not read
    :param tags: the model's own tags; None where they were not read
    :param sequence: where whoever looks began to count, such as a time; no part of what the model is
    :param changes: how often each alias and tag was told to have changed since; no part of it either
    """

    created_at: int | None = None
    versions: Mapping[int, VersionState] = field(default_factory=dict)
    aliases: Mapping[str, int] | None = None
    tags: Mapping[str, str] | None = None
    sequence: int = field(default=0, compare=False)
    changes: Mapping[str, int] = field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain JSON, short however many versions there are."""
        numbers: dict[str, list[int]] = {}
        for number, version in self.versions.items():
            numbers.setdefault(version.status, []).append(number)
        tags = {str(n): dict(v.tags) for n, v in self.versions.items() if v.tags is not None}
        value = {
            "created_at": self.created_at,
            "versions": {status: to_ranges(found) for status, found in sorted(numbers.items())},
            "aliases": None if self.aliases is None else dict(self.aliases),
            "tags": None if self.tags is None else dict(self.tags),
            "version_tags": tags or None,
            "sequence": self.sequence,
            "changes": dict(self.changes) or None,
        }
        return {key: item for key, item in value.items() if item is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild the state."""
        tags = value.get("version_tags") or {}
        versions = {
            number: VersionState(status, tags.get(str(number)))
            for status, text in (value.get("versions") or {}).items()
            for number in from_ranges(text)
        }
        return cls(
            created_at=value.get("created_at"),
            versions=versions,
            aliases=value.get("aliases"),
            tags=value.get("tags"),
            sequence=int(value.get("sequence") or 0),
            changes=value.get("changes") or {},
        )


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """Something that happened to a registered model or one of its versions.

    Fields that mean nothing for a kind are None.

    :param kind: one of ``KINDS``
    :param model_name: ``catalog.schema.model`` as the registry stores it
    :param version: the version it happened to; of an alias, the version that it points to now
    :param alias: the alias that was set, moved or deleted
    :param from_version: where the alias pointed before; None if it is new
    :param tag_key: the tag that was set or deleted
    :param tag_value: its value; of a deleted tag None
    :param from_value: its value before; None if it is new
    :param created_at: when the model was created, in milliseconds since the epoch
    :param key: the same for the same event, however often it is told: by it a repeat is recognised
    """

    kind: str
    model_name: str
    version: int | None = None
    alias: str | None = None
    from_version: int | None = None
    tag_key: str | None = None
    tag_value: str | None = None
    from_value: str | None = None
    created_at: int | None = None
    key: str = ""

    @property
    def subject(self) -> str:
        """The alias or tag that changed, which may change again; empty for what happens only once."""
        if self.alias:
            return f"alias/{self.alias}"
        return f"tag/{self.version or ''}/{self.tag_key}" if self.tag_key else ""

    @property
    def uri(self) -> str:
        """``models:/catalog.schema.model/3``, or without a version ``models:/catalog.schema.model``."""
        return f"models:/{self.model_name}" + (f"/{self.version}" if self.version is not None else "")

    def to_json(self) -> dict[str, Any]:
        """Return the event as plain JSON: the payload of an asset event, without what is None."""
        return {key: value for key, value in {**asdict(self), "uri": self.uri}.items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild the event; keys that this release does not know are left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})


def diff(before: Mapping[str, ModelState], after: Mapping[str, ModelState]) -> list[ModelEvent]:
    """Return what has happened between two looks, in an order in which it can have happened.

    A model that was deleted and made again between the looks is told as both. What one of the looks did not read
    (aliases, tags) makes no event.
    """
    events: list[ModelEvent] = []
    for name in sorted(before.keys() | after.keys()):
        events += diff_model(name, before.get(name), after.get(name))
    return events


def diff_model(name: str, before: ModelState | None, after: ModelState | None) -> list[ModelEvent]:
    """Return what has happened to one model; None where there was or is none."""
    if before is after or before == after:
        return []
    if before is not None and after is not None and not _is_another(before, after):
        return list(_changes(_Teller(name, after.created_at or before.created_at, before), before, after))
    events: list[ModelEvent] = []
    if before is not None:
        events += _deletion(_Teller(name, before.created_at, before), before)
    if after is not None:
        events += _creation(_Teller(name, after.created_at, ModelState()), after)
    return events


def told(before: ModelState | None, after: ModelState, events: Iterable[ModelEvent]) -> ModelState:
    """Return what is known once the events between two looks are told: the second, completed by the first.

    What the second did not read stays as it was. Of a model or version that was told as new, unread tags and aliases
    count as none, so that those it is found to have later are told, too.

    :param events: what was told
    """
    if before is None or _is_another(before, after):
        versions = {n: VersionState(v.status, v.tags or {}) for n, v in after.versions.items()}
        return replace(after, versions=versions, aliases=after.aliases or {}, tags=after.tags or {})
    changes = dict(before.changes)
    for event in events:
        if event.subject:
            changes[event.subject] = changes.get(event.subject, 0) + 1
    for number in before.versions.keys() - after.versions.keys():
        changes = {subject: count for subject, count in changes.items() if not subject.startswith(f"tag/{number}/")}
    return replace(
        after,
        created_at=after.created_at if after.created_at is not None else before.created_at,
        versions={n: _told_version(before.versions.get(n), v) for n, v in after.versions.items()},
        aliases=before.aliases if after.aliases is None else after.aliases,
        tags=before.tags if after.tags is None else after.tags,
        sequence=before.sequence,
        changes=changes,
    )


def _told_version(before: VersionState | None, after: VersionState) -> VersionState:
    if after.tags is not None:
        return after
    made_again = before is None or (before.status != after.status and after.status == PENDING_REGISTRATION)
    return replace(after, tags={} if before is None or made_again else before.tags)


def apply(events: list[ModelEvent], state: Mapping[str, ModelState]) -> dict[str, ModelState]:
    """Return the state that events lead to: ``apply(diff(a, b), a) == b``, of what both looks read."""
    models = dict(state)
    for event in events:
        name = event.model_name
        if event.kind == REGISTERED_MODEL_CREATED:
            models[name] = ModelState(event.created_at, {}, {}, {})
        elif event.kind == REGISTERED_MODEL_DELETED:
            del models[name]
        else:
            models[name] = _applied(event, models[name])
    return models


@dataclass(frozen=True, slots=True)
class _Teller:
    """Makes the events of one model."""

    name: str
    created_at: int | None
    before: ModelState

    def of_model(self, kind: str) -> ModelEvent:
        return self._event(kind, "")

    def of_version(self, kind: str, version: int) -> ModelEvent:
        return self._event(kind, str(version), version=version)

    def of_alias(self, kind: str, alias: str, version: int | None, was: int | None) -> ModelEvent:
        return self._event(kind, f"{was}-{version}", version=version, alias=alias, from_version=was)

    def of_tag(self, kind: str, key: str, value: str | None, was: str | None, version: int | None = None) -> ModelEvent:
        return self._event(kind, str(value), version=version, tag_key=key, tag_value=value, from_value=was)

    def _event(self, kind: str, about: str, **details: Any) -> ModelEvent:
        event = ModelEvent(kind, self.name, created_at=self.created_at, **details)
        # A version's number is not given twice; with the model's creation this holds for a model made again, too.
        parts = [kind, self.name, str(self.created_at), about]
        if event.subject:
            count = self.before.changes.get(event.subject, 0)
            parts += [event.subject, f"{self.before.sequence}.{count}"]
        return replace(event, key="/".join(parts))


def _is_another(before: ModelState, after: ModelState) -> bool:
    """Whether a model of the same name was made anew; without both times nobody can tell."""
    return None not in (before.created_at, after.created_at) and before.created_at != after.created_at


def _creation(tell: _Teller, model: ModelState) -> Iterator[ModelEvent]:
    yield tell.of_model(REGISTERED_MODEL_CREATED)
    yield from _changes(tell, ModelState(model.created_at, {}, {}, {}), model)


def _deletion(tell: _Teller, model: ModelState) -> Iterator[ModelEvent]:
    """Tell of aliases and versions, too: who listens to them need not listen to models."""
    yield from _alias_changes(tell, model.aliases or {}, {})
    for number in sorted(model.versions):
        yield tell.of_version(MODEL_VERSION_DELETED, number)
    yield tell.of_model(REGISTERED_MODEL_DELETED)


def _changes(tell: _Teller, before: ModelState, after: ModelState) -> Iterator[ModelEvent]:
    for number in sorted(after.versions):
        yield from _version_changes(tell, number, before.versions.get(number), after.versions[number])
    if before.aliases is not None and after.aliases is not None:
        yield from _alias_changes(tell, before.aliases, after.aliases)
    if before.tags is not None and after.tags is not None:
        kinds = (REGISTERED_MODEL_TAG_SET, REGISTERED_MODEL_TAG_DELETED)
        yield from _tag_changes(tell, kinds, before.tags, after.tags)
    for number in sorted(before.versions.keys() - after.versions.keys()):
        yield tell.of_version(MODEL_VERSION_DELETED, number)


def _version_changes(
    tell: _Teller, number: int, before: VersionState | None, after: VersionState
) -> Iterator[ModelEvent]:
    if before is after:
        return
    if before is not None and before.status != after.status and after.status == PENDING_REGISTRATION:
        yield tell.of_version(MODEL_VERSION_DELETED, number)  # nothing goes back to pending: it was made again
        before = None
    if before is None:
        yield tell.of_version(MODEL_VERSION_CREATED, number)
        before = VersionState(PENDING_REGISTRATION, _NONE)
    if before.status != after.status and after.status in {READY, FAILED_REGISTRATION}:
        yield tell.of_version(MODEL_VERSION_READY if after.status == READY else MODEL_VERSION_FAILED, number)
    if before.tags is not None and after.tags is not None:
        kinds = (MODEL_VERSION_TAG_SET, MODEL_VERSION_TAG_DELETED)
        yield from _tag_changes(tell, kinds, before.tags, after.tags, number)


def _alias_changes(tell: _Teller, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[ModelEvent]:
    for alias in sorted(after):
        if before.get(alias) != after[alias]:
            yield tell.of_alias(MODEL_VERSION_ALIAS_CREATED, alias, after[alias], before.get(alias))
    for alias in sorted(before.keys() - after.keys()):
        yield tell.of_alias(MODEL_VERSION_ALIAS_DELETED, alias, None, before[alias])


def _tag_changes(
    tell: _Teller,
    kinds: tuple[str, str],
    before: Mapping[str, str],
    after: Mapping[str, str],
    version: int | None = None,
) -> Iterator[ModelEvent]:
    for key in sorted(after):
        if before.get(key) != after[key]:
            yield tell.of_tag(kinds[0], key, after[key], before.get(key), version)
    for key in sorted(before.keys() - after.keys()):
        yield tell.of_tag(kinds[1], key, None, before[key], version)


def _applied(event: ModelEvent, model: ModelState) -> ModelState:
    if event.kind in ALIAS_KINDS:
        return replace(model, aliases=_with(model.aliases or {}, event.alias, event.version))
    if event.kind in MODEL_TAG_KINDS:
        return replace(model, tags=_with(model.tags or {}, event.tag_key, event.tag_value))
    versions = dict(model.versions)
    number = event.version
    assert number is not None  # noqa: S101 - all other kinds are of a version
    if event.kind == MODEL_VERSION_DELETED:
        del versions[number]
    elif event.kind == MODEL_VERSION_CREATED:
        versions[number] = VersionState(PENDING_REGISTRATION, {})
    elif event.kind in VERSION_TAG_KINDS:
        tags = _with(versions[number].tags or {}, event.tag_key, event.tag_value)
        versions[number] = replace(versions[number], tags=tags)
    else:
        status = READY if event.kind == MODEL_VERSION_READY else FAILED_REGISTRATION
        versions[number] = replace(versions[number], status=status)
    return replace(model, versions=versions)


def _with(mapping: Mapping[str, Any], key: str | None, value: Any) -> dict[str, Any]:
    """Return a mapping with one key set, or without it where the value is None."""
    assert key is not None  # noqa: S101 - the kind has one
    changed = {k: v for k, v in mapping.items() if k != key}
    return changed if value is None else {**changed, key: value}
