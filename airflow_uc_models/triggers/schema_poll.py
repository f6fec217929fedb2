"""One poll of a schema for all who listen to it in one triggerer."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_uc_models.compat import SharedStreamProducer
from airflow_uc_models.events import ModelState
from airflow_uc_models.exceptions import RegistryUnavailableError, UCModelsError, UnauthenticatedError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transport import AsyncRun
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.poll import Poll, served, unsupported
from airflow_uc_models.watches import Watch

if TYPE_CHECKING:
    from airflow.triggers.shared_stream import AdvanceItem

log = logging.getLogger(__name__)

_CONNECTIONS = 8
_MAX_BACKOFF_SECONDS = 60.0
_LEAST_RETRY_SECONDS = 5.0
_LEAST_PAUSE_SECONDS = 0.05
_SETTLE_SECONDS = 0.5  # triggers start one after another; they are waited for that long before a round for new ones


@dataclass(frozen=True, slots=True)
class Problem:
    """Why nothing can be said of a model, or of all."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """Tell an error; those that this package does not know with their type."""
        known = isinstance(error, UCModelsError)
        return cls(type(error).__name__, str(error) if known else f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is known after one round; not what has changed, so that who comes late misses nothing.

    :param number: rises from round to round; given when the round begins
    :param models: every model that was found, as last seen
    :param problems: by the name of a model that could not be looked at
    :param problem: why the round as a whole failed
    :param registry: what was asked; None before it was reached for the first time
    """

    number: int
    models: Mapping[str, ModelState]
    problems: Mapping[str, Problem] = field(default_factory=dict)
    problem: Problem | None = None
    registry: Registry | None = None

    def of(self, watch: Watch) -> Watch:
        """Return a watch with names as the registry stores them, and the kinds of events that it has."""
        if self.registry is None:
            return watch
        return served(self.registry, watch.lower() if self.registry.capabilities.lowercase_names else watch)

    def problem_of(self, watch: Watch) -> Problem | None:
        """Return what keeps a watch, as ``of`` returns it, from being served."""
        if self.problem:
            return self.problem
        return next((problem for name, problem in sorted(self.problems.items()) if watch.covers(name)), None)

    def unserved(self, watch: Watch) -> Problem | None:
        """Return what keeps some or all kinds of a watch from being served by such a registry."""
        kinds = sorted(watch.kinds - self.of(watch).kinds)
        if self.registry is None or not kinds:
            return None
        reason = unsupported(self.registry, watch)
        return Problem("UnsupportedOperationError", f"no events of kind {', '.join(kinds)}: {reason}")


class Listener(Protocol):
    """Who takes snapshots."""

    watch: Watch
    unread: dict[str, set[int]]

    def remembered(self) -> Iterable[str]:
        """Return the models that must be looked for, even where lists do not have them."""

    async def confirm(self, number: int) -> None:
        """Take note that the events of all snapshots up to this one are stored."""


@dataclass(frozen=True, slots=True)
class StreamKey:
    """What watchers must have in common to share a poll."""

    registry_conn_id: str
    schema: str
    poll_interval: float
    reconcile_interval: float

    @property
    def share(self) -> float:
        """The part of an interval after which the second round is made: polls that start together do not stay so."""
        return zlib.crc32(repr(self).encode()) % 1000 / 1000


class SchemaPoll:
    """The poll of one schema on one connection, and who listens to it."""

    def __init__(self, key: StreamKey) -> None:
        self.key = key
        self.listeners: list[Listener] = []
        self._poll: Poll | None = None
        self._number = 0
        self._joined = asyncio.Event()

    def join(self, listener: Listener) -> int:
        """Look for what a listener wants, too, and soon; return the number of the first snapshot that shows it."""
        self.listeners.append(listener)
        self._joined.set()
        return self._number + 1

    def leave(self, listener: Listener) -> None:
        """Look no more for what only this listener wanted."""
        self.listeners.remove(listener)

    async def confirm(self, number: int) -> None:
        """Tell every listener that the events of all snapshots up to this one are stored."""
        for listener in list(self.listeners):
            try:
                await listener.confirm(number)
            except Exception as error:  # the others go on; what is not saved now is with the next ones
                log.warning("Could not save what was told of %s: %s", listener.watch.schema, error)

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Look again and again, for ever: a registry that does not answer is a snapshot with a problem."""
        failures = 0
        while True:
            try:
                async with self._session() as (poll, arun):
                    async for snapshot in self._rounds(poll, arun):
                        failures = failures + 1 if snapshot.problem else 0
                        yield snapshot
                        if snapshot.problem or snapshot.problems:
                            break  # the connection is read again: it may be changed to mend this
            except Exception as error:  # a trigger that raises is started again every two seconds
                failures += 1
                if not isinstance(error, UCModelsError):
                    log.debug("The poll of %s failed", self.key, exc_info=True)
                self._number += 1
                yield self._snapshot(problem=Problem.of(error))
            backoff = self.key.poll_interval * 2.0 ** min(max(failures - 1, 0), 10)
            with suppress(TimeoutError):
                pause = min(backoff, max(_MAX_BACKOFF_SECONDS, self.key.poll_interval))
                await asyncio.wait_for(self._joined.wait(), max(pause, _LEAST_PAUSE_SECONDS))
                await asyncio.sleep(_SETTLE_SECONDS)

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[tuple[Poll, AsyncRun], None]:
        """Read the connection, and keep its sockets open for as long as all goes well."""
        endpoint = await ModelRegistryHook(self.key.registry_conn_id).aendpoint()
        patience = max(_LEAST_RETRY_SECONDS, self.key.poll_interval)
        transport = replace(endpoint.transport, max_retry_seconds=min(endpoint.transport.max_retry_seconds, patience))
        schema = self.key.schema.lower() if endpoint.registry.capabilities.lowercase_names else self.key.schema
        if self._poll is None or self._poll.registry.capabilities != endpoint.registry.capabilities:
            self._poll = Poll(endpoint.registry, schema, reconcile_seconds=self.key.reconcile_interval)
        self._poll.registry = endpoint.registry
        async with transport.asession(max_connections=_CONNECTIONS) as arun:
            yield self._poll, arun

    async def _rounds(self, poll: Poll, arun: AsyncRun) -> AsyncIterator[Snapshot]:
        """Make rounds until one fails; between them, short ones for listeners that have joined."""
        due = time.monotonic() - self.key.poll_interval * (1 - self.key.share)
        while True:
            yield await self._round(poll, arun)
            due = max(due + self.key.poll_interval, time.monotonic() + _LEAST_PAUSE_SECONDS)
            while (left := due - time.monotonic()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._joined.wait(), left)
                    await asyncio.sleep(_SETTLE_SECONDS)
                    yield await self._round(poll, arun, only_new=True)

    async def _round(self, poll: Poll, arun: AsyncRun, *, only_new: bool = False) -> Snapshot:
        self._joined.clear()
        self._number += 1
        lower = poll.registry.capabilities.lowercase_names
        watches = [listener.watch.lower() if lower else listener.watch for listener in self.listeners]
        remembered = {name for listener in self.listeners for name in listener.remembered()}
        now = time.monotonic()
        looks = _Looks(poll, arun, now)
        try:
            names = await arun(poll.begin(watches, now, remembered, self._unread()))
            await looks.all_of([name for name in names if not (only_new and poll.knows(name))])
        except UCModelsError as error:
            looks.failed = error
        if not only_new and not looks.failed and not looks.problems:
            poll.finish(now)
        return self._snapshot(problems=looks.problems, problem=Problem.of(looks.failed) if looks.failed else None)

    def _unread(self) -> dict[str, set[int]]:
        """Return the versions whose tags some listener waits for."""
        unread: dict[str, set[int]] = {}
        for listener in self.listeners:
            for name, numbers in listener.unread.items():
                unread.setdefault(name, set()).update(numbers)
        return unread

    def _snapshot(self, **problems: Any) -> Snapshot:
        models = self._poll.models() if self._poll else {}
        return Snapshot(self._number, models, registry=self._poll.registry if self._poll else None, **problems)


class _Looks:
    """The looks of one round, some at a time.

    :ivar problems: models that could not be looked at
    :ivar failed: why the registry as a whole is taken for absent
    """

    def __init__(self, poll: Poll, arun: AsyncRun, now: float) -> None:
        self.problems: dict[str, Problem] = {}
        self.failed: Exception | None = None
        self._poll, self._arun, self._now = poll, arun, now
        self._turns = asyncio.Semaphore(_CONNECTIONS)
        self._silent, self._patience = 0, 1  # looks in a row that got no answer

    async def all_of(self, names: Sequence[str]) -> None:
        """Look at models; give up on all of them when none of so many in a row gets an answer."""
        self._patience = min(_CONNECTIONS, len(names))
        await asyncio.gather(*map(self._look, names))

    async def _look(self, name: str) -> None:
        async with self._turns:
            if self.failed:
                return  # nor would this one be answered
            try:
                await self._arun(self._poll.look(name, self._now))
            except UnauthenticatedError as error:
                self.failed = error
            except RegistryUnavailableError as error:
                self.problems[name] = Problem.of(error)
                self._silent += 1
                self.failed = error if self._silent >= self._patience else None
            except Exception as error:
                self.problems[name] = Problem.of(error)
                if not isinstance(error, UCModelsError):
                    log.debug("The look at %s failed", name, exc_info=True)
            else:
                self._silent = 0


# Held by who uses them: watchers, and Airflow's side of the stream. A triggerer has one event loop.
_polls: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakValueDictionary[StreamKey, SchemaPoll]]
_polls = weakref.WeakKeyDictionary()


def shared_poll(key: StreamKey) -> SchemaPoll:
    """Return the poll of this event loop for all who have the key in common."""
    polls = _polls.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
    poll = polls.get(key)
    if poll is None:
        poll = polls[key] = SchemaPoll(key)
    return poll


class SchemaPollProducer(SharedStreamProducer):
    """Airflow's side of a shared poll: it tells when the events made of a snapshot are stored."""

    def __init__(self, key: StreamKey) -> None:
        self._poll = shared_poll(key)

    async def open_stream(self) -> AsyncIterator[tuple[Snapshot, int]]:
        """Yield snapshots with their numbers."""
        async for snapshot in self._poll.snapshots():
            yield snapshot, snapshot.number

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Let listeners save what they have told; which one has failed is not said, but that one has left by the next.

        What was told of a snapshot counts as stored when the snapshot, or a later one, got through without failure.
        """
        if all(item.outcome.failed == 0 for item in batch):
            await self._poll.confirm(batch[-1].broker_payload)
