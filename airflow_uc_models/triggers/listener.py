"""One watcher: from snapshots of a schema to its events, and what of them outlives the triggerer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from airflow_uc_models.events import ModelEvent, ModelState, diff_model, told
from airflow_uc_models.triggers.schema_poll import Problem, Snapshot
from airflow_uc_models.watches import Watch

log = logging.getLogger(__name__)

_PAGES = 16  # a page is a key of the asset's state store, for which Airflow advises 64 KB at most
_NEVER_SEEN = object()


class SharedTriggerError(Exception):
    """Two assets have one trigger, so that Airflow gives it no state store."""


class Listener:
    """Tells the events of one watch, each at least once.

    What was told is saved only when Airflow has stored the events. A triggerer that dies before that tells them again,
    with the same keys.

    :param watch: what to tell
    :param store: the state store of the watcher's asset; None before Airflow 3.3
    :param replay: tell, at the first start of all, what is there already
    """

    def __init__(self, watch: Watch, store: Any, *, identity: Mapping[str, Any], replay: bool = False) -> None:
        self.watch = watch
        self.replay = replay
        self._store = store
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        self._told: dict[str, ModelState] | None = None
        self._saved: dict[str, ModelState] = {}
        self._unsaved: list[tuple[int, dict[str, ModelState | None]]] = []
        self._dirty: set[int] = set()
        self._saving = asyncio.Lock()
        self._heard: tuple[int, dict[str, ModelState | None]] | None = None
        self._late: set[str] = set()
        self.unread: dict[str, set[int]] = {}
        self._raw: dict[str, object] = {}
        self._problem: Problem | None = None
        self._shown: Mapping[str, Any] | None = None

    def remembered(self) -> Iterable[str]:
        """Return the models that were told of."""
        return self._told or ()

    async def load(self) -> None:
        """Read what was told before the triggerer was started; SharedTriggerError if the store is no one's own."""
        if self._store is None:
            return
        try:
            pages = [await self._store.aget(self._key(0))]
        except ValueError as error:  # Airflow's, where a trigger belongs to several assets
            raise SharedTriggerError(self._what) from error
        pages += [await self._store.aget(self._key(page)) for page in self._pages()[1:]]
        if pages[0] is not None:  # written last
            entries = {name: entry for page in pages for name, entry in (page or {}).items()}
            self._saved = {name: ModelState.from_json(entry) for name, entry in entries.items()}
            self._told = dict(self._saved)
            log.info("Going on from what was told of %s before", self._what)

    def hear(self, snapshot: Snapshot) -> list[ModelEvent]:
        """Return what has happened since the last snapshot; ``report`` takes note that it was told."""
        watch = snapshot.of(self.watch)
        if not watch.kinds:
            return []
        if self._told is None and not self._begin(snapshot, watch):
            return []
        assert self._told is not None  # noqa: S101 - for mypy
        heard: list[ModelEvent] = []
        changed: dict[str, ModelState | None] = {}
        for name in self._names(snapshot, watch):
            raw = snapshot.models.get(name)
            if raw is self._raw.get(name, _NEVER_SEEN) or (raw is None and not _is_gone(name, snapshot)):
                continue
            before, after = self._told.get(name), watch.project(raw) if raw else None
            if after and name in self._late:  # it was there when the watch began, and could not be seen
                self._late.discard(name)
                changed[name] = self._told[name] = replace(after, sequence=int(time.time()))
                self._raw[name] = raw
                continue
            happened = diff_model(name, before, after)
            unread = watch.unread(happened, raw)
            if unread is None or unread:
                self.unread[name] = unread or set()
                continue  # until it is read
            self.unread.pop(name, None)
            self._raw[name] = raw
            heard += [event for event in happened if watch.wants(event, raw)]
            now = told(before, after, happened) if after else None
            if now != before:
                changed[name] = now
                self._set(self._told, name, now)
        if changed:
            self._heard = (snapshot.number, changed)
        return heard

    async def confirm(self, number: int) -> None:
        """Save what was told up to a snapshot, whose events are stored now."""
        while self._unsaved and self._unsaved[0][0] <= number:
            _, changed = self._unsaved.pop(0)
            for name, state in changed.items():
                self._set(self._saved, name, state)
                self._dirty.add(self._page(name))
        async with self._saving:
            while self._dirty and self._store is not None:
                page = max(self._dirty)
                self._dirty.discard(page)  # before the wait, in which it may become dirty again
                entries = {name: state.to_json() for name, state in self._saved.items() if self._page(name) == page}
                try:
                    await self._store.aset(self._key(page), entries)
                except Exception:
                    self._dirty.add(page)
                    raise

    async def report(self, snapshot: Snapshot) -> None:
        """Take note that a snapshot's events are told; say once, in log and asset's state, if there cannot be any."""
        if self._heard is not None:  # not before: who is cancelled among the events has not told them
            self._unsaved.append(self._heard)
            self._heard = None
        try:
            await self.confirm(0)
        except Exception as error:  # it is tried again
            log.warning("Could not save from when %s is watched: %s", self._what, error)
        watch = snapshot.of(self.watch)
        problem = snapshot.problem_of(watch) if watch.kinds else None
        partly = problem is None and bool(watch.kinds)
        problem = problem or snapshot.unserved(self.watch)
        if problem == self._problem or (problem and self._problem and problem.kind == self._problem.kind):
            return await self._show(self._shown)
        self._problem = problem
        if problem and partly:
            log.warning("Watching %s, but %s", self._what, problem.message)
        elif problem:
            log.warning("Cannot watch %s, going on trying: %s", self._what, problem.message)
        else:
            log.info("Watching %s again", self._what)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        health = "ok" if problem is None else "partial" if partly else "failing"
        status = {"watching": self._what, "status": health, "since": since}
        return await self._show(status | ({"error": problem.message} if problem else {}))

    def _begin(self, snapshot: Snapshot, watch: Watch) -> bool:
        """Take the first snapshot as what needs no telling; False if it does not show enough."""
        if snapshot.problem_of(watch) and (snapshot.problem or watch.model_name):
            return False
        self._told = {}
        if not self.replay:
            # Counting on from the time makes keys that no earlier life of this watcher can have used.
            now = int(time.time())
            for name in self._names(snapshot, watch):
                if (raw := snapshot.models.get(name)) is not None:
                    self._told[name] = replace(watch.project(raw), sequence=now)
                    self._raw[name] = raw
            self._late = set(snapshot.problems)
        self._unsaved.append((0, dict(self._told)))
        self._dirty.add(0)  # saved even if it is nothing: the next start is not the first one
        return True

    def _names(self, snapshot: Snapshot, watch: Watch) -> list[str]:
        if watch.model_name is not None:
            return [watch.model_name]
        return sorted({*snapshot.models, *(self._told or {})})

    # -- what is kept in the asset's state store

    def _pages(self) -> range:
        return range(1 if self.watch.model_name else _PAGES)

    def _page(self, name: str) -> int:
        return zlib.crc32(name.encode()) % len(self._pages())

    def _key(self, page: int) -> str:
        return f"uc_models_told_{self._identity}_{page}"

    async def _show(self, status: Mapping[str, Any] | None) -> None:
        self._shown = status
        if self._store is None or status is None:
            return
        try:
            await self._store.aset(f"uc_models_watcher_{self._identity}", dict(status))
        except Exception as error:  # it is for people to read, and is tried again
            log.debug("Could not write the state of the watcher of %s: %s", self._what, error)
        else:
            self._shown = None

    @property
    def _what(self) -> str:
        return self.watch.model_name or f"{self.watch.schema}.*"

    @staticmethod
    def _set(states: dict[str, ModelState], name: str, state: ModelState | None) -> None:
        if state is None:
            states.pop(name, None)
        else:
            states[name] = state


def _is_gone(name: str, snapshot: Snapshot) -> bool:
    """Whether a model is known to be absent, and not only out of sight."""
    return snapshot.problem is None and name not in snapshot.problems
