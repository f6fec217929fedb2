"""Sizes and ages as people write them, and how they are told."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.quantities import age_text, number_text, number_texts, parse_age, parse_size, size_text


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


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.96, "0.96"),
        (0.95987654, "0.9599"),
        (1, "1"),
        (-0.0, "0"),
        (123456.78, "123457"),
        (1.0e-9, "1e-9"),
        (1.23456e-7, "1.235e-7"),
        (0.000012344, "0.00001234"),
        (2.5e20, "2.5e+20"),
        (math.nan, "nan"),
        (-math.inf, "-infinity"),
    ],
)
def test_numbers_as_people_read_them(number, text):
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        ((0.95996, 0.96), ["0.95996", "0.96"]),
        ((0.9599, 0.96), ["0.9599", "0.96"]),
        ((0.1 + 0.2, 0.3), ["0.30000000000000004", "0.3"]),
        ((0.8534521, 0.8), ["0.8535", "0.8"]),
        ((0.5, 0.5), ["0.5", "0.5"]),
    ],
)
def test_numbers_that_differ_look_different(numbers, texts):
    assert number_texts(*numbers) == texts


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_texts_of_any_two_numbers_compare_as_the_numbers_do(one, other):
    texts = number_texts(one, other)
    assert (texts[0] == texts[1]) == (one == other)
    assert (float(texts[0]) <= float(texts[1])) or one > other


def test_a_time_looks_different_from_the_limit_that_it_exceeds():
    limit = timedelta(days=30)
    assert age_text(limit, limit) == "30 days"
    assert age_text(limit + timedelta(days=1), limit) == "31 days"
    assert age_text(limit + timedelta(minutes=1), limit) == "30.001 days"
    assert age_text(limit + timedelta(microseconds=1), limit) != "30 days"
