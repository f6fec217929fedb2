"""The history of an alias, as its arithmetic and as what operators do to it over an alias's life."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_uc_models.alias_history import MAX_VALUE, AliasHistory, tag_key
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.names import parse_alias
from airflow_uc_models.registry.mlflow_rest import MLFLOW_SERVER, UNITY_CATALOG

numbers = st.integers(1, 10**18 - 1)
histories = st.lists(numbers, max_size=80).map(lambda versions: AliasHistory(tuple(versions)))
aliases = st.text(st.sampled_from("aAd_-1é"), min_size=1, max_size=255) | st.from_regex(r"[\w-]{1,255}", fullmatch=True)


# -- as a tag


@given(st.lists(aliases, min_size=2, max_size=6, unique=True))
@example(["a-b", "a_db", "a__b", "a_-b", "a-_b", "a_d_b"])
@example(["a" * 255, "a" * 254, "-" * 255, "_" * 255])
@example(["é", "e", "É"])
@example(["--", "_d-", "-_d", "_d_d-"])
def test_each_alias_has_a_key_of_its_own(several: list[str]) -> None:
    keys = [tag_key(alias, kind) for alias in several for kind in ("history", "rollback")]
    assert len(set(keys)) == len(keys)


@given(aliases)
def test_keys_are_legal_everywhere(alias: str) -> None:
    for kind in ("history", "rollback"):
        for registry in (MLFLOW_SERVER, UNITY_CATALOG):
            assert registry.tags is not None
            registry.tags.check_key(tag_key(alias, kind))


def test_keys_are_a_stored_format() -> None:
    assert tag_key("Champion") == "airflow_alias_history_Champion"
    assert tag_key("champion_2", "rollback") == "airflow_alias_rollback_champion_2"
    assert tag_key("a-b_c") == "airflow_encoded_alias_history_a_db__c"
    hashed = "airflow_hashed_alias_history_"
    assert tag_key("é").startswith(hashed)
    assert len(tag_key("a" * 255)) == len(hashed) + 64


@given(histories)
def test_histories_come_back(history: AliasHistory) -> None:
    assert AliasHistory.parse(history.format(10**6)) == history


@given(histories, st.integers(0, 1_100))
def test_long_histories_lose_their_oldest_versions(history: AliasHistory, room: int) -> None:
    text = history.format(room)
    assert len(text) <= room
    kept = AliasHistory.parse(text).versions
    assert history.versions[len(history.versions) - len(kept) :] == kept
    if len(kept) < len(history.versions):
        one_more = history.versions[-len(kept) - 1 :]
        assert len(" ".join(map(str, one_more))) > room


def test_values_are_legal_everywhere() -> None:
    text = AliasHistory(tuple(range(1, 5_000))).format()
    assert MAX_VALUE - 5 < len(text) <= MAX_VALUE
    for registry in (MLFLOW_SERVER, UNITY_CATALOG):
        assert registry.tags is not None
        registry.tags.check({"k": text})
    assert text.endswith(" 4998 4999")


@given(st.text())
@example("1 two 3 -4 5.0 ٦ ² 7")
@example("9" * 5_000)
def test_a_value_that_somebody_edited_is_read_as_far_as_it_goes(text: str) -> None:
    assert all(version >= 1 for version in AliasHistory.parse(text).versions)


def test_words_that_are_no_versions_are_left_out() -> None:
    assert AliasHistory.parse("1 two 3 -4 5.0 0 ٦ ² 7\n8").versions == (1, 3, 7, 8)
    assert AliasHistory.parse(None) == AliasHistory.parse("") == AliasHistory()


# -- arithmetic


def test_staying_is_no_move() -> None:
    assert AliasHistory((1,)).push(1).versions == (1,)
    assert AliasHistory((1,)).push(2).push(1).versions == (1, 2, 1)


def test_a_move_by_hand_is_added() -> None:
    assert AliasHistory((1, 2)).reconcile(3).versions == (1, 2, 3)
    assert AliasHistory((1, 2)).reconcile(2).versions == (1, 2)
    assert AliasHistory((1, 2)).reconcile(None).versions == (1, 2)
    assert AliasHistory().reconcile(None).versions == ()


@pytest.mark.parametrize(
    ("history", "steps", "existing", "left"),
    [
        ((1, 2), 1, (1, 2), (1,)),
        ((1, 2, 3), 2, (1, 2, 3), (1,)),
        ((1, 2, 3), 1, (1, 3), (1,)),
        ((1, 2, 1), 1, (1, 2), (1, 2)),
        # 3 is gone: the two 1s on its sides are one, and the step goes to 2
        ((2, 1, 3, 1, 4), 2, (1, 2, 4), (2,)),
        # with 2 gone the alias was at 1 before and is there now: no step
        ((3, 1, 2, 1), 1, (1, 3), (3,)),
        # the current version itself is gone
        ((1, 2), 1, (1,), (1,)),
    ],
)
def test_steps_back(history, steps, existing, left) -> None:
    assert AliasHistory(history).back(steps, existing).versions == left


@pytest.mark.parametrize(
    ("history", "steps", "existing", "told"),
    [
        ((1,), 1, (1,), r"it has 0 earlier version\(s\) that still exist \(none\), and 1 step\(s\) back"),
        ((), 1, (), "0 earlier"),
        ((1, 2, 3), 3, (1, 2, 3), r"2 earlier version\(s\) that still exist \(1, 2\), and 3"),
        ((1, 2), 1, (2,), "0 earlier"),
        ((1, 2, 1), 1, (1,), "0 earlier"),
        ((1, 2), 0, (1, 2), "at least 1"),
        ((1, 2), -1, (1, 2), "at least 1"),
    ],
)
def test_steps_too_far(history, steps, existing, told) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        AliasHistory(history).back(steps, existing)


def test_back_to_a_version() -> None:
    history = AliasHistory((1, 2, 1, 3))
    assert history.back_to(1, (1, 2, 3)).versions == (1, 2, 1)
    assert history.back_to(2, (2, 3)).versions == (2,)
    with pytest.raises(InvalidArgumentError, match=r"never pointed to version 4 before \(earlier: 1, 2, 1\)"):
        history.back_to(4, (1, 2, 3, 4))
    with pytest.raises(InvalidArgumentError, match="never pointed to version 3 before"):
        history.back_to(3, (1, 2, 3))
    with pytest.raises(InvalidArgumentError, match="version 2 was deleted"):
        history.back_to(2, (1, 3))


# -- the life of an alias


class AliasLife(RuleBasedStateMachine):
    """An alias that is moved by us and by hand, rolled back, deleted, and whose versions are deleted.

    The tag is what the code keeps; ``truth`` is written down beside it: the stack of moves, as a person would
    keep it on paper, told of moves by hand only when the code next looks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tag: str | None = None
        self.alias: int | None = None
        self.existing = {1}
        self.newest = 1
        self.truth: list[int] = []

    def look(self) -> tuple[AliasHistory, list[int]]:
        """What the code makes of tag and alias, and what a person makes of the stack and the alias."""
        stay = self.alias is None or self.truth[-1:] == [self.alias]
        return AliasHistory.parse(self.tag).reconcile(self.alias), self.truth + ([] if stay else [self.alias])

    def alive(self, versions: list[int]) -> list[int]:
        """The stack without deleted versions, and without stays that deletions make out of moves."""
        kept: list[int] = []
        for version in versions:
            if version in self.existing and kept[-1:] != [version]:
                kept.append(version)
        return kept

    @rule()
    def register(self) -> None:
        self.newest += 1
        self.existing.add(self.newest)

    @precondition(lambda self: self.existing)
    @rule(data=st.data())
    def move(self, data: Any) -> None:
        version = data.draw(st.sampled_from(sorted(self.existing)))
        history, stack = self.look()
        self.tag = history.push(version).format()
        self.alias = version
        self.truth = stack if stack[-1:] == [version] else [*stack, version]

    @precondition(lambda self: self.existing)
    @rule(data=st.data())
    def move_by_hand(self, data: Any) -> None:
        self.alias = data.draw(st.sampled_from(sorted(self.existing)))

    @rule()
    def delete_alias(self) -> None:
        history, self.truth = self.look()
        self.tag = history.format()
        self.alias = None

    @precondition(lambda self: self.existing)
    @rule(data=st.data())
    def delete_version(self, data: Any) -> None:
        version = data.draw(st.sampled_from(sorted(self.existing)))
        self.existing.discard(version)
        if self.alias == version:
            self.alias = None

    @rule(steps=st.integers(1, 4))
    def roll_back(self, steps: int) -> None:
        history, stack = self.look()
        if not stack:
            return
        earlier = self.alive(stack[:-1])
        while earlier[-1:] == stack[-1:]:
            earlier.pop()
        if len(earlier) < steps:
            with pytest.raises(InvalidArgumentError):
                history.back(steps, self.existing)
            return
        self.settle(history.back(steps, self.existing), earlier[: len(earlier) - steps + 1])

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def roll_back_to(self, data: Any) -> None:
        history, stack = self.look()
        version = data.draw(st.sampled_from(stack))
        if version not in stack[:-1] or version not in self.existing:
            with pytest.raises(InvalidArgumentError):
                history.back_to(version, self.existing)
            return
        last = max(index for index, known in enumerate(stack[:-1]) if known == version)
        after = history.back_to(version, self.existing)
        assert after.versions[-1] == version
        self.settle(after, self.alive(stack[: last + 1]))

    def settle(self, after: AliasHistory, stack: list[int]) -> None:
        """A rollback ends where the stack says, on a version that exists."""
        self.truth = stack
        assert after.versions == tuple(stack)
        assert after.versions[-1] in self.existing
        self.alias = after.versions[-1]
        self.tag = after.format()

    @invariant()
    def the_tag_tells_the_moves(self) -> None:
        history, stack = self.look()
        assert list(history.versions) == stack

    @invariant()
    def no_stay_is_recorded(self) -> None:
        versions = AliasHistory.parse(self.tag).versions
        assert all(one != other for one, other in itertools.pairwise(versions))


TestAliasLife = AliasLife.TestCase
TestAliasLife.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


@given(aliases)
def test_aliases_of_these_tests_are_what_registries_take(alias: str) -> None:
    """Else the keys above would prove nothing; reserved ones are refused earlier and harm nothing here."""
    if alias.lower() != "latest" and not (alias[0] in "vV" and alias[1:].isdecimal()):
        assert parse_alias(alias) == alias
