"""Moving, deleting and rolling back aliases on real registries: faults, crashes at every point, and two at once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from support.faulty import FAULTS, SOURCE, crash_after, single
from support.mlflow_server import LEAVES_ALIASES

from airflow_uc_models.alias_history import history_of, tag_key
from airflow_uc_models.exceptions import AliasConflictError, InvalidArgumentError, NotFoundError
from airflow_uc_models.hooks import transport as transport_module
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.aliases import delete_alias, move_alias, rollback_alias
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call, Request, Response
from airflow_uc_models.registry.mlflow_rest import MlflowRestRegistry

REGISTRY = MlflowRestRegistry()
ALIAS = "Champion"
HISTORY = tag_key(ALIAS)
PATHS = {"alias": "/registered-models/alias", "history": "/registered-models/set-tag"}


@pytest.fixture
def new_model(faulty, registry, model_name) -> Callable[..., str]:
    """Make a model of three versions whose alias took the given way: recorded moves, then perhaps one by hand."""
    numbers = itertools.count(1)

    def build(name: str, moves: tuple[int, ...], by_hand: int | None, deleted: int | None) -> Call[None]:
        tags = {HISTORY: " ".join(map(str, moves))} if moves else None
        yield from registry.create_registered_model(name, tags=tags)
        for _ in range(3):
            yield from faulty.ready(name)
        if version := by_hand or (moves[-1] if moves else None):
            yield from registry.set_registered_model_alias(name, ALIAS, version)
        if deleted:
            yield from registry.delete_model_version(name, deleted)

    def make(*moves: int, by_hand: int | None = None, deleted: int | None = None) -> str:
        name = f"{model_name}_{next(numbers)}"
        faulty.direct(build(name, moves, by_hand, deleted))
        return name

    return make


@pytest.fixture
def state(faulty) -> Callable[[str], tuple[int | None, str | None]]:
    """Read where the alias points, and its history."""

    def read(name: str) -> tuple[int | None, str | None]:
        model = faulty.model(name)
        return model.aliases.get(ALIAS), model.tags.get(HISTORY)

    return read


# -- what they do


def test_moves_are_taken_back_in_turn(run, new_model, state, registry) -> None:
    name = new_model()
    for version in (1, 2, 3, 1):
        run(move_alias(registry, name, ALIAS, version))
    assert state(name) == (1, "1 2 3 1")
    assert run(rollback_alias(registry, name, ALIAS, "k1")).version == 3
    assert state(name) == (3, "1 2 3")
    move = run(rollback_alias(registry, name, ALIAS, "k2", steps=2))
    assert (move.version, move.previous) == (1, 3)
    assert state(name) == (1, "1")
    with pytest.raises(InvalidArgumentError, match=f"Could not roll back alias 'Champion' of {name}: it has 0 earlier"):
        run(rollback_alias(registry, name, ALIAS, "k3"))
    assert state(name) == (1, "1")


def test_a_move_tells_where_the_alias_was(run, new_model, registry) -> None:
    name = new_model()
    assert run(move_alias(registry, name, ALIAS, 2)).previous is None
    assert run(move_alias(registry, name, ALIAS, 3)).previous == 2
    assert run(move_alias(registry, name, ALIAS, 3)).previous == 2


def test_moves_by_hand_count(run, new_model, state, registry) -> None:
    name = new_model(1, by_hand=2)
    run(move_alias(registry, name, ALIAS, 3))
    assert state(name) == (3, "1 2 3")
    name = new_model(1, by_hand=3)
    run(rollback_alias(registry, name, ALIAS, "k"))
    assert state(name) == (1, "1")


def test_deleted_versions_are_skipped(run, new_model, state, registry) -> None:
    name = new_model(1, 2, 3, deleted=2)
    run(rollback_alias(registry, name, ALIAS, "k"))
    assert state(name) == (1, "1")


def test_the_alias_of_a_deleted_version_can_be_rolled_back(run, new_model, state, registry) -> None:
    name = new_model(1, 2, deleted=2)
    assert state(name) in [(None, "1 2"), *([(2, "1 2")] if LEAVES_ALIASES else [])]
    move = run(rollback_alias(registry, name, ALIAS, "k"))
    assert (move.version, move.previous) == (1, 2)
    assert state(name) == (1, "1")


def test_rollback_to_a_version(run, new_model, state, registry) -> None:
    name = new_model(1, 2, 3)
    run(rollback_alias(registry, name, ALIAS, "k", to_version=1))
    assert state(name) == (1, "1")
    with pytest.raises(InvalidArgumentError, match="never pointed to version 3 before"):
        run(rollback_alias(registry, name, ALIAS, "k2", to_version=3))


def test_rollback_without_a_past_changes_nothing(run, new_model, proxy, registry) -> None:
    name = new_model()
    with pytest.raises(NotFoundError, match="there is no such alias"):
        run(rollback_alias(registry, name, ALIAS, "k"))
    assert {request.method for request in proxy.take()} == {"GET"}


def test_an_expectation_that_fails_changes_nothing(run, new_model, state, proxy, registry) -> None:
    name = new_model(1)
    for expected in (2, 0):
        with pytest.raises(AliasConflictError, match=r"points to version 1, not to (no )?version"):
            run(move_alias(registry, name, ALIAS, 3, expected_version=expected))
    with pytest.raises(AliasConflictError, match="points to no version"):
        run(move_alias(registry, new_model(), ALIAS, 3, expected_version=1))
    assert {request.method for request in proxy.take()} == {"GET"}
    assert run(move_alias(registry, name, ALIAS, 3, expected_version=1)).version == 3
    # A retry finds its work done
    assert run(move_alias(registry, name, ALIAS, 3, expected_version=1)).version == 3
    assert run(move_alias(registry, new_model(), ALIAS, 3, expected_version=0)).version == 3


def test_a_missing_version_changes_nothing(run, new_model, state, proxy, registry) -> None:
    name = new_model(1)
    with pytest.raises(NotFoundError):
        run(move_alias(registry, name, ALIAS, 9))
    assert {request.method for request in proxy.take()} == {"GET"}
    assert state(name) == (1, "1")


def test_a_deleted_alias_keeps_its_history(run, new_model, state, registry) -> None:
    name = new_model(1, by_hand=2)
    run(delete_alias(registry, name, ALIAS))
    assert state(name) == (None, "1 2")
    with pytest.raises(NotFoundError, match=r"there is no such alias \(existing: none\)"):
        run(delete_alias(registry, name, ALIAS))
    run(move_alias(registry, name, ALIAS, 3))
    assert state(name) == (3, "1 2 3")


# -- the undertakings that faults, crashes and rivals are tried on


def move(registry: Registry, name: str) -> Call[Any]:
    return move_alias(registry, name, ALIAS, 3)


def guarded_move(registry: Registry, name: str) -> Call[Any]:
    return move_alias(registry, name, ALIAS, 3, expected_version=2)


def rollback(registry: Registry, name: str) -> Call[Any]:
    return rollback_alias(registry, name, ALIAS, "the-key")


def rollback_to(registry: Registry, name: str) -> Call[Any]:
    return rollback_alias(registry, name, ALIAS, "the-key", to_version=1)


def delete(registry: Registry, name: str) -> Call[Any]:
    return delete_alias(registry, name, ALIAS)


UNDERTAKINGS: dict[str, tuple[Callable[[Registry, str], Call[Any]], dict[str, Any]]] = {
    "a first move": (move, {"moves": ()}),
    "a move": (move, {"moves": (1, 2)}),
    "a move after one by hand": (move, {"moves": (1,), "by_hand": 2}),
    "a move expecting": (guarded_move, {"moves": (1, 2)}),
    "a rollback": (rollback, {"moves": (1, 2, 3)}),
    "a rollback after a move by hand": (rollback, {"moves": (1, 2), "by_hand": 3}),
    "a rollback over a deleted version": (rollback, {"moves": (1, 2, 3), "deleted": 2}),
    "a rollback of a deleted alias": (rollback, {"moves": (1, 2, 3), "deleted": 3}),
    "a rollback to a version": (rollback_to, {"moves": (1, 2, 3)}),
    "a deletion": (delete, {"moves": (1,), "by_hand": 2}),
}


@pytest.fixture(params=UNDERTAKINGS)
def undertaking(request, registry, new_model) -> Iterator[tuple[Callable[[str], Call[Any]], Callable[[], str]]]:
    call, past = UNDERTAKINGS[request.param]
    past = dict(past)
    moves = past.pop("moves")
    return partial(call, registry), lambda: new_model(*moves, **past)


def is_deletion(call: Any) -> bool:
    return call.func is delete


# These three have every write that there is.
@pytest.mark.parametrize(
    "undertaking", ["a move after one by hand", "a rollback after a move by hand", "a deletion"], indirect=True
)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_any_write_leave_no_trace(undertaking, fault, run, state, proxy) -> None:
    call, prepare = undertaking
    undisturbed = prepare()
    run(call(undisturbed))
    writes = [request for request in proxy.take() if request.method != "GET"]
    assert writes
    for position, write in enumerate(writes):
        name, seen = prepare(), itertools.count()
        fault_of = proxy.fail(write.path, write.method, **FAULTS[fault])
        is_write, position_of_path = fault_of.match, sum(w.path == write.path for w in writes[:position])
        fault_of.match = lambda r, m=is_write, p=position_of_path, seen=seen: m(r) and next(seen) == p
        run(call(name))
        assert fault_of.times == 0, "the fault was not played"
        assert state(name) == state(undisturbed)


def test_retry_after_is_waited_for(new_model, run, proxy, monkeypatch, registry) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transport_module.time, "sleep", waits.append)
    for path in PATHS.values():
        proxy.fail(path, "POST", status=429, headers={"Retry-After": "7"})
    run(move(registry, new_model()))
    assert waits == [7.0, 7.0]


def test_a_crash_at_any_point_is_made_good_by_the_retry(undertaking, run, state) -> None:
    call, prepare = undertaking
    undisturbed = prepare()
    run(call(undisturbed))
    for count in itertools.count(1):
        name = prepare()
        crashed = crash_after(call(name), run, count)
        try:
            run(call(name))
        except NotFoundError:
            # The operator knows a retry and takes a missing alias for the work of its earlier try.
            assert is_deletion(call)
        assert state(name) == state(undisturbed), f"crash after {count} requests"
        if not crashed:
            break
    assert count > 2


def test_a_retry_of_a_finished_rollback_takes_back_nothing_more(run, new_model, state, registry) -> None:
    name = new_model(1, 2, 3)
    run(rollback(registry, name))
    run(rollback(registry, name))
    assert state(name) == (2, "1 2")
    run(rollback_alias(registry, name, ALIAS, "another-key"))
    assert state(name) == (1, "1")


def test_a_rollback_begun_before_another_move_is_not_finished_over_it(run, new_model, state, registry) -> None:
    """The worker died between the alias and the history; somebody moved the alias; then the retry came."""
    name = new_model(1, 2, 1, 2)
    assert crash_after(rollback(registry, name), run, 4)
    assert state(name) == (1, "1 2 1 2")
    run(move_alias(registry, name, ALIAS, 3))
    with pytest.raises(AliasConflictError, match="somebody moved it meanwhile"):
        run(rollback(registry, name))
    assert state(name) == (3, "1 2 1 2 1 3")


def test_a_rival_at_any_point_is_told_or_recorded(new_model, run, state, faulty, registry) -> None:
    """Somebody else's whole move happens between any two requests of ours."""
    for count in itertools.count():
        name = new_model(1)
        ours, moved, told = move(registry, name), False, False
        try:
            request = next(ours)
            for _ in range(count):
                request = ours.send(run(single(request)))
            moved = faulty.direct(move_alias(registry, name, ALIAS, 2)).version == 2
            while True:
                request = ours.send(run(single(request)))
        except StopIteration:
            pass
        except AliasConflictError:
            told = True
        if not moved:
            break
        assert told or state(name) == (3, "1 2 3"), f"after {count} requests"
    assert count > 3


# -- two at once in every order: too many for a real server, so for a toy of one, checked against the real one


class Toy:
    """As much of an MLflow server as aliases need, in memory."""

    def __init__(self, *moves: int, by_hand: int | None = None) -> None:
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pointed_to: list[int] = []
        for version in moves:
            Race(self, [move_alias(REGISTRY, "a.b.c", ALIAS, version)]).finish()
        if by_hand:
            self.aliases[ALIAS] = str(by_hand)
            self.pointed_to.append(by_hand)

    @property
    def is_told_to_people(self) -> bool:
        """Whether the tag that people read says what the records say."""
        alias = int(self.aliases[ALIAS]) if ALIAS in self.aliases else None
        return self.tags.get(HISTORY, "") == history_of(self.tags, ALIAS, alias).format()

    @property
    def state(self) -> tuple[int | None, tuple[int, ...]]:
        alias = int(self.aliases[ALIAS]) if ALIAS in self.aliases else None
        return alias, history_of(self.tags, ALIAS, alias).reconcile(alias).versions

    def answer(self, request: Request) -> Response:
        match request.method, request.path.removeprefix(REGISTRY.prefix), request.json or request.params:
            case "GET", "/registered-models/get", {"name": name}:
                aliases = [{"alias": alias, "version": version} for alias, version in self.aliases.items()]
                tags = [{"key": key, "value": value} for key, value in self.tags.items()]
                body: dict[str, Any] = {"registered_model": {"name": name, "aliases": aliases, "tags": tags}}
            case "GET", "/model-versions/get", {"name": name, "version": version}:
                body = {"model_version": {"name": name, "version": version}}
            case "GET", "/model-versions/search", _:
                body = {"model_versions": [{"name": "a.b.c", "version": str(v)} for v in (1, 2, 3)]}
            case "POST", "/registered-models/alias", {"alias": alias, "version": version}:
                self.aliases[alias] = version
                self.pointed_to.append(int(version))
                body = {}
            case "DELETE", "/registered-models/alias", {"alias": alias}:
                self.aliases.pop(alias, None)
                body = {}
            case "POST", "/registered-models/set-tag", {"key": key, "value": value}:
                self.tags[key] = value
                body = {}
            case "DELETE", "/registered-models/delete-tag", {"key": key}:
                self.tags.pop(key, None)
                body = {}
            case unknown:
                raise AssertionError(unknown)
        return Response(200, json.dumps(body))


def commute(one: Request, other: Request) -> bool:
    """Whether the order of two requests makes no difference."""

    def touched(request: Request) -> str:
        if request.path.endswith("/registered-models/get"):
            return "all"
        return "" if request.method == "GET" else request.path + str((request.json or {}).get("key"))

    if one.method == other.method == "GET":
        return True
    first, second = touched(one), touched(other)
    return not first or not second or ("all" not in (first, second) and first != second)


class Race:
    """Calls on one server, each waiting with one request; results are what they returned, or AliasConflictError."""

    def __init__(self, toy: Toy, calls: list[Call[Any]]) -> None:
        self.toy, self.calls = toy, calls
        self.results: list[Any] = [None] * len(calls)
        self.waiting: dict[int, Request] = {index: next(call) for index, call in enumerate(calls)}
        self.last: tuple[int, Request] | None = None

    def options(self) -> list[int]:
        """Who may go next; of orders that make no difference only the one with the lower first."""

        def is_new(index: int) -> bool:
            return self.last is None or index > self.last[0] or not commute(self.last[1], self.waiting[index])

        return [index for index in self.waiting if (self.last and index == self.last[0]) or is_new(index)]

    def step(self, index: int) -> None:
        request = self.waiting.pop(index)
        self.last = index, request
        try:
            self.waiting[index] = self.calls[index].send(self.toy.answer(request))
        except StopIteration as stop:
            self.results[index] = stop.value
        except AliasConflictError as error:
            self.results[index] = error

    def finish(self) -> Race:
        while self.waiting:
            self.step(min(self.waiting))
        return self

    @property
    def told(self) -> bool:
        return any(isinstance(result, AliasConflictError) for result in self.results)


def every_order(start: Callable[[], Race]) -> Iterator[Race]:
    """Run the race in every order that makes a difference."""
    trail: list[list[int]] = []
    while True:
        race = start()
        for options in trail:
            race.step(options[0])
        while race.waiting and (options := race.options()):
            trail.append(options)
            race.step(options[0])
        if not race.waiting:
            yield race
        while trail and len(trail[-1]) == 1:
            trail.pop()
        if not trail:
            return
        trail[-1].pop(0)


def to_two() -> Call[Any]:
    return move_alias(REGISTRY, "a.b.c", ALIAS, 2)


def to_three() -> Call[Any]:
    return move_alias(REGISTRY, "a.b.c", ALIAS, 3)


def to_two_from_one() -> Call[Any]:
    return move_alias(REGISTRY, "a.b.c", ALIAS, 2, expected_version=1)


def to_three_from_one() -> Call[Any]:
    return move_alias(REGISTRY, "a.b.c", ALIAS, 3, expected_version=1)


def back() -> Call[Any]:
    return rollback_alias(REGISTRY, "a.b.c", ALIAS, "key-of-one")


def back_again() -> Call[Any]:
    return rollback_alias(REGISTRY, "a.b.c", ALIAS, "key-of-another")


RIVALS = {
    "two moves": (to_two, to_three, {"moves": (1,)}),
    "two first moves": (to_two, to_three, {"moves": ()}),
    "two moves after one by hand": (to_two, to_three, {"moves": (), "by_hand": 1}),
    "the same move twice": (to_two, to_two, {"moves": (1,)}),
    "two moves from one": (to_two_from_one, to_three_from_one, {"moves": (1,)}),
    "two moves from one by hand": (to_two_from_one, to_three_from_one, {"moves": (), "by_hand": 1}),
    "a move from one and another": (to_two_from_one, to_three, {"moves": (1,)}),
    "a move and a rollback": (to_three, back, {"moves": (1, 2)}),
    "a move and a rollback after one by hand": (to_three, back, {"moves": (1,), "by_hand": 2}),
    "two rollbacks": (back, back_again, {"moves": (1, 2, 3)}),
}


@pytest.mark.parametrize("rivals", RIVALS)
def test_two_at_once_act_one_after_the_other_or_one_is_told(rivals) -> None:
    *calls, past = RIVALS[rivals]
    moves, by_hand = past["moves"], past.get("by_hand")

    def start(order: int = 1) -> Race:
        return Race(Toy(*moves, by_hand=by_hand), [call() for call in calls[::order]])

    in_turn = [race.toy.state for race in (start().finish(), start(-1).finish()) if not race.told]
    silent = 0
    for race in every_order(start):
        assert race.toy.is_told_to_people
        if race.told:
            assert set(race.toy.state[1]) <= set(race.toy.pointed_to)
        else:
            silent += 1
            # What came of it is what comes of one after the other, or else the history tells every move there was
            alias, history = race.toy.state
            assert (alias, history) in in_turn or list(history) == race.toy.pointed_to, race.results
    assert bool(silent) == bool(in_turn)


@pytest.mark.parametrize("is_killed", [False, True], ids=["goes on", "is killed"])
@pytest.mark.parametrize("moves", [(), (1,), (1, 4)])
def test_no_late_write_takes_a_move_away(moves, is_killed) -> None:
    """Others move the alias twice between any two requests of ours; after the last of them we may be killed."""
    for count, more in itertools.product(range(7), (0, 1, 2, 99)):
        toy = Toy(*moves)
        race = Race(toy, [move_alias(REGISTRY, "a.b.c", ALIAS, 5)])
        for _ in range(count):
            race.step(0)
        for version in (2, 3):
            Race(toy, [move_alias(REGISTRY, "a.b.c", ALIAS, version)]).finish()
        for _ in range(more):
            if race.waiting:
                race.step(0)
        if not is_killed:
            race.finish()
        _, history = toy.state
        assert history[: len(moves)] == moves
        kept = [version for version in history if version in (2, 3)]
        assert kept == [2, 3], (count, more, toy.tags)
        assert is_killed or toy.is_told_to_people


def test_the_toy_answers_as_the_server_does(mlflow_server, model_name) -> None:
    name, run = model_name, Transport(mlflow_server.url, verify=False).run
    toy = Toy(1, 2)
    run(REGISTRY.create_registered_model(name, tags=toy.tags))
    for _ in range(3):
        run(REGISTRY.create_model_version(name, SOURCE))
    run(REGISTRY.set_registered_model_alias(name, ALIAS, 2))
    script: list[Call[Any]] = [
        REGISTRY.get_registered_model(name),
        REGISTRY.get_model_version(name, 2),
        REGISTRY.set_registered_model_alias(name, ALIAS, 3),
        REGISTRY.set_registered_model_tag(name, "k", "v"),
        REGISTRY.get_registered_model(name),
        REGISTRY.delete_registered_model_alias(name, ALIAS),
        REGISTRY.get_registered_model(name),
    ]
    for call in script:
        request = next(call)
        real, ours = run(single(request)), toy.answer(request)
        assert real.status == ours.status
        for key, value in (ours.body() or {}).items():
            shown = (real.body() or {})[key]
            for part, said in value.items():
                assert sorted(map(str, shown.get(part, []))) == sorted(map(str, said)), (request, part)
