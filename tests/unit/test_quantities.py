"""Sizes and ages as people write them, and how they are told."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.quantities import age_text, parse_age, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("2GiB", 2 << 30), ("7", 7), ("7B", 7), (7, 7), (7.0, 7)],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size("max_size", text) == size


@pytest.mark.parametrize(
    "text",
    [0, -1, 0.5, 1.5, True, None, "", "MB", "-5MB", "5 XB", "0", "0.1B", "1e3", "5MB 3KB", [5], math.nan, math.inf],
)
def test_what_is_no_size(text):
    with pytest.raises(InvalidArgumentError, match="max_size must be a number of bytes above 0"):
        parse_size("max_size", text)


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1 B"), (1000, "1 KB"), (1001, "1001 B"), (500_000_000, "500 MB"), (3 * 10**12, "3 TB")]
)
def test_sizes_are_told_whole(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("text", "age"),
    [
        (30, timedelta(days=30)),
        (0.5, timedelta(hours=12)),
        ("30", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("1 day", timedelta(days=1)),
        ("90 min", timedelta(minutes=90)),
        ("1.5 Hours", timedelta(minutes=90)),
        (timedelta(seconds=1), timedelta(seconds=1)),
    ],
)
def test_ages_as_people_write_them(text, age):
    assert parse_age("max_age", text) == age


@pytest.mark.parametrize(
    "text", [0, -1, timedelta(0), timedelta(-1), True, None, "", "day", "-1d", "5 months", "m", 1e300, math.nan, [1]]
)
def test_what_is_no_age(text):
    with pytest.raises(InvalidArgumentError, match="max_age must be a timedelta or a number of days above 0"):
        parse_age("max_age", text)


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(days=30), "30 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=36), "1.5 days"),
        (timedelta(minutes=90), "1.5 hours"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_ages_are_told_shortly(age, text):
    assert age_text(age) == text
