"""Exactly one version and one model per task, whatever is lost on the way, on a real MLflow server."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from airflow_uc_models.entities import PENDING_REGISTRATION
from airflow_uc_models.exceptions import (
    NotFoundError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UnknownEffectError,
)
from airflow_uc_models.hooks import transport as transport_module
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.call import Call, Request, Response
from airflow_uc_models.registry.mlflow_rest import UNITY_CATALOG, MlflowRestRegistry
from airflow_uc_models.registry.registration import (
    TASK_KEY_TAG,
    create_model_once,
    create_version_once,
    drop_if_empty,
    ensure_registered_model,
    find_by_task_key,
    task_key,
    versions_of,
)

REGISTRY = MlflowRestRegistry()
SOURCE = "s3://bucket/model"
KEY = task_key("dag", "run", "task", -1, SOURCE)
VERSIONS, MODELS = "/model-versions/create", "/registered-models/create"
FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "503 before": {"status": 503},
    "503 after": {"status": 503, "after": True},
    "500 after": {"status": 500, "after": True, "body": "<html>"},
    "reset before": {"reset": True},
    "reset after": {"reset": True, "after": True},
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    """Try again at once; how long is waited is tested with the transport."""
    monkeypatch.setattr(transport_module, "_backoff", lambda _: 0.0)


@pytest.fixture
def run(proxy) -> Callable[[Call[Any]], Any]:
    return Transport(proxy.url, verify=False, max_retry_seconds=20).run


@pytest.fixture
def new_model(mlflow_server, model_name) -> Callable[[], str]:
    numbers, direct = itertools.count(1), Transport(mlflow_server.url, verify=False)

    def make() -> str:
        name = f"{model_name}_{next(numbers)}"
        direct.run(REGISTRY.create_registered_model(name))
        direct.run(REGISTRY.create_model_version(name, SOURCE, tags={TASK_KEY_TAG: "of another task"}))
        return name

    return make


@pytest.fixture
def versions(mlflow_server) -> Callable[[str], list[tuple[int, str]]]:
    """Read with a plain MlflowClient which versions there are, and of which task."""
    client = mlflow_server.client()

    def read(name: str) -> list[tuple[int, str]]:
        found = client.search_model_versions(f"name='{name}'", order_by=["version_number"])
        return [(int(version.version), version.tags[TASK_KEY_TAG]) for version in found]

    return read


def register(name: str, key: str = KEY) -> Call[Any]:
    return create_version_once(
        REGISTRY, name, key, lambda: REGISTRY.create_model_version(name, SOURCE, tags={TASK_KEY_TAG: key})
    )


def single(request: Request) -> Call[Response]:
    return (yield request)


def crash_after(call: Call[Any], run: Callable[[Call[Any]], Any], count: int) -> bool:
    """Send the first requests of a call and abandon it, as a killed worker does; False if there were not so many."""
    try:
        request = next(call)
        for _ in range(count):
            request = call.send(run(single(request)))
    except StopIteration:
        return False
    call.close()
    return True


# -- versions


def test_a_task_makes_one_version_however_often_it_runs(run, new_model, versions) -> None:
    name = new_model()
    version, made = run(register(name))
    assert (version.version, version.tags, made) == (2, {TASK_KEY_TAG: KEY}, True)
    again, made = run(register(name))
    assert (again, made) == (version, False)
    assert versions(name) == [(1, "of another task"), (2, KEY)]
    assert run(register(name, "a third"))[0].version == 3


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("times", [1, 3])
def test_faults_of_the_create_make_no_second_version(run, new_model, versions, proxy, fault, times) -> None:
    name = new_model()
    played = proxy.fail(VERSIONS, **FAULTS[fault], times=times)
    version, made = run(register(name))
    assert made
    assert versions(name) == [(1, "of another task"), (version.version, KEY)]
    # An effect that is found ends the tries
    assert played.times == (times - 1 if "after" in fault else 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_deletion_of_a_second_version_do_no_harm(run, new_model, versions, proxy, fault) -> None:
    name = new_model()
    for _ in range(2):
        run(REGISTRY.create_model_version(name, SOURCE, tags={TASK_KEY_TAG: KEY}))
    played = proxy.fail("/model-versions/delete", **FAULTS[fault])
    assert run(register(name))[0].version == 2
    assert versions(name) == [(1, "of another task"), (2, KEY)]
    assert played.times == 0


def test_a_create_that_never_works_is_given_up(run, new_model, versions, proxy) -> None:
    name = new_model()
    proxy.fail(VERSIONS, times=None, status=503)
    proxy.take()
    with pytest.raises(UnknownEffectError, match="TEMPORARILY_UNAVAILABLE"):
        run(register(name))
    creates = [request for request in proxy.take() if request.path.endswith(VERSIONS)]
    assert 1 < len(creates) < 10
    assert versions(name) == [(1, "of another task")]


def test_a_crash_at_any_point_is_made_good_by_the_retry(run, new_model, versions) -> None:
    for count in itertools.count(1):
        name = new_model()
        crashed = crash_after(register(name), run, count)
        version, _ = run(register(name))
        assert versions(name) == [(1, "of another task"), (2, KEY)]
        assert version.version == 2
        if not crashed:
            break
    assert count > 3


def test_a_zombie_at_any_point_makes_no_second_version(run, new_model, versions) -> None:
    """A worker thought dead wakes up while its retry runs: whole tries between any two requests of ours."""
    for count in itertools.count():
        name = new_model()
        ours, theirs, result = register(name), None, None
        request = next(ours)
        try:
            for _ in range(count):
                request = ours.send(run(single(request)))
            theirs = run(register(name))[0]
            while True:
                request = ours.send(run(single(request)))
        except StopIteration as stop:
            result = stop.value[0]
        if theirs is None:
            break
        [(number, _)] = [found for found in versions(name) if found[1] == KEY]
        assert result.version == theirs.version == number
    assert count > 3


def test_two_creates_at_the_same_moment_leave_the_lower_version(run, new_model, versions) -> None:
    """Both have looked before either created; both then see two versions."""
    name = new_model()
    calls = [register(name), register(name)]
    requests = [next(call) for call in calls]
    results: list[Any] = [None, None]
    while any(result is None for result in results):
        for index, call in enumerate(calls):
            if results[index] is None:
                try:
                    requests[index] = call.send(run(single(requests[index])))
                except StopIteration as stop:
                    results[index] = stop.value
    assert [(version.version, made) for version, made in results] == [(2, True), (2, False)]
    assert versions(name) == [(1, "of another task"), (2, KEY)]


def test_task_keys_differ_where_task_instances_do() -> None:
    base = ("d", "r", "t", -1, "s")
    others = [("d2", *base[1:]), ("d", "r2", "t", -1, "s"), ("d", "r", "t2", -1, "s"), ("d", "r", "t", 0, "s")]
    keys = {task_key(*arguments) for arguments in [base, *others, ("d", "r", "t", -1, "s2"), ("dr", "", "t", -1, "s")]}
    assert len(keys) == 7
    assert task_key(*base) in keys
    assert all(len(key) == 32 and key.isalnum() for key in keys)


def test_versions_are_listed_newest_first_by_number(run, new_model) -> None:
    name = new_model()
    for _ in range(10):
        run(REGISTRY.create_model_version(name, SOURCE))
    assert [version.version for version in run(versions_of(REGISTRY, name))] == [*range(11, 0, -1)]


def test_a_name_with_a_quote_is_searched_as_it_is(run, mlflow_server) -> None:
    name = "dev.tests.o'neill"
    run(REGISTRY.create_registered_model(name))
    try:
        assert run(register(name))[1]
        assert not run(register(name))[1]
        assert len(run(versions_of(REGISTRY, name))) == 1
    finally:
        run(REGISTRY.delete_registered_model(name))


# -- versions where search gives no tags (Unity Catalog): the same, by reading each version


class UnityCatalogOnAServer(MlflowRestRegistry):
    """The look-ups of Unity Catalog on a plain MLflow server: its search may neither order nor filter by tags."""

    def __init__(self) -> None:
        super().__init__(capabilities=UNITY_CATALOG)


def test_without_tag_search_each_version_is_read(run, new_model, proxy) -> None:
    name, registry = new_model(), UnityCatalogOnAServer()
    run(register(name))
    proxy.take()
    assert [version.version for version in run(find_by_task_key(registry, name, KEY))] == [2]
    sent = [(request.path.rpartition("/")[2], dict(request.query)) for request in proxy.take()]
    assert sent[0] == ("search", {"filter": f"name='{name}'", "max_results": "10000"})
    assert [query["version"] for _, query in sent[1:]] == ["2", "1"]


def test_without_tag_search_a_missing_model_has_no_versions(run, model_name, proxy) -> None:
    proxy.fail("/search", status=404, body='{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}')
    assert run(find_by_task_key(UnityCatalogOnAServer(), model_name, KEY)) == []


def test_a_pending_version_gives_way_to_a_ready_one(run, proxy) -> None:
    """A try that died during its upload left version 1; the next one finished version 2."""
    name, deleted = "a.b.c", []
    found = [
        {"name": name, "version": "1", "status": PENDING_REGISTRATION},
        {"name": name, "version": "2", "status": "READY"},
    ]
    call = create_version_once(REGISTRY, name, KEY, lambda: pytest.fail("a second create"))
    request = next(call)
    while True:
        try:
            if request.path.endswith("/search"):
                request = call.send(Response(200, _json({"model_versions": found})))
            elif request.method == "DELETE":
                deleted.append((request.json or {})["version"])
                request = call.send(Response(200, "{}"))
            else:
                number = int((request.params or {})["version"])
                request = call.send(Response(200, _json({"model_version": found[number - 1]})))
        except StopIteration as stop:
            version, made = stop.value
            break
    assert (version.version, made, deleted) == (2, False, ["1"])


def _json(value: Any) -> str:
    import json

    return json.dumps(value)


# -- models


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("create", [create_model_once, ensure_registered_model])
def test_faults_of_a_model_s_create(run, model_name, proxy, mlflow_server, create, fault) -> None:
    played = proxy.fail(MODELS, **FAULTS[fault])
    model, made = run(create(REGISTRY, model_name, KEY))
    assert (model.name, made, played.times) == (model_name, True, 0)
    assert mlflow_server.client().get_registered_model(model_name).tags == {TASK_KEY_TAG: KEY}


@pytest.mark.parametrize("create", [create_model_once, ensure_registered_model])
def test_a_model_is_known_again_by_its_maker_alone(run, model_name, create) -> None:
    assert run(create(REGISTRY, model_name, KEY))[1]
    assert run(create(REGISTRY, model_name, KEY))[1]
    assert not run(create(REGISTRY, model_name, "of another task"))[1]


def test_a_model_s_create_that_never_works_is_given_up(run, model_name, proxy) -> None:
    proxy.fail(MODELS, times=None, status=503)
    with pytest.raises(RegistryUnavailableError):
        run(ensure_registered_model(REGISTRY, model_name, KEY))
    assert len(proxy.take()) < 15


@pytest.mark.parametrize("create", [create_model_once, ensure_registered_model])
def test_a_crash_at_any_point_of_a_model_s_create(run, model_name, mlflow_server, create) -> None:
    for count in itertools.count(1):
        name = f"{model_name}_{count}"
        crashed = crash_after(create(REGISTRY, name, KEY), run, count)
        assert run(create(REGISTRY, name, KEY))[1]
        if not crashed:
            break


def test_a_refusal_is_not_tried_again(run, model_name, proxy) -> None:
    proxy.fail(MODELS, status=403, body='{"error_code": "PERMISSION_DENIED", "message": "no"}')
    with pytest.raises(PermissionDeniedError):
        run(ensure_registered_model(REGISTRY, model_name, KEY))
    assert len(proxy.take()) == 2


def test_only_an_empty_model_is_dropped(run, new_model, model_name, mlflow_server) -> None:
    name = new_model()
    run(drop_if_empty(REGISTRY, name))
    assert run(REGISTRY.get_registered_model(name)).name == name
    run(REGISTRY.create_registered_model(model_name))
    run(drop_if_empty(REGISTRY, model_name))
    with pytest.raises(NotFoundError):
        run(REGISTRY.get_registered_model(model_name))


@pytest.mark.parametrize("fault", ["503 after", "reset after"])
@pytest.mark.parametrize("verb", ["delete_registered_model", "delete_model_version"])
def test_a_deletion_whose_answer_was_lost_is_not_missing(run, new_model, proxy, verb, fault) -> None:
    name = new_model()
    proxy.fail("/delete", **FAULTS[fault])
    more = (1,) if verb == "delete_model_version" else ()
    run(getattr(REGISTRY, verb)(name, *more))
    with pytest.raises(NotFoundError):
        run(getattr(REGISTRY, verb)(name, *more))
