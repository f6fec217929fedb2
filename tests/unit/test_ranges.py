"""Sets of numbers as short text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.ranges import from_ranges, to_ranges


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([7], "7"),
        ([0], "0"),
        ([1, 2], "1-2"),
        ([1, 2, 3, 5], "1-3,5"),
        ([5, 3, 1, 2, 3], "1-3,5"),
        ([2, 4, 6], "2,4,6"),
        (range(1, 10_001), "1-10000"),
    ],
)
def test_to_ranges(numbers, text):
    assert to_ranges(numbers) == text
    assert from_ranges(text) == set(numbers)


@given(st.sets(st.integers(0, 200)))
def test_there_and_back(numbers):
    assert from_ranges(to_ranges(numbers)) == numbers


@given(st.sets(st.integers(0, 200)))
def test_as_few_ranges_as_can_be_in_order(numbers):
    """A range for each number that none precedes; in order, and numbers alone where there is one."""
    parts = [part.split("-") for part in to_ranges(numbers).split(",") if part]
    assert [int(part[0]) for part in parts] == sorted(n for n in numbers if n - 1 not in numbers)
    assert [int(part[-1]) for part in parts] == sorted(n for n in numbers if n + 1 not in numbers)
    assert all(len(set(part)) == len(part) for part in parts)


@given(st.lists(st.integers(0, 200)))
def test_order_and_repetition_do_not_matter(numbers):
    assert to_ranges(numbers) == to_ranges(set(numbers)) == to_ranges(reversed(numbers))


@pytest.mark.parametrize("text", ["x", "-1", "1-", "1,,2", "1;2", "1-2-3"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="invalid literal"):
        from_ranges(text)
