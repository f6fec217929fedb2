"""The conditions about tags, aliases and registered models, from facts alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.conditions import (
    AliasedModelVersion,
    Failed,
    Met,
    NewRegisteredModel,
    TaggedModelVersion,
    Waiting,
    condition_from_json,
)
from airflow_uc_models.entities import ModelVersion, RegisteredModel
from airflow_uc_models.exceptions import ModelVersionFailedError, NotFoundError

NAME, SCHEMA = "prod.ml_team.fraud", "prod.ml_team"
STATUSES = {"R": "READY", "P": "PENDING_REGISTRATION", "F": "FAILED_REGISTRATION"}


def version(status="R", number=3, **tags):
    return ModelVersion(NAME, number, STATUSES[status], tags=tags)


def short(outcome):
    """``met``, ``failed`` or ``waiting``; what is said is a sentence."""
    if not isinstance(outcome, Met):
        assert (outcome.reason if isinstance(outcome, Waiting) else str(outcome.error)).endswith(".")
    return type(outcome).__name__.lower()


# -- tags


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (version(), "waiting"),
        (version(other="yes"), "waiting"),
        (version(approval="no"), "waiting"),
        (version(approval="Yes"), "waiting"),
        (version(approval=""), "waiting"),
        (version(approval="yes"), "met"),
        (version(approval="ok"), "met"),
        (version(approval="bad"), "failed"),
        (version("P"), "waiting"),
        (version("P", approval="yes"), "waiting"),
        (version("P", approval="bad"), "failed"),
        (version("F"), "failed"),
        (version("F", approval="yes"), "failed"),
        (None, "failed"),
    ],
)
def test_a_tag(found, expected):
    condition = TaggedModelVersion(NAME, "approval", version=3, values=["yes", "ok"], failed_values=["bad"])
    assert short(condition.decide(found)) == expected


def test_any_value_of_a_tag():
    condition = TaggedModelVersion(NAME, "approval", version=3)
    assert short(condition.decide(version())) == "waiting"
    assert short(condition.decide(version(approval=""))) == "met"
    assert short(condition.decide(version(approval="bad"))) == "met"
    condition = TaggedModelVersion(NAME, "approval", version=3, failed_values=["bad"])
    assert short(condition.decide(version(approval="bad"))) == "failed"


def test_a_failed_registration_counts_before_the_tag():
    condition = TaggedModelVersion(NAME, "approval", version=3, failed_values=["bad"])
    assert isinstance(condition.decide(version("F", approval="bad")).error, ModelVersionFailedError)


def test_a_rejected_version_is_told():
    found = version(approval="bad")
    outcome = TaggedModelVersion(NAME, "approval", version=3, failed_values=["bad"]).decide(found)
    assert outcome.version is found
    assert str(outcome.error).startswith(f"Tag 'approval' of version 3 of {NAME} is 'bad'")
    assert outcome.error.permanent


def test_what_a_wait_for_a_tag_lacks_is_told():
    condition = TaggedModelVersion(NAME, "approval", alias="Champion", values=["yes"])
    assert condition.decide(version()).reason == f"Tag 'approval' of version 3 of {NAME} is not set."
    assert condition.decide(version(approval="no")).reason == f"Tag 'approval' of version 3 of {NAME} is 'no'."
    missing = str(condition.decide(None).error)
    assert missing.startswith(f"There is no version of {NAME} with alias 'Champion', or ")
    assert "missing_ok=True" in missing


# -- aliases

ALIASED = RegisteredModel(NAME, aliases={"Champion": 3, "Canary": 9})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "met"),
        ({"version": 3}, "met"),
        ({"version": 2}, "waiting"),
        ({"newer_than": 2}, "met"),
        ({"newer_than": 0}, "met"),
        ({"newer_than": 3}, "waiting"),
        ({"newer_than": 4}, "waiting"),
        ({"other_than": 2}, "met"),
        ({"other_than": 4}, "met"),
        ({"other_than": 3}, "waiting"),
        ({"newer_than": 2, "other_than": 3}, "waiting"),
        ({"newer_than": 2, "other_than": 2}, "met"),
    ],
)
def test_an_alias(options, expected):
    condition = AliasedModelVersion(NAME, "Champion", **options)
    number = condition.target(ALIASED)
    assert number == (3 if expected == "met" else None)
    assert short(condition.decide(ALIASED, version() if number else None)) == expected
    assert condition.target(RegisteredModel(NAME)) is None
    assert short(condition.decide(RegisteredModel(NAME), None)) == "waiting"


@pytest.mark.parametrize(("status", "expected"), [("R", "met"), ("P", "waiting"), ("F", "failed")])
def test_an_alias_must_point_to_a_ready_version(status, expected):
    outcome = AliasedModelVersion(NAME, "Champion").decide(ALIASED, version(status))
    assert short(outcome) == expected
    if expected == "failed":
        assert outcome.version.version == 3


def test_what_a_wait_for_an_alias_lacks_is_told():
    wanted = AliasedModelVersion(NAME, "champion", version=4)
    assert wanted.decide(ALIASED, None).reason == f"{NAME} has no alias 'champion' yet (existing: Canary, Champion)."
    assert AliasedModelVersion(NAME, "Champion", version=4).decide(ALIASED, None).reason == (
        f"Alias 'Champion' of {NAME} points to version 3."
    )


# -- registered models


def model(name, created_at):
    return RegisteredModel(f"{SCHEMA}.{name}", created_at=created_at)


@pytest.mark.parametrize(
    ("after", "found", "expected"),
    [
        (None, [], None),
        (None, [model("a", 1), model("b", 3), model("c", 2)], "b"),
        (None, [model("a", 1), model("b", None)], "a"),
        ((0, ""), [model("a", 1), model("b", 3), model("c", 2)], "a"),
        ((1, "a"), [model("a", 1), model("b", 3), model("c", 2)], "c"),
        ((1, "a"), [model("c", 1), model("b", 1), model("a", 1)], "b"),
        ((1, "b"), [model("c", 1), model("b", 1), model("a", 1)], "c"),
        ((3, "b"), [model("a", 1), model("b", 3), model("c", 2)], None),
        ((3, "b"), [model("b", 4)], "b"),
        ((3, "b"), [model("a", None)], None),
    ],
)
def test_the_oldest_new_model_of_a_schema(after, found, expected):
    created_at, name = after or (None, None)
    condition = NewRegisteredModel(schema=SCHEMA, after_created_at=created_at, after_name=name and f"{SCHEMA}.{name}")
    for models in (found, found[::-1]):
        outcome = condition.decide(models)
        assert short(outcome) == ("met" if expected else "waiting")
        assert not expected or outcome.entity.name == f"{SCHEMA}.{expected}"


def test_a_model_by_its_name():
    condition = NewRegisteredModel(model_name=NAME)
    assert short(condition.decide([])) == "waiting"
    assert condition.decide([model("fraud", None)]) == Met(model("fraud", None))


@given(st.sets(st.tuples(st.integers(1, 3), st.sampled_from("abcdef"))), st.integers(0, 3))
def test_runs_one_after_the_other_take_every_new_model_once(models, start):
    """What a chain of Dag runs sees: each model that is newer than the first handled, once, in order."""
    present = [model(name, age) for age, name in models]
    handled, created_at, name = [], start, f"{SCHEMA}.c"
    while isinstance(
        outcome := NewRegisteredModel(schema=SCHEMA, after_created_at=created_at, after_name=name).decide(present), Met
    ):
        created_at, name = outcome.entity.created_at, outcome.entity.name
        handled.append((created_at, name.rpartition(".")[2]))
    assert handled == sorted(pair for pair in models if pair > (start, "c"))


# -- what all of them do

MISSING = {
    f"version 3 of {NAME}": lambda ok: TaggedModelVersion(NAME, "approval", version=3, missing_ok=ok).decide(None),
    f"registered model {NAME}": lambda ok: AliasedModelVersion(NAME, "Champion", missing_ok=ok).decide(None, None),
    f"schema {SCHEMA}": lambda ok: NewRegisteredModel(schema=SCHEMA, missing_ok=ok).decide(None),
}


@pytest.mark.parametrize("what", [*MISSING, "schema of the model"])
def test_what_is_missing_fails_unless_that_is_ok(what):
    decide = MISSING.get(what, lambda ok: NewRegisteredModel(model_name=NAME, missing_ok=ok).decide(None))
    what = what if what in MISSING else f"schema {SCHEMA}"
    outcome = decide(False)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, NotFoundError)
    assert str(outcome.error).startswith(f"There is no {what}, or ")
    assert decide(True) == Waiting(f"There is no {what} yet.")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (TaggedModelVersion(NAME, "a", version=3), f"tag 'a' of the version 3 of {NAME}"),
        (
            TaggedModelVersion(NAME, "a", alias="Champion", values=["x", "y"]),
            f"tag 'a' of the version of {NAME} with alias 'Champion' to be 'x' or 'y'",
        ),
        (AliasedModelVersion(NAME, "Champion"), f"alias 'Champion' of {NAME} to point to a READY version"),
        (AliasedModelVersion(NAME, "Champion", version=3), f"alias 'Champion' of {NAME} to point to version 3"),
        (
            AliasedModelVersion(NAME, "Champion", newer_than=1, other_than=2),
            f"alias 'Champion' of {NAME} to point to a version newer than 1 and another version than 2",
        ),
        (NewRegisteredModel(model_name=NAME), f"registered model {NAME}"),
        (NewRegisteredModel(schema=SCHEMA), f"a registered model in {SCHEMA}"),
        (NewRegisteredModel(None, SCHEMA, 1, NAME), f"a registered model in {SCHEMA} newer than {NAME}"),
    ],
)
def test_descriptions_name_all_that_is_asked_for(condition, said):
    assert condition.describe() == said


STORED = [
    {
        "kind": "tagged_model_version",
        "model_name": NAME,
        "tag": "approval",
        "version": 3,
        "alias": None,
        "values": ["yes", "ok"],
        "failed_values": ["bad"],
        "missing_ok": True,
    },
    {
        "kind": "aliased_model_version",
        "model_name": NAME,
        "alias": "Champion",
        "version": 1,
        "newer_than": 2,
        "other_than": 3,
        "missing_ok": True,
    },
    {
        "kind": "new_registered_model",
        "model_name": None,
        "schema": SCHEMA,
        "after_created_at": 1_800_000_000_000,
        "after_name": NAME,
        "missing_ok": True,
    },
]


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored["kind"])
def test_the_stored_format(stored):
    """Deferred tasks outlive upgrades: a change here must still read what is stored."""
    condition = condition_from_json(stored)
    assert {"kind": condition.kind, **{key: getattr(condition, key) for key in stored if key != "kind"}} == stored
    assert json.loads(json.dumps(condition.to_json())) == stored
    assert condition_from_json(stored | {"of_a_later_release": True}) == condition


@pytest.mark.parametrize(
    ("stored", "condition"),
    [
        ({"model_name": NAME, "tag": "a"}, TaggedModelVersion(NAME, "a")),
        ({"model_name": NAME, "alias": "a"}, AliasedModelVersion(NAME, "a")),
        ({}, NewRegisteredModel()),
    ],
)
def test_what_need_not_be_stored(stored, condition):
    assert condition_from_json({"kind": condition.kind, **stored}) == condition


def test_events_are_plain_json():
    event = Met(RegisteredModel(NAME, aliases={"Champion": 3}, tags={"a": "b"})).to_event()
    assert (event["outcome"], event["model"]["uri"], "version" in event) == ("met", f"models:/{NAME}", False)
    assert json.loads(json.dumps(event)) == event
    assert "model" not in Met(version()).to_event()


def test_a_model_is_no_version():
    assert Met(version()).version == Met(version()).entity
    with pytest.raises(TypeError, match=NAME):
        Met(RegisteredModel(NAME)).version  # noqa: B018
