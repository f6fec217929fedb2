"""A schema of a registry, kept in mind by looking again and again, with as few calls as the registry allows.

One round is ``begin``, then ``look`` for each name that it returns, in any order and side by side. A round costs one
call per watched model, however many versions the model has and however many listeners there are:

* newer versions: an MLflow server is asked for those above the newest known number, or, of a whole schema, for what
  changed last; Unity Catalog is asked for the next number, which it gives out one by one and never twice;
* a model with few versions is listed whole instead, which costs one call, too, and shows what was deleted;
* a version that is PENDING_REGISTRATION is asked for by itself until it is not;
* whatever is thus overlooked (versions deleted, numbers that came and went between two rounds) is found by listing each
  model whole every ``reconcile_seconds``, not all of them in one round;
* aliases and tags are read if somebody listens to them: aliases and a model's tags by one call more per model; the tags
  of the newest versions and of aliased ones in each round, those of the others in turn.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from airflow_uc_models.entities import PENDING_REGISTRATION, ModelVersion, RegisteredModel
from airflow_uc_models.events import ModelState, VersionState
from airflow_uc_models.exceptions import NotFoundError, UnsupportedOperationError
from airflow_uc_models.registry.base import Registry, quoted
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.registration import version_if_there, versions_of
from airflow_uc_models.registry.sweep import Sweep
from airflow_uc_models.watches import RECONCILE_SECONDS, Part, Watch

FEW_VERSIONS = 10  # so many are listed as cheaply as one is asked for
_FEW_MODELS = 4  # from so many on a sweep over the schema is cheaper than asking for each
_TAGGED_VERSIONS = 10  # versions whose tags are read in each round
_TURN = 100  # versions, or calls / 100, of the others in one round


@dataclass
class _Known:
    """What is known of one model.

    :param state: the model, or None if there is none
    :param newest: the highest version number ever seen
    :param due: when to look at all of it again
    :param turn: up to which version tags were read in turn
    :param listed: when it was created and changed, as lists of models give it
    """

    state: ModelState | None
    due: float
    newest: int = 0
    turn: int = 0
    listed: tuple[int | None, int | None] | None = None
    parts: Part = field(default=Part.VERSIONS)
    pending: list[int] = field(default_factory=list)

    def take(self, state: ModelState) -> None:
        """Note what was seen, once: the same object says that nothing has changed."""
        if state is self.state or state == self.state:
            return
        self.state = state
        self.newest = max([self.newest, *state.versions])
        self.pending = sorted(n for n, v in state.versions.items() if v.status == PENDING_REGISTRATION)


class Poll:
    """What is known of the models of one schema.

    :param registry: the registry's protocol
    :param schema: ``catalog.schema``
    :param reconcile_seconds: how long it may take until a deleted version is noticed
    """

    def __init__(self, registry: Registry, schema: str, *, reconcile_seconds: float = RECONCILE_SECONDS) -> None:
        self.registry = registry
        self.schema = schema
        self.reconcile_seconds = reconcile_seconds
        self._known: dict[str, _Known] = {}
        self._whole = Part.VERSIONS
        self._parts: dict[str, Part] = {}
        self._listed: dict[str, RegisteredModel] | None = None
        self._changed: dict[str, list[ModelVersion]] | None = None
        self._unread: Mapping[str, Collection[int]] = {}
        self._sweep = Sweep(schema)
        self._list_due = 0.0

    def models(self) -> dict[str, ModelState]:
        """Return all models as they were last seen."""
        return {name: known.state for name, known in self._known.items() if known.state is not None}

    def knows(self, name: str) -> bool:
        """Whether all that is listened to of a model has been read already."""
        known = self._known.get(name)
        return known is not None and not self._parts_of(name) & ~known.parts

    def begin(
        self,
        watches: Collection[Watch],
        now: float,
        remembered: Iterable[str] = (),
        unread: Mapping[str, Collection[int]] | None = None,
    ) -> Call[list[str]]:
        """Begin a round: return the names of the models to look at.

        :param watches: what is listened to; of another schema none
        :param now: seconds on a clock that does not jump
        :param remembered: models that listeners know, which are looked for even where no list has them
        :param unread: versions whose tags a listener needs and has not seen, by model
        """
        self._unread = unread or {}
        self._gather(watches)
        whole = any(watch.model_name is None for watch in watches)
        self._changed = self._listed = None
        if self.registry.capabilities.version_order and (whole or len(self._parts) > _FEW_MODELS):
            self._changed = yield from self._sweep.changed(self.registry, now)
        if whole and self._needs_listing(now):
            self._list_due = now + self.reconcile_seconds
            found = yield from self.registry.search_registered_models(schema=self.schema)
            self._listed = {model.name: model for model in found}
        names = set(self._parts)
        if whole:
            there = {name for name, known in self._known.items() if known.state is not None}
            names |= there | set(remembered) | (self._listed or {}).keys() | (self._changed or {}).keys()
        for name in self._known.keys() - names:
            del self._known[name]
        return sorted(names)

    def look(self, name: str, now: float) -> Call[None]:
        """Look at one model; what it raises leaves the model as it was last seen."""
        known, parts = self._known.get(name), self._parts_of(name)
        if known is None or known.due <= now or self._is_doubtful(name, known):
            return (yield from self._deep(name, parts, now))
        if known.state is None:
            if (yield from self._newer(name, known)) or parts & Part.MODEL:
                yield from self._deep(name, parts, now)
            return None
        if parts & ~known.parts & (Part.VERSION_TAGS | Part.FIRST_TAGS):
            known.take(_without_version_tags(known.state))  # they were read for another purpose, and are old
        try:
            state = yield from self._quick(name, known, known.state, parts)
        except NotFoundError:
            state = None
        if state is None:
            return (yield from self._deep(name, parts, now))
        known.take(state)
        known.parts = parts
        return None

    def finish(self, now: float) -> None:
        """End a round in which every model was looked at and none failed."""
        self._sweep.finish(now)

    # -- a round as a whole

    def _parts_of(self, name: str) -> Part:
        return self._whole | self._parts.get(name, Part.VERSIONS)

    def _gather(self, watches: Iterable[Watch]) -> None:
        self._whole, self._parts = Part.VERSIONS, {}
        for watch in (served(self.registry, watch) for watch in watches):
            if watch.model_name is None:
                self._whole |= watch.parts
            else:
                self._parts[watch.model_name] = self._parts.get(watch.model_name, Part.VERSIONS) | watch.parts

    def _needs_listing(self, now: float) -> bool:
        """Whether models must be listed: a sweep shows new ones too, once they have a version."""
        parts = Part.MODEL | Part.ALIASES | Part.MODEL_TAGS | Part.DELETIONS
        return self._changed is None or bool(self._whole & parts) or now >= self._list_due

    def _is_doubtful(self, name: str, known: _Known) -> bool:
        """Whether a list of all models speaks against what is known of one."""
        if self._listed is None:
            return False
        listed = self._listed.get(name)
        if known.state is None or listed is None:
            return (known.state is None) != (listed is None)
        # Compared with earlier lists only: that they agree with what a model itself tells is nowhere promised.
        before, known.listed = known.listed, (listed.created_at, listed.updated_at)
        if before is None:
            return False
        # An MLflow server counts a deleted version as a change of the model.
        moved = before[1] != known.listed[1] and self.registry.capabilities.version_order
        return before[0] != known.listed[0] or (moved and bool(self._whole & Part.DELETIONS))

    # -- one model

    def _deep(self, name: str, parts: Part, now: float) -> Call[None]:
        """Read all of a model."""
        before = self._known.get(name)
        # Spread, so that no round has to list every model.
        share = 0.5 + zlib.crc32(name.encode()) % 1000 / 2000
        known = _Known(None, now + self.reconcile_seconds * share, parts=parts)
        try:
            model = yield from self.registry.get_registered_model(name)
            found = yield from versions_of(self.registry, name)
        except NotFoundError:
            self._known[name] = known
            return
        before_state = before.state if before and before.state and before.state.created_at == model.created_at else None
        state = replace(_state_of(model, parts), versions=before_state.versions if before_state else {})
        same = before is not None and before_state is not None
        known.newest, known.turn = (before.newest, before.turn) if same and before is not None else (0, 0)
        versions = yield from self._merged(name, state, found, parts, with_tags=self._lists_tags)
        present = {version.version for version in found}
        state = replace(state, versions={n: v for n, v in versions.items() if n in present})
        if parts & Part.VERSION_TAGS:
            state = yield from self._with_tags(name, known, state)
        state = yield from self._with_unread(name, state)
        known.take(before_state if before_state == state else state)
        self._known[name] = known

    def _quick(self, name: str, known: _Known, state: ModelState, parts: Part) -> Call[ModelState | None]:
        """Return the state with what is new; None if it takes a whole look to tell."""
        asked = yield from self._with_model_parts(name, state, parts)
        if asked is None:
            return None
        if self._changed is None and len(state.versions) <= FEW_VERSIONS:
            read = yield from self._listed_whole(name, asked, parts)
        else:
            read = yield from self._with_newer(name, known, asked, parts)
        if read is not None and parts & Part.VERSION_TAGS:
            read = yield from self._with_tags(name, known, read)
        return read and (yield from self._with_unread(name, read))

    def _with_model_parts(self, name: str, state: ModelState, parts: Part) -> Call[ModelState | None]:
        """Return the state with aliases and tags of now, None if this is another model than before."""
        if not parts & (Part.MODEL | Part.ALIASES | Part.MODEL_TAGS):
            return state
        model = (self._listed or {}).get(name)
        if model is not None and not parts & (Part.ALIASES | Part.MODEL_TAGS):
            return state
        if model is None or not self.registry.capabilities.version_order:  # whose lists have aliases and tags
            model = yield from self.registry.get_registered_model(name)
        now = _state_of(model, parts)
        if now.created_at != state.created_at:
            return None
        return replace(state, aliases=now.aliases, tags=now.tags)

    def _listed_whole(self, name: str, state: ModelState, parts: Part) -> Call[ModelState | None]:
        """Return the state with all versions of now; None where there are none any more."""
        found = yield from versions_of(self.registry, name)
        if not found and state.versions:
            return None
        return (yield from self._with_found(name, state, found, parts, with_tags=self._lists_tags, whole=True))

    def _with_newer(self, name: str, known: _Known, state: ModelState, parts: Part) -> Call[ModelState]:
        """Return the state with versions that are new, and with those of whom more was to be expected."""
        found = yield from self._newer(name, known)
        seen = {version.version for version in found}
        for number in [number for number in known.pending if number not in seen][-FEW_VERSIONS:]:
            version = yield from version_if_there(self.registry, name, number)
            if version is None:
                state = replace(state, versions={n: v for n, v in state.versions.items() if n != number})
            else:
                found.append(version)
        return (yield from self._with_found(name, state, found, parts, with_tags=True))

    def _with_found(
        self,
        name: str,
        state: ModelState,
        found: Sequence[ModelVersion],
        parts: Part,
        *,
        with_tags: bool,
        whole: bool = False,
    ) -> Call[ModelState]:
        if not found and not whole:
            return state
        numbers = {version.version for version in found}
        if whole and state.versions.keys() - numbers:
            state = replace(state, versions={n: v for n, v in state.versions.items() if n in numbers})
        versions = yield from self._merged(name, state, found, parts, with_tags=with_tags)
        return state if versions is state.versions else replace(state, versions=versions)

    def _newer(self, name: str, known: _Known) -> Call[list[ModelVersion]]:
        """Return versions above the newest known number, and whatever else is found by the way."""
        if self._changed is not None:
            return list(self._changed.get(name, []))
        if self.registry.capabilities.version_order:
            return (yield from versions_of(self.registry, name, after=known.newest))
        found: list[ModelVersion] = []
        while (
            version := (yield from version_if_there(self.registry, name, known.newest + len(found) + 1))
        ) is not None:
            found.append(version)
        return found

    def _merged(
        self, name: str, state: ModelState, found: Iterable[ModelVersion], parts: Part, *, with_tags: bool
    ) -> Call[Mapping[int, VersionState]]:
        """Return the versions of a state with those found; the tags of new ones are read if somebody asks for them.

        :param with_tags: those found carry their tags
        """
        wants_tags = bool(parts & (Part.VERSION_TAGS | Part.FIRST_TAGS))
        versions = dict(state.versions)
        changed = [v for v in found if v.version not in versions or versions[v.version].status != v.status]
        read_now = sorted(v.version for v in changed)[-_TAGGED_VERSIONS:] if wants_tags and not with_tags else []
        for version in found:
            before = versions.get(version.version)
            tags: Mapping[str, str] | None = None
            if wants_tags and with_tags:
                tags = version.tags
            elif version.version in read_now:
                read = yield from version_if_there(self.registry, name, version.version)
                tags = read.tags if read else None
            elif before and before.status == version.status:
                tags = before.tags
            after = VersionState(version.status, tags)
            if after != before:
                versions[version.version] = after
        return versions if versions != state.versions else state.versions

    def _with_unread(self, name: str, state: ModelState) -> Call[ModelState]:
        """Return the state with the tags of versions for which a listener waits."""
        versions = dict(state.versions)
        for number in sorted(self._unread.get(name, ()))[:_TURN]:
            version = (yield from version_if_there(self.registry, name, number)) if number in versions else None
            if version is not None:
                versions[number] = VersionState(version.status, version.tags)
        return replace(state, versions=versions) if versions != state.versions else state

    def _with_tags(self, name: str, known: _Known, state: ModelState) -> Call[ModelState]:
        """Return the state with the tags of its newest versions, of aliased ones, and of some others in turn."""
        numbers = sorted(state.versions, reverse=True)
        newest = numbers[:_TAGGED_VERSIONS]
        others = [n for n in reversed(numbers) if n > known.turn][: _TURN if self._lists_tags else 1]
        known.turn = others[-1] if others else 0
        found: list[ModelVersion] = []
        single = set((state.aliases or {}).values()) & state.versions.keys()
        if self._lists_tags:
            for window in (newest[::-1], others):
                found += (yield from self._between(name, window[0], window[-1])) if window else []
            single -= {version.version for version in found}
        else:
            single |= {*newest, *others}
        for number in sorted(single):
            version = yield from version_if_there(self.registry, name, number)
            found += [version] if version else []
        tags = {version.version: version.tags for version in found}
        versions = {n: replace(v, tags=tags[n]) if n in tags else v for n, v in state.versions.items()}
        return replace(state, versions=versions) if versions != state.versions else state

    @property
    def _lists_tags(self) -> bool:
        return self.registry.capabilities.tag_search

    def _between(self, name: str, low: int, high: int) -> Call[list[ModelVersion]]:
        where = f"name={quoted(name)} and version_number >= {low} and version_number <= {high}"
        return (yield from self.registry.search_model_versions(filter_string=where))


def _state_of(model: RegisteredModel, parts: Part) -> ModelState:
    """Return what is listened to of a model, without its versions."""
    return ModelState(
        created_at=model.created_at,
        aliases=model.aliases if parts & Part.ALIASES else None,
        tags=model.tags if parts & Part.MODEL_TAGS else None,
    )


def _without_version_tags(state: ModelState) -> ModelState:
    return replace(state, versions={n: replace(v, tags=None) for n, v in state.versions.items()})


def served(registry: Registry, watch: Watch) -> Watch:
    """Return what of a watch a registry can serve: only kinds of events that it has, perhaps none of them."""
    kinds = [kind for kind in watch.kinds if not unsupported(registry, replace(watch, kinds=frozenset({kind})))]
    return replace(watch, kinds=frozenset(kinds))


def unsupported(registry: Registry, watch: Watch) -> str:
    """Say why a registry cannot serve a watch; nothing if it can."""
    try:
        if watch.parts & Part.ALIASES:
            registry.expect_aliases()
        if watch.parts & (Part.MODEL_TAGS | Part.VERSION_TAGS | Part.FIRST_TAGS):
            registry.tag_rules("Leave out tags and events of tags.")
    except UnsupportedOperationError as error:
        return str(error)
    return ""
