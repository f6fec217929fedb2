"""Faults are played on the requests that are meant, as often as asked, before or after the effect."""

from __future__ import annotations

import threading
import time

import httpx
import pytest


def test_a_status_is_answered_so_many_times(emulator, api, name) -> None:
    fault = emulator.faults.add("registered-models/create", status=429, retry_after=2, count=2)
    first = api.call("POST", "registered-models/create", name=name)
    assert (first.status_code, first.headers["retry-after"]) == (429, "2")
    assert first.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert api.call("POST", "registered-models/create", name=name).status_code == 429
    assert api.call("POST", "registered-models/create", name=name).status_code == 200
    assert fault.hits == 2


def test_only_the_method_and_path_meant_are_hit(emulator, api, name) -> None:
    emulator.faults.add(r"registered-models/alias$", method="POST", status=503, count=None)
    api.make_version(name)
    assert api.error("POST", "registered-models/alias", name=name, alias="a", version="1")[0] == 503
    assert api.error("GET", "registered-models/alias", name=name, alias="a")[0] == 404
    emulator.faults.clear()
    api.ok("POST", "registered-models/alias", name=name, alias="a", version="1")


def test_after_means_that_it_happened(emulator, api, name) -> None:
    emulator.faults.add("create", status=500, when="after")
    assert api.error("POST", "registered-models/create", name=name)[:2] == (500, "INTERNAL_ERROR")
    assert api.ok("GET", "registered-models/get", name=name)


def test_before_means_that_it_did_not(emulator, api, name) -> None:
    emulator.faults.add("create", status=500)
    assert api.error("POST", "registered-models/create", name=name)[0] == 500
    assert api.error("GET", "registered-models/get", name=name)[1] == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_reset_breaks_the_connection(emulator, api, name, when) -> None:
    emulator.faults.add("create", reset=True, when=when)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        api.call("POST", "registered-models/create", name=name)
    status = api.call("GET", "registered-models/get", name=name).status_code
    assert status == (200 if when == "after" else 404)


def test_a_reset_during_the_answer_leaves_half_of_it(emulator, api, name) -> None:
    api.call("POST", "registered-models/create", name=name)
    api.ok("POST", "model-versions/create", name=name, source="x")
    api.put(name, 1, "big", b"x" * 100_000)
    emulator.faults.add("fs/files", method="GET", reset=True, when="during")
    path = f"/api/2.0/fs/files/Models/{name.replace('.', '/')}/1/big"
    got = []

    def read() -> None:
        got.extend(len(piece) for piece in api.client.send(request, stream=True).iter_raw())

    request = api.client.build_request("GET", path)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        read()
    assert 0 < sum(got) < 100_000
    assert api.client.get(path).content == b"x" * 100_000


def test_only_resets_happen_during_an_answer(emulator) -> None:
    with pytest.raises(ValueError, match="reset=True"):
        emulator.faults.add("get", when="during", status=500)


def test_delays_and_slow_bodies_take_their_time(emulator, api, name) -> None:
    api.call("POST", "registered-models/create", name=name)
    for options in ({"delay": 0.2}, {"slow_body": 0.2}, {"delay": 0.2, "when": "after"}):
        emulator.faults.add("get", **options)
        started = time.monotonic()
        assert api.ok("GET", "registered-models/get", name=name)["registered_model"]["name"] == name
        assert 0.15 < time.monotonic() - started < 5, options


def test_a_request_can_be_held(emulator, api, name) -> None:
    hold = threading.Event()
    fault = emulator.faults.add("create", hold=hold)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(api.ok("POST", "registered-models/create", name=name)))
    thread.start()
    assert fault.seen.wait(10)
    assert not answers
    hold.set()
    thread.join(10)
    assert answers


def test_chance_hits_some(emulator, api, name) -> None:
    fault = emulator.faults.add("search", count=None, probability=0.5, status=503)
    statuses = [api.call("GET", "registered-models/search").status_code for _ in range(40)]
    assert set(statuses) == {200, 503}
    assert statuses.count(503) == fault.hits


def test_reset_of_the_workspace_forgets_faults_and_requests(emulator, api, name) -> None:
    emulator.faults.add("create", count=None)
    assert api.error("POST", "registered-models/create", name=name)[0] == 503
    emulator.reset()
    assert not len(emulator.requests)
    api.ok("POST", "registered-models/create", name=name)


def test_requests_are_recorded_with_their_principal(emulator, api, name) -> None:
    emulator.faults.add("create")
    api.error("POST", "registered-models/create", name=name)
    api.ok("POST", "registered-models/create", name=name, tags=[{"key": "a", "value": "b"}])
    api.ok("GET", "registered-models/get", name=name)
    faulted, created, got = emulator.requests.take()
    assert (faulted.status, created.status, got.status) == (503, 200, 200)
    path = "/api/2.0/mlflow/unity-catalog/registered-models/create"
    assert created.shape == ("POST", path, [], {"name": name, "tags": [{"key": "a", "value": "b"}]})
    assert got.query == [("name", name)]
    assert created.principal == "admin@example.com"
    assert emulator.token not in repr(vars(created))
