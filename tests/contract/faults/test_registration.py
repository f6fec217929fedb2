"""Exactly one version and one model per task, whatever is lost on the way, on real registries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.faulty import FAULTS, SOURCE, crash_after, single

from airflow_uc_models.entities import READY
from airflow_uc_models.exceptions import (
    NotFoundError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UnknownEffectError,
)
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.registration import (
    TASK_KEY_TAG,
    create_model_once,
    create_pending_version,
    create_version_once,
    drop_if_empty,
    ensure_registered_model,
    finalize_version,
    find_by_task_key,
    settle,
    task_key,
    versions_of,
)

KEY = task_key("dag", "run", "task", -1, SOURCE)
VERSIONS, MODELS = "/model-versions/create", "/registered-models/create"


@pytest.fixture
def new_model(faulty, registry, model_name) -> Callable[[], str]:
    numbers = itertools.count(1)

    def make() -> str:
        name = f"{model_name}_{next(numbers)}"
        faulty.direct(registry.create_registered_model(name))
        faulty.direct(faulty.ready(name, tags={TASK_KEY_TAG: "of another task"}))
        return name

    return make


@pytest.fixture
def versions(faulty) -> Callable[[str], list[tuple[int, str]]]:
    """Read which versions there are, and of which task; all must be READY."""

    def read(name: str) -> list[tuple[int, str]]:
        model = faulty.model(name)
        assert set(model.statuses.values()) <= {READY}
        return [(number, tags[TASK_KEY_TAG]) for number, tags in model.versions.items()]

    return read


@pytest.fixture
def register(registry) -> Callable[..., Call[Any]]:
    """Make a version as tasks do, but for its files: in one request, or pending at first."""

    def at_once(name: str, key: str = KEY) -> Call[Any]:
        create = partial(registry.create_model_version, name, SOURCE, tags={TASK_KEY_TAG: key})
        return (yield from create_version_once(registry, name, key, create))

    def in_steps(name: str, key: str = KEY) -> Call[Any]:
        if earlier := (yield from settle(registry, name, key)):
            return earlier, False
        create = partial(registry.create_model_version, name, SOURCE, tags={TASK_KEY_TAG: key})
        pending = yield from create_pending_version(registry, name, key, create)
        yield from finalize_version(registry, pending)
        version = yield from settle(registry, pending.name, key)
        return version, version.version == pending.version

    return in_steps if registry.capabilities.uploads else at_once


def the_one(versions: list[tuple[int, str]]) -> int:
    """Return the number of the task's one version beside that of another task."""
    [other, (number, key)] = versions
    assert (other, key) == ((1, "of another task"), KEY)
    return number


# -- versions


def test_a_task_makes_one_version_however_often_it_runs(run, new_model, versions, register) -> None:
    name = new_model()
    version, made = run(register(name))
    assert (version.version, version.tags, made) == (2, {TASK_KEY_TAG: KEY}, True)
    again, made = run(register(name))
    assert (again, made) == (version, False)
    assert versions(name) == [(1, "of another task"), (2, KEY)]
    assert run(register(name, "a third"))[0].version == 3


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("times", [1, 3])
def test_faults_of_the_create_make_no_second_version(run, new_model, versions, proxy, fault, times, register) -> None:
    name = new_model()
    played = proxy.fail(VERSIONS, **FAULTS[fault], times=times)
    version, made = run(register(name))
    assert made
    assert versions(name) == [(1, "of another task"), (version.version, KEY)]
    # An effect that is found ends the tries
    assert played.times == (times - 1 if "after" in fault else 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_deletion_of_a_second_version_do_no_harm(
    run, new_model, versions, proxy, fault, register, faulty
) -> None:
    name = new_model()
    for _ in range(2):
        run(faulty.ready(name, tags={TASK_KEY_TAG: KEY}))
    played = proxy.fail("/model-versions/delete", **FAULTS[fault])
    assert run(register(name))[0].version == 2
    assert versions(name) == [(1, "of another task"), (2, KEY)]
    assert played.times == 0


def test_a_create_that_never_works_is_given_up(run, new_model, versions, proxy, register) -> None:
    name = new_model()
    proxy.fail(VERSIONS, times=None, status=503)
    proxy.take()
    with pytest.raises(UnknownEffectError, match="TEMPORARILY_UNAVAILABLE"):
        run(register(name))
    creates = [request for request in proxy.take() if request.path.endswith(VERSIONS)]
    assert 1 < len(creates) < 10
    assert versions(name) == [(1, "of another task")]


def test_a_crash_at_any_point_is_made_good_by_the_retry(run, new_model, versions, register, faulty) -> None:
    for count in itertools.count(1):
        name = new_model()
        crashed = crash_after(register(name), run, count)
        version, _ = run(register(name))
        # What was left pending has gone with its number
        assert version.version == the_one(versions(name))
        assert version.version in ({2, 3} if faulty.uploads else {2})
        if not crashed:
            break
    assert count > 3


def test_a_zombie_at_any_point_makes_no_second_version(run, new_model, versions, register, faulty) -> None:
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
        except NotFoundError:
            # The retry took it for a dead worker's and deleted the version that was still pending
            assert faulty.uploads
            result = theirs
        if theirs is None:
            break
        assert result.version == theirs.version == the_one(versions(name))
    assert count > 3


def test_two_creates_at_the_same_moment_leave_the_lower_version(run, new_model, versions, register) -> None:
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


def test_versions_are_listed_newest_first_by_number(run, new_model, registry) -> None:
    name = new_model()
    for _ in range(10):
        run(registry.create_model_version(name, SOURCE))
    assert [version.version for version in run(versions_of(registry, name))] == [*range(11, 0, -1)]


def test_a_name_with_a_quote_is_searched_as_it_is(run, register, registry, model_name, faulty) -> None:
    name = f"{model_name}_o'neill"
    run(registry.create_registered_model(name))
    assert run(register(name))[1]
    assert not run(register(name))[1]
    assert len(run(versions_of(registry, name))) == 1


# -- versions where search gives no tags and files are uploaded (Unity Catalog)

unity_catalog = pytest.mark.parametrize("faulty", ["Databricks"], indirect=True)


@unity_catalog
def test_without_tag_search_each_version_is_read(run, new_model, register, registry, proxy) -> None:
    name = new_model()
    run(register(name))
    proxy.take()
    assert [version.version for version in run(find_by_task_key(registry, name, KEY))] == [2]
    sent = [(request.path.rpartition("/")[2], dict(request.query)) for request in proxy.take()]
    assert sent[0] == ("search", {"filter": f"name='{name}'", "max_results": "10000"})
    assert sorted(query["version"] for _, query in sent[1:]) == ["1", "2"]


@unity_catalog
def test_a_version_deleted_while_others_are_read_is_passed_over(run, new_model, register, registry, faulty) -> None:
    name = new_model()
    run(register(name))
    call = find_by_task_key(registry, name, KEY)
    request = next(call)
    while not request.path.endswith("/model-versions/get"):
        request = call.send(run(single(request)))
    faulty.direct(registry.delete_model_version(name, 1))

    def rest() -> Call[Any]:
        answer = yield request
        while True:
            try:
                answer = yield call.send(answer)
            except StopIteration as stop:
                return stop.value

    assert [version.version for version in run(rest())] == [2]


@unity_catalog
def test_older_versions_than_the_task_are_not_read(run, new_model, register, registry, proxy) -> None:
    name = new_model()
    made, _ = run(register(name))
    proxy.take()
    assert run(find_by_task_key(registry, name, KEY, since=made.created_at + 1)) == []
    assert len(proxy.take()) == 1
    assert len(run(find_by_task_key(registry, name, KEY, since=made.created_at))) == 1


@unity_catalog
def test_a_missing_model_has_no_versions_of_the_task(run, registry, model_name) -> None:
    assert run(find_by_task_key(registry, model_name, KEY)) == []


@unity_catalog
@pytest.mark.parametrize("first", ["pending", "ready"])
def test_a_pending_version_gives_way_to_a_ready_one(
    run, new_model, register, registry, faulty, versions, first
) -> None:
    """One try died during its upload; another one finished its version."""
    name, tags = new_model(), {TASK_KEY_TAG: KEY}
    pending, ready = registry.create_model_version(name, SOURCE, tags=tags), faulty.ready(name, tags=tags)
    for call in (pending, ready) if first == "pending" else (ready, pending):
        run(call)
    version, made = run(register(name))
    assert version.version == the_one(versions(name)) == (3 if first == "pending" else 2)
    assert not made


@unity_catalog
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_finalize_leave_one_ready_version(run, new_model, register, versions, proxy, fault) -> None:
    name = new_model()
    played = proxy.fail("/model-versions/finalize", **FAULTS[fault])
    version, made = run(register(name))
    assert (version.version, version.is_ready, made) == (the_one(versions(name)), True, True)
    assert played.times == 0


# -- models


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("create", [create_model_once, ensure_registered_model])
def test_faults_of_a_model_s_create(run, model_name, proxy, create, fault, registry, faulty) -> None:
    played = proxy.fail(MODELS, **FAULTS[fault])
    model, made = run(create(registry, model_name, KEY))
    assert (model.name, made, played.times) == (model_name, True, 0)
    assert faulty.model(model_name).tags == {TASK_KEY_TAG: KEY}


@pytest.mark.parametrize("create", [create_model_once, ensure_registered_model])
def test_a_model_is_known_again_by_its_maker_alone(run, model_name, create, registry) -> None:
    assert run(create(registry, model_name, KEY))[1]
    assert run(create(registry, model_name, KEY))[1]
    assert not run(create(registry, model_name, "of another task"))[1]


def test_a_model_s_create_that_never_works_is_given_up(run, model_name, proxy, registry) -> None:
    proxy.fail(MODELS, times=None, status=503)
    with pytest.raises(RegistryUnavailableError):
        run(ensure_registered_model(registry, model_name, KEY))
    assert len(proxy.take()) < 15


@pytest.mark.parametrize("create", [create_model_once, ensure_registered_model])
def test_a_crash_at_any_point_of_a_model_s_create(run, model_name, create, registry) -> None:
    for count in itertools.count(1):
        name = f"{model_name}_{count}"
        crashed = crash_after(create(registry, name, KEY), run, count)
        assert run(create(registry, name, KEY))[1]
        if not crashed:
            break


def test_a_refusal_is_not_tried_again(run, model_name, proxy, registry) -> None:
    proxy.fail(MODELS, status=403, body='{"error_code": "PERMISSION_DENIED", "message": "no"}')
    with pytest.raises(PermissionDeniedError):
        run(ensure_registered_model(registry, model_name, KEY))
    assert len(proxy.take()) == 2


def test_only_an_empty_model_is_dropped(run, new_model, model_name, registry) -> None:
    name = new_model()
    run(drop_if_empty(registry, name))
    assert run(registry.get_registered_model(name)).name == name
    run(registry.create_registered_model(model_name))
    run(drop_if_empty(registry, model_name))
    with pytest.raises(NotFoundError):
        run(registry.get_registered_model(model_name))


@pytest.mark.parametrize("fault", ["503 after", "reset after"])
@pytest.mark.parametrize("verb", ["delete_registered_model", "delete_model_version"])
def test_a_deletion_whose_answer_was_lost_is_not_missing(
    run, new_model, proxy, verb, fault, registry, model_name
) -> None:
    name, more = (new_model(), (1,)) if verb == "delete_model_version" else (model_name, ())
    if not more:
        run(registry.create_registered_model(name))
    proxy.fail("/delete", **FAULTS[fault])
    run(getattr(registry, verb)(name, *more))
    with pytest.raises(NotFoundError):
        run(getattr(registry, verb)(name, *more))
