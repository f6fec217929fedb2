"""Version numbers that two versions have on an open-source Unity Catalog server, and names that two models have."""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress

import pytest
from support.open_source import flavour
from support.proxy import Fault, Proxy

from airflow_uc_models.emulator.open_source_races import Twins
from airflow_uc_models.exceptions import ConflictError, NotFoundError, RegistryError
from airflow_uc_models.hooks.auth import BearerAuth
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry import comments, shared_numbers
from airflow_uc_models.registry.registration import create_pending_version, finalize_version, keyed, settle
from airflow_uc_models.registry.retention import delete_model, delete_older, delete_one
from airflow_uc_models.registry.unity_catalog_rest import UnityCatalogRestRegistry

REGISTRY = UnityCatalogRestRegistry()
KEY, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


def transport(url: str, token: str | None = None) -> Transport:
    return Transport(base_url=url, auth=BearerAuth(token) if token else None, max_retry_seconds=3, label="server")


def create(name: str, key: str):
    description, _ = keyed(REGISTRY, key, "why")
    return lambda: REGISTRY.create_model_version(name, "runs:/1/model", description=description)


@pytest.fixture
def racing(tmp_path):
    """A server on which two creates at the same moment get one number."""
    with flavour(tmp_path, concurrent_creates=2) as server:
        yield server


def two_pending(server, name):
    """Two versions of one number, made by hand; the first is the one that the number reaches."""
    made = []
    body = dict(zip(("catalog_name", "schema_name", "model_name"), name.split("."), strict=True))

    def post(comment: str) -> None:
        made.append(server.call("POST", "/models/versions", {**body, "source": "s", "comment": comment}))

    threads = [threading.Thread(target=post, args=(f"airflow_task_key: {key}",)) for key in (KEY, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [v["version"] for v in server.versions(name)] == [1, 1]
    run = transport(server.url).run
    reached = run(REGISTRY.get_model_version(name, 1))
    both = run(REGISTRY.search_model_versions(filter_string=f"name='{name}'"))
    [hidden] = [v for v in both if v.storage_location != reached.storage_location]
    return run, reached, hidden


def test_tasks_that_create_at_the_same_moment_get_a_version_each(racing) -> None:
    name = racing.make(racing.new_name())
    results = {}

    def work(key: str) -> None:
        run = transport(racing.url).run
        for _ in range(20):
            with suppress(
                ConflictError
            ):  # one was already uploading when the other got the number, or got it each time
                pending = run(create_pending_version(REGISTRY, name, key, create(name, key)))
                run(finalize_version(REGISTRY, pending))
                results[key] = run(settle(REGISTRY, pending.name, key))
                break

    threads = [threading.Thread(target=work, args=(key,)) for key in (KEY, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {KEY, OTHER}
    versions = racing.versions(name)
    assert [v["status"] for v in versions].count("READY") == 2
    for key, version in results.items():
        assert version.description.endswith(key)
        [row] = [v for v in versions if v["version"] == version.version]  # nobody shares it
        assert (row["comment"], row["storage_location"]) == (version.description, version.storage_location)
        assert row["status"] == "READY"


def test_who_shares_a_number_and_is_reached_by_it_gives_way(racing) -> None:
    run, reached, hidden = two_pending(racing, racing.make(racing.new_name()))
    assert run(shared_numbers.claim(REGISTRY, reached)) is False
    assert run(shared_numbers.claim(REGISTRY, hidden)) is True
    assert [v["storage_location"] for v in racing.versions(hidden.name)] == [hidden.storage_location]


def test_nobody_deletes_or_finishes_the_version_of_somebody_else(racing) -> None:
    run, _, hidden = two_pending(racing, racing.make(racing.new_name()))
    key = comments.split(hidden.description)[1]["airflow_task_key"]
    assert run(shared_numbers.claim(REGISTRY, hidden)) is False
    assert run(shared_numbers.delete_own(REGISTRY, hidden)) is False
    with pytest.raises(ConflictError, match="given to another version"):
        run(finalize_version(REGISTRY, hidden))
    assert run(settle(REGISTRY, hidden.name, key)) is None
    assert [v["status"] for v in racing.versions(hidden.name)] == ["PENDING_REGISTRATION"] * 2
    made = run(create_pending_version(REGISTRY, hidden.name, key, create(hidden.name, key)))
    assert made.version == 2


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_lists_have_all_that_share_a_key_with_the_last_row_of_a_page(tmp_path, page_size, order) -> None:
    with flavour(tmp_path, page_size=page_size, twins=Twins(order, order)) as server, Proxy(server.url) as proxy:
        run, name = transport(proxy.url).run, server.make(server.new_name(), ("one", "two", "three", "four"))
        others = [server.make(f"{name}{letter}") for letter in "abc"]
        store = server.app.state.store
        if page_size > 1:
            for row in list(store.versions):
                store.versions.append({**row, "id": row["id"] + "2", "status": "PENDING_REGISTRATION"})
            store.models.append({**store.models[0], "id": str(uuid.uuid4())})
        listed = run(REGISTRY.list_model_versions(name))
        assert [v.version for v in listed] == ([1, 1, 2, 2, 3, 3, 4, 4] if page_size > 1 else [1, 2, 3, 4])
        found = run(REGISTRY.search_model_versions(filter_string=f"name='{name}'"))
        assert [(v.version, v.status) for v in found] == [(n, "READY") for n in (1, 2, 3, 4)]
        for number in (1, 2, 3, 4, 5):
            shared = [v for v in listed if v.version == number]
            assert run(REGISTRY.model_versions_numbered(name, number)) == shared
        assert [m.name for m in run(REGISTRY.search_registered_models(schema=server.schema))] == [name, *others]
        assert len(run(REGISTRY.registered_models_named(name))) == (2 if page_size > 1 else 1)
        assert [len(run(REGISTRY.registered_models_named(other))) for other in others] == [1, 1, 1]
        assert run(REGISTRY.registered_models_named(f"{name}0")) == []


@pytest.fixture
def twins(tmp_path):
    """A server with two models of one name, each with a version 1."""
    with flavour(tmp_path) as server:
        name = server.make(server.new_name(), ("one",))
        store = server.app.state.store
        store.models.append({**store.models[0], "id": "other"})
        store.versions.append({**store.versions[0], "id": "other"})
        store.versions.append({**store.versions[0], "id": "another", "_model": "other"})
        yield server, name


@pytest.mark.parametrize("force", [True, False], ids=["forced", "refused"])
def test_a_deleted_name_is_gone_where_two_models_had_it(twins, force, monkeypatch) -> None:
    server, name = twins
    registry = UnityCatalogRestRegistry()
    if not force:  # as a server that refuses to delete what has versions
        plain = registry.delete_registered_model
        monkeypatch.setattr(registry, "delete_registered_model", lambda n: plain(n, force=False))
    transport(server.url).run(delete_model(registry, name))
    assert server.client.get(f"/models/{name}").status_code == 404
    with pytest.raises(NotFoundError):
        transport(server.url).run(delete_model(registry, name))


def test_a_deleted_number_is_gone_where_two_versions_had_it(twins) -> None:
    server, name = twins
    run = transport(server.url).run
    assert run(delete_one(REGISTRY, name, 1)) == [1]
    assert server.versions(name) == []
    server.add(name)
    store = server.app.state.store
    store.versions.append({**store.versions[-1], "id": "other", "status": "PENDING_REGISTRATION"})
    server.add(name)
    assert run(delete_older(REGISTRY, name, 1)) == [2]
    assert [v["version"] for v in server.versions(name)] == [3]


def test_a_name_that_is_taken_again_meanwhile_is_not_said_to_be_gone(open_source) -> None:
    def make_again(request) -> bool:
        if request.method == "GET" and request.path.endswith("/models"):
            looks.append(request)
            if len(looks) == 2:
                open_source.make(name)
        return False

    looks: list = []
    name = open_source.make(open_source.new_name())
    with Proxy(open_source.url) as proxy:
        proxy.faults.append(Fault(make_again))
        with pytest.raises(RegistryError, match="there is one all the same: it was made again meanwhile") as caught:
            transport(proxy.url, open_source.token).run(delete_model(REGISTRY, name))
    assert caught.value.permanent
