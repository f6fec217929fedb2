"""What is handled: merging in any order, models that are made again, JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.watermark import Handled, Watermark, unbroken

NUMBERS = st.frozensets(st.integers(1, 30))
HANDLED = st.builds(Handled, st.none() | st.integers(0, 2), NUMBERS)
WATERMARKS = st.builds(Watermark, st.dictionaries(st.sampled_from("abc"), HANDLED))


@given(WATERMARKS)
def test_json_there_and_back(watermark):
    assert Watermark.from_json(json.loads(json.dumps(watermark.to_json()))) == watermark


def test_json_is_short():
    watermark = Watermark({"c.s.m": Handled(5, frozenset({*range(1, 10_000), 10_001}))})
    assert watermark.to_json() == {"c.s.m": {"created_at": 5, "versions": "1-9999,10001"}}


@given(WATERMARKS, WATERMARKS, WATERMARKS)
def test_merging_in_any_order_any_number_of_times(a, b, c):
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a
    assert a.merge(Watermark()) == a


@given(WATERMARKS, WATERMARKS)
def test_nothing_handled_is_forgotten_but_of_models_that_are_gone(a, b):
    merged = a.merge(b)
    assert set(merged.models) == set(a.models) | set(b.models)
    for name, handled in a.models.items():
        if name not in b.models or b.models[name].created_at == handled.created_at:
            assert handled.versions <= merged.of(name, handled.created_at)


@given(WATERMARKS, WATERMARKS)
def test_what_one_knows_and_the_other_does_not(a, b):
    rest = a.without(b)
    for name, handled in a.models.items():
        assert rest.of(name, handled.created_at) == handled.versions - b.of(name, handled.created_at)
    assert rest.merge(a) == a


def test_a_model_that_was_made_again_has_nothing_handled():
    old = Watermark({"c.s.m": Handled(1, frozenset({1, 2, 3}))})
    new = Watermark({"c.s.m": Handled(2, frozenset({1}))})
    assert old.of("c.s.m", 1) == {1, 2, 3}
    assert old.of("c.s.m", 2) == frozenset()
    assert old.of("c.s.other", 1) == frozenset()
    assert old.merge(new) == new.merge(old) == new


@given(NUMBERS)
def test_unbroken(numbers):
    last = unbroken(numbers)
    assert set(range(1, last + 1)) <= numbers
    assert last + 1 not in numbers
