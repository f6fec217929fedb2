"""Events: what two looks at a registry tell, and that nothing is left out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models import events
from airflow_uc_models.entities import FAILED_REGISTRATION, PENDING_REGISTRATION, READY
from airflow_uc_models.events import ModelEvent, ModelState, VersionState, apply, diff

NAME = "prod.ml_team.fraud"
words = st.sampled_from(["a", "b", "c"])
tags = st.dictionaries(words, words, max_size=3)
numbers = st.integers(1, 6)
versions = st.builds(VersionState, st.sampled_from([READY, PENDING_REGISTRATION, FAILED_REGISTRATION]), tags)
models = st.builds(
    ModelState,
    created_at=st.sampled_from([1000, 2000]),
    versions=st.dictionaries(numbers, versions, max_size=5),
    aliases=st.dictionaries(st.sampled_from(["Champion", "Canary"]), numbers, max_size=2),
    tags=tags,
)
states = st.dictionaries(st.sampled_from([NAME, "prod.ml_team.churn", "dev.ml_team.fraud"]), models, max_size=3)


@given(states, states)
def test_replaying_what_happened_over_the_first_look_gives_the_second(before, after):
    assert apply(diff(before, after), before) == after


@given(states)
def test_nothing_has_happened_between_two_equal_looks(state):
    assert diff(state, {name: replace(model) for name, model in state.items()}) == []


@given(states, states)
def test_every_event_is_of_a_known_kind_and_has_a_key_of_its_own(before, after):
    told = diff(before, after)
    assert {event.kind for event in told} <= events.KINDS
    assert len({event.key for event in told}) == len(told)
    assert [event.key for event in diff(before, after)] == [event.key for event in told]


@given(models, models, st.integers(1, 100))
def test_the_same_change_at_another_time_has_another_key_unless_it_can_happen_only_once(before, after, sequence):
    after = replace(after, created_at=before.created_at)
    once = diff({NAME: before}, {NAME: after})
    again = diff({NAME: replace(before, sequence=sequence)}, {NAME: after})
    repeatable = events.ALIAS_KINDS | events.MODEL_TAG_KINDS | events.VERSION_TAG_KINDS
    for first, second in zip(once, again, strict=True):
        assert (first.key != second.key) == (first.kind in repeatable), first


@given(states, states)
def test_what_one_look_did_not_read_makes_no_event(before, after):
    def without(state):
        return {
            name: replace(
                model,
                aliases=None,
                tags=None,
                versions={number: replace(version, tags=None) for number, version in model.versions.items()},
            )
            for name, model in state.items()
        }

    kinds = events.MODEL_KINDS | events.VERSION_KINDS
    # a model that is gone is told with its aliases, if they were ever read
    told = [e for e in diff(before, without(after)) if e.kind != events.MODEL_VERSION_ALIAS_DELETED]
    assert {event.kind for event in told} <= kinds
    assert [e for e in told if e.kind in kinds] == [e for e in diff(before, after) if e.kind in kinds]


@given(models)
def test_a_state_survives_its_journey_through_json(model):
    assert ModelState.from_json(json.loads(json.dumps(model.to_json()))) == model
    again = ModelState.from_json(replace(model, sequence=7, changes={"alias/Champion": 2}).to_json())
    assert (again.sequence, again.changes) == (7, {"alias/Champion": 2})


@given(states, states)
def test_an_event_survives_its_journey_through_json(before, after):
    for event in diff(before, after):
        assert ModelEvent.from_json({**json.loads(json.dumps(event.to_json())), "of a later release": 1}) == event


def test_ten_thousand_versions_are_kept_in_a_line():
    model = ModelState(1, {n: VersionState(READY) for n in range(1, 10_001) if n != 77})
    assert model.to_json()["versions"] == {READY: "1-76,78-10000"}


def kinds_of(before, after):
    return [event.kind for event in diff({NAME: before} if before else {}, {NAME: after} if after else {})]


def test_a_first_version_is_told_as_model_and_version():
    after = ModelState(1, {1: VersionState(READY, {"team": "x"})}, {"Champion": 1}, {})
    assert kinds_of(None, after) == [
        "registered_model.created",
        "model_version.created",
        "model_version.ready",
        "model_version_tag.set",
        "model_version_alias.created",
    ]


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (PENDING_REGISTRATION, READY, ["model_version.ready"]),
        (PENDING_REGISTRATION, FAILED_REGISTRATION, ["model_version.failed"]),
        (READY, PENDING_REGISTRATION, ["model_version.deleted", "model_version.created"]),
        (None, PENDING_REGISTRATION, ["model_version.created"]),
        (None, READY, ["model_version.created", "model_version.ready"]),
        (READY, None, ["model_version.deleted"]),
    ],
)
def test_the_life_of_a_version(before, after, kinds):
    def model(status):
        return ModelState(1, {1: VersionState(status)} if status else {})

    assert kinds_of(model(before), model(after)) == kinds


def test_a_moved_alias_says_from_where_to_where():
    before, after = ModelState(1, {}, {"Champion": 3}), ModelState(1, {}, {"Champion": 5})
    [moved] = diff({NAME: before}, {NAME: after})
    assert (moved.kind, moved.alias, moved.from_version, moved.version) == (
        "model_version_alias.created",
        "Champion",
        3,
        5,
    )
    assert moved.to_json()["uri"] == f"models:/{NAME}/5"


def test_a_model_that_is_made_again_under_its_name_is_another_one():
    before = ModelState(1000, {1: VersionState(READY)}, {}, {})
    told = diff({NAME: before}, {NAME: replace(before, created_at=2000)})
    assert [event.kind for event in told] == [
        "model_version.deleted",
        "registered_model.deleted",
        "registered_model.created",
        "model_version.created",
        "model_version.ready",
    ]
    first = diff({}, {NAME: before})
    assert not {event.key for event in first} & {event.key for event in told if event.kind.endswith("ready")}


@given(models, models, models)
def test_keys_of_a_change_do_not_depend_on_what_else_has_changed_before_it(first, second, third):
    """A killed watcher looks again, and sees at once what it had told in two parts."""
    first = replace(first, created_at=1, sequence=9)
    second = replace(second, created_at=1, aliases=first.aliases)
    third = replace(second, aliases=third.aliases)
    between = events.diff_model(NAME, first, second)
    later = events.diff_model(NAME, events.told(first, second, between), third)
    at_once = {event.key for event in events.diff_model(NAME, first, third)}
    assert {event.key for event in [*between, *later]} == at_once


@given(models, models)
def test_what_was_told_is_not_told_again_and_the_unread_is_told_when_it_is_read(before, after):
    after = replace(after, created_at=before.created_at)
    unread = replace(after, aliases=None, versions={n: VersionState(v.status) for n, v in after.versions.items()})
    first = events.diff_model(NAME, before, unread)
    known = events.told(before, unread, first)
    assert events.diff_model(NAME, known, unread) == []
    rest = events.diff_model(NAME, known, after)
    assert apply([*first, *rest], {NAME: before}) == {NAME: after}
