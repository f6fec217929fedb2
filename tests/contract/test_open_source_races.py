"""Registrations that share a version number: no task succeeds with a version that is not its own, whole and reachable.

The requests of the workers are interleaved as hypothesis likes, on servers with pages of any size and any order of rows
that share a number, and one of the workers may be killed at any request and try again.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.lockstep import Killed, Lockstep, Server

from airflow_uc_models.emulator.open_source_races import Twins
from airflow_uc_models.emulator.open_source_store import READY, Store
from airflow_uc_models.exceptions import ConflictError
from airflow_uc_models.hooks.transfer import NewVersion, register
from airflow_uc_models.names import LocalSource

NAME = "c.s.m"
ORDERS = ("oldest", "newest", "changed")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One folder for each worker, by which its files are known."""
    folders = {who: tmp_path_factory.mktemp(who) for who in "abc"}
    for who, folder in folders.items():
        signature = "signature: {inputs: '[]', outputs: '[]'}"
        (folder / "MLmodel").write_text(f"flavors: {{python_function: {{loader_module: of_{who}}}}}\n{signature}\n")
    return folders


def server(root: Path, before: int, page_size: int, twins: Twins) -> Server:
    store = Store(root, page_size=page_size, twins=twins)
    store.create_catalog({"name": "c"}, None)
    store.create_schema({"name": "s", "catalog_name": "c"}, None)
    place = {"catalog_name": "c", "schema_name": "s"}
    store.create_model({"name": "m", **place}, None)
    for _ in range(before):
        store.create_version({"model_name": "m", "source": "s", **place}, None)
        store.finalize(NAME, store.versions[-1]["version"], None)
    return Server(store, NAME)


def start(lockstep: Lockstep, who: str, sources, **how) -> None:
    new = NewVersion(NAME, who * 32)
    lockstep.start(who, lambda hook: register(hook, LocalSource(sources[who]), new), **how)


def files(row) -> str:
    mlmodel = Path(row["storage_location"].removeprefix("file://")) / "MLmodel"
    return mlmodel.read_text() if mlmodel.exists() else ""


def check(server: Server, lockstep: Lockstep, before: int) -> None:
    """Each success is a READY version with the worker's own files, which its number reaches; no READY one is empty."""
    store = server.store
    rows = [row for row in store.versions if row["version"] > before]
    made = {who: worker.result for who, worker in lockstep.workers.items() if worker.result is not None}
    for who, version in made.items():
        [row] = [row for row in rows if row["storage_location"] == version.storage_location]
        assert (row["version"], row["status"], row["comment"]) == (version.version, READY, version.description)
        assert store.version(NAME, version.version) is row
        assert f"of_{who}}}" in files(row)
    assert len({version.version for version in made.values()}) == len(made)
    ready = [row for row in rows if row["status"] == READY]
    assert all(files(row) for row in ready)
    assert len(ready) == len(made)


@st.composite
def races(draw):
    workers = "abc"[: draw(st.integers(2, 3))]
    page_size = draw(st.sampled_from((1, 2, 3, 4, 100)))
    # A page of one shows one of two: no call tells of the other one, unless both are made before either is looked at.
    at_once = list(workers) * 3 if page_size == 1 else []
    listed = st.sampled_from(ORDERS[:2] if page_size == 1 else ORDERS)
    reached = st.sampled_from(ORDERS[:2])  # the same row for as long as there are both
    return {
        "before": 0 if at_once else draw(st.integers(0, 4)),
        "page_size": page_size,
        "twins": Twins(draw(listed), draw(reached)),
        "schedule": at_once + draw(st.lists(st.sampled_from(workers), max_size=60)),
        "stale": set(workers) if at_once else draw(st.sets(st.sampled_from(workers))),
        "killed": {} if at_once else draw(st.dictionaries(st.sampled_from(workers), st.integers(1, 25), max_size=1)),
        "workers": workers,
    }


FINALIZE = 8  # the first request of a worker that may finalize a version
# While one is about to finalize its version, another one gets the number, and is finalized instead. Its worker is
# killed before it can delete it, with the first one or alone.
LATE = {
    "before": 0,
    "page_size": 100,
    "twins": Twins("oldest", "newest"),
    "workers": "ab",
    "schedule": ["a"] * 7 + ["b"] * 3,
    "stale": {"b"},
}


@given(race=races())
@example(race={**LATE, "killed": {}})
@example(race={**LATE, "killed": {"b": 4}})
@example(race={**LATE, "killed": {"b": 4, "a": 9}})
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_success_without_a_version_of_its_own(race, sources, tmp_path_factory) -> None:
    before = race["before"]
    there = server(tmp_path_factory.mktemp("uc"), before, race["page_size"], race["twins"])
    there.stale = set(race["stale"])
    lockstep = Lockstep(there)
    for who in race["workers"]:
        start(lockstep, who, sources, killed_at=race["killed"].get(who))
    lockstep.run(race["schedule"])
    if all(request < FINALIZE for request in race["killed"].values()):
        assert all(files(row) for row in there.store.versions if row["status"] == READY and row["version"] > before)
    failed = [who for who, worker in lockstep.workers.items() if worker.error is not None]
    for who in failed:
        assert isinstance(lockstep.workers[who].error, Killed | ConflictError), lockstep.workers[who].error
    for who in failed:  # its next try
        start(lockstep, who, sources)
        lockstep.run(())
    assert all(worker.error is None for worker in lockstep.workers.values())
    check(there, lockstep, before)
