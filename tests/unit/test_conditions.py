"""Conditions decide from facts alone: no server, no clock."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_uc_models.conditions import Failed, Met, NewModelVersion, Waiting, condition_from_json
from airflow_uc_models.entities import ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import InvalidArgumentError, ModelVersionFailedError, NotFoundError

NAME = "prod.ml_team.fraud"
MODEL = RegisteredModel(NAME)
NOW = 1_800_000_000.0
STATUSES = ("READY", "PENDING_REGISTRATION", "FAILED_REGISTRATION")


def versions(*statuses, age=0.0, tags=None):
    """Versions 1, 2, ... in these states, given by their first letters."""
    full = {status[0]: status for status in STATUSES}
    created = int((NOW - age) * 1000)
    return [
        ModelVersion(NAME, number, full[letter], created_at=created, tags=tags or {})
        for number, letter in enumerate(statuses, 1)
    ]


def outcome(condition, found, model=MODEL):
    """The decision in short: ``met 3``, ``failed 2`` or ``waiting``."""
    decided = condition.decide(model, found, NOW)
    if isinstance(decided, Waiting):
        assert decided.reason.endswith(".")
        return "waiting"
    return f"{'met' if isinstance(decided, Met) else 'failed'} {decided.version.version}"


@pytest.mark.parametrize(
    ("after", "found", "expected"),
    [
        # nothing handled yet: the newest READY one
        (None, "", "waiting"),
        (None, "R", "met 1"),
        (None, "RRR", "met 3"),
        (None, "RRP", "met 2"),
        (None, "RRF", "met 2"),
        (None, "FRF", "met 2"),
        (None, "FP", "waiting"),
        (None, "PF", "failed 2"),
        (None, "F", "failed 1"),
        # in order, oldest first
        (0, "RRR", "met 1"),
        (1, "RRR", "met 2"),
        (2, "RRR", "met 3"),
        (3, "RRR", "waiting"),
        (9, "RRR", "waiting"),
        # failed ones when their turn comes
        (0, "RFR", "met 1"),
        (1, "RFR", "failed 2"),
        (2, "RFR", "met 3"),
        (0, "PF", "waiting"),
        # pending ones keep newer ones waiting
        (0, "PR", "waiting"),
        (0, "RP", "met 1"),
        (1, "RP", "waiting"),
    ],
)
def test_which_version(after, found, expected):
    condition = NewModelVersion(NAME, after_version=after)
    assert outcome(condition, versions(*found)) == expected
    assert outcome(condition, versions(*found)[::-1]) == expected  # in whatever order they come


@pytest.mark.parametrize(
    ("after", "found", "expected"),
    [(0, "PR", "met 2"), (0, "PPR", "met 3"), (0, "PF", "failed 2"), (0, "P", "waiting"), (None, "P", "waiting")],
)
def test_pending_versions_are_waited_for_an_hour(after, found, expected):
    condition = NewModelVersion(NAME, after_version=after)
    assert outcome(condition, versions(*found, age=3599)) == "waiting"
    assert outcome(condition, versions(*found, age=3601)) == expected


def test_a_pending_version_of_unknown_age_holds_nobody_up():
    found = [replace(v, created_at=None) for v in versions("P", "R")]
    assert outcome(NewModelVersion(NAME, after_version=0), found) == "met 2"


def test_a_missing_model():
    decided = NewModelVersion(NAME).decide(None, [], NOW)
    assert isinstance(decided, Failed)
    assert isinstance(decided.error, NotFoundError)
    assert NAME in str(decided.error)
    assert "missing_ok" in str(decided.error)
    assert decided.version is None
    assert isinstance(NewModelVersion(NAME, missing_ok=True).decide(None, [], NOW), Waiting)


def test_a_failed_version_says_why():
    (version,) = versions("F")
    decided = NewModelVersion(NAME).decide(MODEL, [replace(version, status_message="no space left.")], NOW)
    assert isinstance(decided.error, ModelVersionFailedError)
    assert f"Version 1 of {NAME} ended in FAILED_REGISTRATION: no space left. Register" in str(decided.error)
    assert decided.error.permanent


def test_tags_must_all_match():
    found = [
        replace(v, tags=tags)
        for v, tags in zip(versions("R", "R", "R"), ({}, {"a": "1"}, {"a": "1", "b": "2"}), strict=True)
    ]
    assert outcome(NewModelVersion(NAME, 0, tags={"a": "1", "b": "2"}), found) == "met 3"
    assert outcome(NewModelVersion(NAME, 0, tags={"a": "1"}), found) == "met 2"
    assert outcome(NewModelVersion(NAME, 0, tags={"a": "2"}), found) == "waiting"
    assert outcome(NewModelVersion(NAME, None, tags={"a": "1"}), found) == "met 3"


def test_versions_that_do_not_match_neither_fail_nor_hold_up():
    failed, pending, ready = versions("F", "P", "R")
    found = [failed, pending, replace(ready, tags={"a": "1"})]
    assert outcome(NewModelVersion(NAME, 0, tags={"a": "1"}), found) == "met 3"


def test_alias_decides_which():
    found = versions("R", "R", "F")
    aliased = {alias: RegisteredModel(NAME, aliases={"Champion": alias}) for alias in (1, 2, 3)}
    for after in (None, 0, 1):
        condition = NewModelVersion(NAME, after_version=after, alias="Champion")
        assert outcome(condition, found, aliased[2]) == "met 2"
        assert outcome(condition, found, aliased[3]) == "failed 3"
        assert outcome(condition, found, MODEL) == "waiting"
    assert outcome(NewModelVersion(NAME, 1, alias="Champion"), found, aliased[1]) == "waiting"
    assert outcome(NewModelVersion(NAME, None, alias="Champion"), found, aliased[1]) == "met 1"


def test_descriptions_name_all_that_is_asked_for():
    assert NewModelVersion(NAME).describe() == f"a READY version of {NAME}"
    full = NewModelVersion(NAME, 3, {"a": "1"}, "Champion").describe()
    assert full == f"a READY version of {NAME} newer than 3 with tags {{'a': '1'}} with alias 'Champion'"


def test_an_unknown_kind_is_refused():
    with pytest.raises(InvalidArgumentError, match="new_model_version"):
        condition_from_json({"kind": "no_such", "model_name": NAME})


def test_what_an_earlier_or_later_release_stored_is_read():
    assert condition_from_json({"kind": "new_model_version", "model_name": NAME}) == NewModelVersion(NAME)
    stored = NewModelVersion(NAME, 2).to_json() | {"of_a_later_release": True}
    assert condition_from_json(stored) == NewModelVersion(NAME, 2)


def test_the_stored_format():
    """Deferred tasks outlive upgrades: a change here must still read what is stored."""
    assert NewModelVersion(NAME, 2, {"a": "1"}, "Champion", missing_ok=True).to_json() == {
        "kind": "new_model_version",
        "model_name": NAME,
        "after_version": 2,
        "tags": {"a": "1"},
        "alias": "Champion",
        "missing_ok": True,
    }


def test_events_are_plain_json():
    met, failed = Met(versions("R")[0]).to_event(), Failed(NotFoundError("gone"), versions("F")[0]).to_event()
    assert (met["outcome"], met["version"]["uri"]) == ("met", f"models:/{NAME}/1")
    assert (failed["outcome"], failed["message"], failed["version"]["version"]) == ("failed", "gone", 1)
    assert json.loads(json.dumps([met, failed])) == [met, failed]
    assert Failed(NotFoundError("gone")).to_event()["version"] is None


TAGS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)
CONDITIONS = st.builds(
    NewModelVersion,
    model_name=st.just(NAME),
    after_version=st.none() | st.integers(0, 8),
    tags=st.none() | TAGS,
    alias=st.none() | st.sampled_from(["x", "y"]),
    missing_ok=st.booleans(),
)
VERSIONS = st.lists(
    st.builds(
        ModelVersion,
        name=st.just(NAME),
        version=st.integers(1, 10),
        status=st.sampled_from(STATUSES),
        tags=TAGS,
        created_at=st.none() | st.integers(int((NOW - 7200) * 1000), int(NOW * 1000)),
    ),
    unique_by=lambda v: v.version,
    max_size=10,
)
MODELS = st.none() | st.builds(
    RegisteredModel, name=st.just(NAME), aliases=st.dictionaries(st.sampled_from("xy"), st.integers(1, 10))
)


@given(CONDITIONS)
def test_conditions_survive_json(condition):
    assert condition_from_json(json.loads(json.dumps(condition.to_json()))) == condition


@given(CONDITIONS, MODELS, VERSIONS)
def test_a_version_that_is_returned_is_new_ready_and_matches(condition, model, found):
    decided = condition.decide(model, found, NOW)
    if isinstance(decided, Met):
        version = decided.version
        assert version in found
        assert version.is_ready
        assert version.version > (condition.after_version or 0)
        assert (condition.tags or {}).items() <= version.tags.items()
        assert condition.alias is None or model.aliases[condition.alias] == version.version
    elif isinstance(decided, Failed) and decided.version:
        assert decided.version.status == "FAILED_REGISTRATION"
        assert decided.version.version > (condition.after_version or 0)
    else:
        assert isinstance(decided, Waiting) or (model is None and not condition.missing_ok)


@given(VERSIONS, st.integers(0, 8))
def test_runs_one_after_the_other_take_every_ready_version_in_order(found, start):
    """What a chain of Dag runs sees when nothing is pending: each new version once, none left out."""
    assume(all(v.status != "PENDING_REGISTRATION" for v in found))
    handled, after = [], start
    while not isinstance(decided := NewModelVersion(NAME, after).decide(MODEL, found, NOW), Waiting):
        after = decided.version.version
        handled.append(after)
    assert handled == sorted(v.version for v in found if v.version > start)
