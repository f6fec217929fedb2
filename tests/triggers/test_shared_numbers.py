"""Versions that share a number: READY is told once and waited for, in whatever order the server has them."""

from __future__ import annotations

import asyncio

import pytest
from support.lockstep import Server, drive
from support.triggerer import Store as Memory

from airflow_uc_models.conditions import NewModelVersion
from airflow_uc_models.emulator.open_source_races import Twins
from airflow_uc_models.emulator.open_source_store import READY, Store
from airflow_uc_models.registry.poll import Poll
from airflow_uc_models.registry.unity_catalog_rest import UnityCatalogRestRegistry
from airflow_uc_models.registry.watch import evaluate
from airflow_uc_models.triggers.listener import Listener
from airflow_uc_models.triggers.schema_poll import Snapshot
from airflow_uc_models.watches import RECONCILE_SECONDS, Watch

NAME = "c.s.m"
PLACE = {"catalog_name": "c", "schema_name": "s"}
ORDERS = ("oldest", "newest", "changed")


class Watcher:
    """A watcher that looks when it is told to, and may be started anew."""

    def __init__(self, server: Server) -> None:
        self.server, self.memory, self.now, self.told = server, Memory(), 0.0, []
        self.restart()

    def restart(self) -> None:
        self.poll = Poll(UnityCatalogRestRegistry(), "c.s")
        self.listener = Listener(Watch.parse(NAME, ["model_version.ready"]), self.memory, identity={})
        asyncio.run(self.listener.load())

    def look(self, seconds: float = 1.0) -> None:
        self.now += seconds
        for name in self.run(self.poll.begin([self.listener.watch], self.now)):
            self.run(self.poll.look(name, self.now))
        snapshot = Snapshot(int(self.now), self.poll.models(), registry=self.poll.registry)
        self.told += [event.version for event in self.listener.hear(snapshot)]
        asyncio.run(self.listener.report(snapshot))
        asyncio.run(self.listener.confirm(snapshot.number))

    def run(self, call):
        return drive(call, self.server.answer)


@pytest.fixture(params=[3, 15], ids=["few versions", "many versions"])
def watched(request, tmp_path):
    """A watcher of a model, and a function that makes one more version of it."""
    store = Store(tmp_path)
    store.create_catalog({"name": "c"}, None)
    store.create_schema({"name": "s", "catalog_name": "c"}, None)
    store.create_model({"name": "m", **PLACE}, None)
    watcher = Watcher(Server(store, NAME))

    def make(number: int):
        store.model(NAME)["_last"] = number - 1
        return store.create_version({"model_name": "m", "source": "s", **PLACE}, None)

    for number in range(1, request.param + 1):
        make(number)["status"] = READY
    watcher.look()
    return watcher, make, request.param + 1


@pytest.mark.parametrize("listed", ORDERS)
@pytest.mark.parametrize("reached", ORDERS)
@pytest.mark.parametrize("first", ["ready", "pending", "both"])
def test_ready_is_told_once(watched, listed, reached, first) -> None:
    watcher, make, number = watched
    watcher.server.store.twins = Twins(listed, reached)
    made = make(number)
    if first == "ready":
        made["status"] = READY
        watcher.look()
        make(number)
    else:
        watcher.look()
        if first == "pending":
            made = make(number)
        else:
            make(number)
        watcher.look()
        made["status"] = READY
    outcome = watcher.run(evaluate(watcher.poll.registry, NewModelVersion(NAME, after_version=number - 1)))
    assert outcome.version.is_ready
    assert outcome.version.storage_location == made["storage_location"]
    watcher.look()
    assert watcher.told == [number]  # not only when all versions are listed again
    for _ in range(3):
        watcher.look()
        watcher.look(RECONCILE_SECONDS)
    for _ in range(2):
        watcher.restart()
        watcher.look()
        watcher.look(RECONCILE_SECONDS)
    assert watcher.told == [number]
    make(number + 1)["status"] = READY
    watcher.look()
    watcher.look()
    assert watcher.told == [number, number + 1]
