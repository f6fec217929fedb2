"""Entities are plain JSON in XCom and come back whole."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.entities import (
    FAILED_REGISTRATION,
    PENDING_REGISTRATION,
    READY,
    LoggedModel,
    ModelVersion,
    RegisteredModel,
    Run,
)

words = st.text(max_size=8)
times = st.none() | st.integers(0, 2**53)
models = st.builds(
    RegisteredModel,
    name=words,
    description=st.none() | words,
    aliases=st.dictionaries(words, st.integers(1, 99)),
    tags=st.dictionaries(words, words),
    created_at=times,
    updated_at=times,
    owner=st.none() | words,
)
versions = st.builds(
    ModelVersion,
    name=words,
    version=st.integers(1, 10**18 - 1),
    status=st.sampled_from([PENDING_REGISTRATION, READY, FAILED_REGISTRATION]),
    aliases=st.lists(words, max_size=3),
    tags=st.dictionaries(words, words),
    run_id=st.none() | words,
    source=st.none() | words,
    description=st.none() | words,
    created_at=times,
)


@given(models | versions)
def test_xcom_is_json_and_comes_back_whole(entity: Any) -> None:
    xcom = json.loads(json.dumps(entity.to_xcom()))
    assert type(entity).from_xcom(xcom) == entity
    assert xcom["uri"] == entity.uri


def test_unknown_keys_of_a_later_release_are_left_out() -> None:
    xcom = ModelVersion("a.b.c", 3).to_xcom() | {"from_the_future": 1}
    assert ModelVersion.from_xcom(xcom) == ModelVersion("a.b.c", 3)


def test_what_an_earlier_release_did_not_write_has_a_default() -> None:
    assert ModelVersion.from_xcom({"name": "a.b.c", "version": 3}) == ModelVersion("a.b.c", 3)


def test_xcom_shares_nothing_with_the_entity() -> None:
    version = ModelVersion("a.b.c", 3, tags={"k": "v"})
    version.to_xcom()["tags"]["k"] = "changed"
    assert version.tags == {"k": "v"}


def test_fields_that_the_next_task_reads() -> None:
    """A stored format: renaming one of these breaks Dags."""
    assert list(ModelVersion("a.b.c", 3).to_xcom()) == [
        "name",
        "version",
        "status",
        "status_message",
        "aliases",
        "tags",
        "run_id",
        "model_id",
        "source",
        "storage_location",
        "description",
        "created_at",
        "updated_at",
        "created_by",
        "uri",
    ]
    assert list(RegisteredModel("a.b.c").to_xcom()) == [
        "name",
        "description",
        "aliases",
        "tags",
        "created_at",
        "updated_at",
        "owner",
        "deployment_job_id",
        "uri",
    ]


def test_uris() -> None:
    assert RegisteredModel("a.b.c").uri == "models:/a.b.c"
    assert ModelVersion("a.b.c", 3).uri == "models:/a.b.c/3"


@pytest.mark.parametrize(
    ("status", "ready"), [(READY, True), (PENDING_REGISTRATION, False), (FAILED_REGISTRATION, False)]
)
def test_only_ready_versions_are_ready(status, ready) -> None:
    assert ModelVersion("a.b.c", 3, status).is_ready is ready


@pytest.mark.parametrize(
    "entity", [RegisteredModel("a.b.c"), ModelVersion("a.b.c", 1), LoggedModel("m-1", "m"), Run("r")], ids=repr
)
def test_entities_do_not_change(entity) -> None:
    for field in dataclasses.fields(entity):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(entity, field.name, "other")
    assert not hasattr(entity, "__dict__")


def test_two_entities_share_no_defaults() -> None:
    ModelVersion("a.b.c", 1).tags["k"] = "v"
    assert ModelVersion("a.b.c", 2).tags == {}
