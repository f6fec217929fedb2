"""Which versions are pending: pure, against answers that a test gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from airflow_uc_models.entities import FAILED_REGISTRATION, PENDING_REGISTRATION, READY, ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError, InvalidNameError
from airflow_uc_models.registry.pending import _age, _parse_scope, _settled, parse_time

DAY = 24 * 3600
NOW = 100 * DAY


def version(number, status=READY, age=0.0, name="c.s.m"):
    return ModelVersion(name, number, status, created_at=int((NOW - age) * 1000))


@pytest.mark.parametrize(
    ("listed", "handled", "settled"),
    [
        ([], set(), set()),
        ([version(1), version(2)], set(), set()),
        ([version(1), version(2, FAILED_REGISTRATION)], set(), {2}),
        ([version(1), version(2, PENDING_REGISTRATION)], set(), set()),
        # below a version of yesterday, what is missing is gone
        ([version(4, age=DAY + 1)], {1}, {2, 3}),
        ([version(4, age=DAY - 1)], {1}, set()),
        ([version(2, age=2 * DAY), version(5)], set(), {1}),
        ([version(3, PENDING_REGISTRATION, age=2 * DAY), version(5, age=2 * DAY)], {1, 2}, {4}),
        ([ModelVersion("c.s.m", 3)], set(), set()),
    ],
)
def test_numbers_that_nobody_has_to_look_at_again(listed, handled, settled):
    assert _settled(listed, frozenset(handled), NOW) == settled


def test_oldest_first_then_by_name_and_number():
    versions = [
        version(1, age=1, name="c.s.b"),
        version(10, age=5, name="c.s.b"),
        version(9, age=5, name="c.s.b"),
        version(11, age=5, name="c.s.a"),
        ModelVersion("c.s.z", 1),
    ]
    assert [(v.name[-1], v.version) for v in sorted(versions, key=_age)] == [
        ("z", 1),
        ("a", 11),
        ("b", 9),
        ("b", 10),
        ("b", 1),
    ]


@pytest.mark.parametrize(
    ("scope", "parsed"),
    [
        ("prod.ml.fraud", ("prod.ml", "prod.ml.fraud")),
        ("prod.ml", ("prod.ml", None)),
        ("prod.ml.*", ("prod.ml", None)),
    ],
)
def test_scopes(scope, parsed):
    assert _parse_scope(scope) == parsed


@pytest.mark.parametrize("scope", ["", "prod", "a.b.c.d", "*", "prod.*", "*.ml.fraud", "a.b.c.*", "a..", ".b", None, 3])
def test_no_scopes(scope):
    with pytest.raises(InvalidNameError):
        _parse_scope(scope)


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (None, None),
        ("", None),
        ("None", None),
        (1_500, 1_500),
        ("1500", 1_500),
        ("1970-01-02", DAY * 1000),
        ("19700102", DAY * 1000),
        (19700102, DAY * 1000),
        (" 1970-01-02 ", DAY * 1000),
        ("1970-01-02T00:00:00Z", DAY * 1000),
        ("1970-01-02 01:00:00+01:00", DAY * 1000),
        (datetime(1970, 1, 2), DAY * 1000),
        (datetime(1970, 1, 2, tzinfo=UTC), DAY * 1000),
        (datetime(1970, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))), DAY * 1000),
    ],
)
def test_times(value, milliseconds):
    assert parse_time(value) == milliseconds


@pytest.mark.parametrize("value", ["yesterday", "2026-13-01", True, 1.5, ["2026-01-01"]])
def test_no_times(value):
    with pytest.raises(InvalidArgumentError, match="created_after is a time"):
        parse_time(value)
