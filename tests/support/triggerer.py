"""Watchers as a triggerer runs them, without the processes around it: Airflow's own shared streams, and a store."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import pytest

from airflow_uc_models.events import ModelEvent
from airflow_uc_models.triggers import ModelEventTrigger
from support.registries import Subject

try:
    from airflow.triggers.shared_stream import SharedStreamManager
except ImportError:  # before Airflow 3.3 each watcher polls for itself
    SharedStreamManager = None

PATIENCE = 20.0
needs_shared_streams = pytest.mark.skipif(SharedStreamManager is None, reason="Airflow 3.3 has shared streams")


class Store:
    """An asset's state store, as far as JSON goes."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.failures = 0
        self.delay = 0.0

    async def aget(self, key: str, default: Any = None) -> Any:
        await asyncio.sleep(self.delay)
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key: str, value: Any) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the API server is away")
        self.values[key] = json.dumps(value)

    @property
    def status(self) -> dict[str, Any]:
        """What the watcher says of itself."""
        return next((json.loads(text) for key, text in self.values.items() if "_watcher_" in key), {})


class Triggerer:
    """Runs watchers between entry and exit; leaving is like kill -9, for nothing is stored or saved any more.

    :param stores: events are stored as soon as they are sent; else ``store_events`` does it
    """

    def __init__(self, *, stores: bool = True) -> None:
        self.stores = stores
        self.hold = False  # events in what Airflow does before it takes them
        self.held = 0
        self.events: dict[int, list[ModelEvent]] = {}
        self.failed: dict[int, BaseException] = {}
        self._streams = SharedStreamManager() if SharedStreamManager else None
        self._ids = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._unconfirmed: list[int] = []
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._streams:
            await self._streams.stop_all()

    def start(self, store: Store | None = None, *, shared: bool = True, **arguments: Any) -> int:
        """Start a watcher from what Airflow keeps of its trigger."""
        options = {"poll_interval": 0.1} | arguments
        _, kwargs = ModelEventTrigger(**options).serialize()
        trigger = ModelEventTrigger(**json.loads(json.dumps(kwargs)))
        trigger.asset_state_store = store
        number = next(self._ids)
        self.events[number] = []
        shared = shared and self._streams is not None
        self._tasks.append(asyncio.create_task(self._run(number, trigger, shared=shared)))
        return number

    async def _run(self, number: int, trigger: ModelEventTrigger, *, shared: bool) -> None:
        key = trigger.shared_stream_key()
        stream = trigger.run()
        if shared:
            stream = trigger.filter_shared_stream(self._streams.subscribe(trigger_id=number, trigger=trigger, key=key))
        try:
            async for event in stream:
                if self.hold:
                    self.held += 1
                    await asyncio.Event().wait()
                sequence = self._streams.bind_pending_event(trigger_id=number, key=key) if shared else None
                self.events[number].append(ModelEvent.from_json(event.payload))
                self._unconfirmed += [] if sequence is None else [sequence]
                if self.stores:
                    self.store_events()
                async with self._news:
                    self._news.notify_all()
        except Exception as error:  # a watcher must never raise
            self.failed[number] = error
            raise
        finally:
            if shared:
                await self._streams.unsubscribe(number, key)
            await asyncio.sleep(0.05)  # Airflow cleans up and writes its log, while the stream is still open

    async def end(self, number: int) -> None:
        """Cancel a watcher, as when its Dag is paused."""
        self._tasks[number - 1].cancel()
        await asyncio.gather(self._tasks[number - 1], return_exceptions=True)

    def store_events(self) -> None:
        """What Airflow does about a second after a trigger sent its event."""
        if self._streams:
            self._streams.confirm_persisted(self._unconfirmed)
        self._unconfirmed = []

    def told(self, number: int) -> list[str]:
        """The events of a watcher, each as one short text."""
        return [short(event) for event in self.events[number]]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is so."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not condition():
            assert not self.failed, self.failed
            assert asyncio.get_running_loop().time() < deadline, {n: self.told(n) for n in self.events}
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02), self._news:
                    await self._news.wait()


def began(store: Store) -> Callable[[], bool]:
    """Whether the watcher has seen and saved what was there at its beginning."""
    return lambda: any(key.startswith("uc_models_told_") and key.endswith("_0") for key in store.values)


async def act(tested: Subject, call: Callable[[Any], Any]) -> Any:
    """Do something in the watched registry, off the triggerer's loop."""
    return await asyncio.to_thread(tested, call)


async def add(tested: Subject, name: str, count: int = 1, **options: Any) -> None:
    """Register versions of a model."""
    for _ in range(count):
        await asyncio.to_thread(tested.version, name, **options)


def short(event: ModelEvent) -> str:
    """An event in a few words, without the model's name."""
    text = event.kind.removeprefix("model_version").removeprefix("registered_model").strip("_.")
    if event.alias:
        return f"{text} {event.alias} {event.from_version}->{event.version}"
    if event.tag_key:
        return f"{text} {event.version or ''} {event.tag_key}={event.tag_value}"
    return f"{text} {event.version}" if event.version else f"model {text}"
