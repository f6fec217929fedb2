"""What somebody wants to hear of a model registry: which models, which kinds of events, which tags and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import Any

from airflow_uc_models import events
from airflow_uc_models.events import ModelEvent, ModelState
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.names import ModelName, parse_alias, parse_schema

WHOLE_SCHEMA = ".*"
RECONCILE_SECONDS = 600.0  # between two looks that leave nothing out
_ANY_VALUE: tuple[str, ...] = ()


class Part(Flag):
    """What must be read of a model to hear of its events; version numbers and their status always are."""

    VERSIONS = 0
    MODEL = auto()  # whether it exists
    ALIASES = auto()
    MODEL_TAGS = auto()
    VERSION_TAGS = auto()
    DELETIONS = auto()  # whether versions are gone
    FIRST_TAGS = auto()  # the tags that a version has when it is first seen


@dataclass(frozen=True, slots=True)
class Watch:
    """One listener's wish.

    :param schema: ``catalog.schema``
    :param model_name: one model of it, or None for all, those of the future included
    :param kinds: kinds of events, of ``events.KINDS``
    :param tags: values by tag key, no values standing for any: events of tags are heard only of these; events of
        versions only where the version carries one of the values of each
    :param aliases: events of aliases are heard only of these; events of versions only where one points to it
    """

    schema: str
    model_name: str | None
    kinds: frozenset[str]
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()

    @classmethod
    def parse(
        cls,
        model_name: str,
        kinds: str | Iterable[str],
        tags: Mapping[str, Any] | None = None,
        aliases: str | Iterable[str] | None = None,
    ) -> Watch:
        """Read a wish as users write it; InvalidArgumentError or InvalidNameError says what is wrong with it.

        :param model_name: ``catalog.schema.model``, or ``catalog.schema.*`` for a whole schema
        :param tags: a value, a list of values (any of them will do) or None (any value) by tag key
        """
        wanted = frozenset([kinds] if isinstance(kinds, str) else kinds)
        if not wanted or wanted - events.KINDS:
            unknown = ", ".join(sorted(map(repr, wanted - events.KINDS))) or "none"
            raise InvalidArgumentError(f"Kinds of events are {', '.join(sorted(events.KINDS))}; not {unknown}.")
        names = frozenset(map(parse_alias, [aliases] if isinstance(aliases, str) else aliases or ()))
        values = {str(key): _values(key, value) for key, value in (tags or {}).items()}
        if isinstance(model_name, str) and model_name.endswith(WHOLE_SCHEMA):
            schema = model_name.removesuffix(WHOLE_SCHEMA)
            parse_schema(schema)
            return cls(schema, None, wanted, values, names)
        parsed = ModelName.parse(model_name)
        return cls(parsed.full_schema, str(parsed), wanted, values, names)

    def lower(self) -> Watch:
        """Return the wish as a registry with lower-case names understands it."""
        name = self.model_name and self.model_name.lower()
        return replace(self, schema=self.schema.lower(), model_name=name)

    def covers(self, name: str) -> bool:
        """Whether a model is one of those that are watched."""
        return name.startswith(f"{self.schema}.") if self.model_name is None else name == self.model_name

    @property
    def parts(self) -> Part:
        """What must be read of each model."""
        parts = Part.VERSIONS
        if self.kinds & events.MODEL_KINDS:
            parts |= Part.MODEL
        if self.kinds & events.ALIAS_KINDS or (self.aliases and self.kinds & _OF_VERSIONS):
            parts |= Part.ALIASES
        if self.kinds & events.MODEL_TAG_KINDS:
            parts |= Part.MODEL_TAGS
        if self.kinds & events.VERSION_TAG_KINDS:
            parts |= Part.VERSION_TAGS
        if events.MODEL_VERSION_DELETED in self.kinds:
            parts |= Part.DELETIONS
        if self.tags and self.kinds & events.VERSION_KINDS:
            parts |= Part.FIRST_TAGS
        return parts

    def wants(self, event: ModelEvent, model: ModelState | None) -> bool:
        """Whether the listener is to hear of an event.

        :param model: the model after the event, with the parts that the wish needs
        """
        if event.kind not in self.kinds or not self.covers(event.model_name):
            return False
        if event.kind in events.ALIAS_KINDS:
            return not self.aliases or event.alias in self.aliases
        if event.kind in events.MODEL_TAG_KINDS:
            return self._wants_tag(event)
        if event.kind in events.VERSION_TAG_KINDS:
            return self._wants_tag(event) and self._is_aliased(event, model)
        if event.kind in events.MODEL_KINDS or event.kind == events.MODEL_VERSION_DELETED:
            return True  # what is gone has neither tags nor aliases
        return self._is_tagged(event, model) and self._is_aliased(event, model)

    def unread(self, happened: Iterable[ModelEvent], model: ModelState | None) -> set[int] | None:
        """Return the versions whose tags must be read before it is known which events to tell; None for aliases."""
        concerned = [event for event in happened if event.kind in self.kinds and event.version]
        if model is None or not concerned:
            return set()
        if self.aliases and self.kinds & _OF_VERSIONS and model.aliases is None:
            return None
        if not self.tags:
            return set()
        numbers = {event.version or 0 for event in concerned if event.kind in events.VERSION_KINDS}
        return {n for n in numbers if n in model.versions and model.versions[n].tags is None}

    def _wants_tag(self, event: ModelEvent) -> bool:
        if not self.tags:
            return True
        values = self.tags.get(event.tag_key or "")
        return values is not None and (not values or event.tag_value is None or event.tag_value in values)

    def _is_tagged(self, event: ModelEvent, model: ModelState | None) -> bool:
        version = model.versions.get(event.version or 0) if model else None
        tags = (version.tags if version else None) or {}
        return all(key in tags and (not values or tags[key] in values) for key, values in self.tags.items())

    def _is_aliased(self, event: ModelEvent, model: ModelState | None) -> bool:
        aliases = (model.aliases if model else None) or {}
        return not self.aliases or any(aliases.get(alias) == event.version for alias in self.aliases)

    def project(self, model: ModelState) -> ModelState:
        """Return what of a model the listener has to remember: no more than its events are made of."""
        with_tags = bool(self.kinds & events.VERSION_TAG_KINDS)
        versions = model.versions if self.kinds & _OF_VERSIONS else {}
        if not with_tags and any(version.tags is not None for version in versions.values()):
            versions = {number: replace(version, tags=None) for number, version in versions.items()}
        return replace(
            model,
            versions=versions,
            aliases=model.aliases if self.kinds & events.ALIAS_KINDS else None,
            tags=model.tags if self.kinds & events.MODEL_TAG_KINDS else None,
        )


_OF_VERSIONS = events.VERSION_KINDS | events.VERSION_TAG_KINDS


def _values(key: object, value: object) -> tuple[str, ...]:
    if value is None:
        return _ANY_VALUE
    if isinstance(value, str | int | float):
        return (str(value),)
    if isinstance(value, Sequence | frozenset | set) and value:
        return tuple(sorted(str(item) for item in value))
    raise InvalidArgumentError(f"tags[{key!r}] is a value, a list of values, or None for any value; not {value!r}.")
