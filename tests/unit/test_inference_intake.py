"""Rows that cannot be given to a model, and rows on which it fails: found, told and put aside."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from airflow_uc_models.engines.intake import Intake
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.schema import arrow_type, features_of
from airflow_uc_models.engines.tables import Part, open_table
from airflow_uc_models.environments import scoring
from airflow_uc_models.environments.scoring import Asked, score
from airflow_uc_models.exceptions import InputDataError, PredictionError
from airflow_uc_models.signatures import Signature


def signature(**types):
    columns = [ColSpec(kind, name) for name, kind in types.items()]
    return Signature.of_mlmodel({"signature": {"inputs": Schema(columns).to_json()}})


def taken(sign, batch, kept=None, schema=None):
    schema = schema or batch.schema
    intake = Intake(features_of(sign.inputs, schema, "they"), schema, kept or batch.schema.names, quarantines=True)
    return intake.of(Part(batch, Location.parse("/data/in.parquet"), 1))


def test_values_that_do_not_fit_are_told_and_the_others_go_on():
    batch = pa.record_batch(
        {
            "id": ["a", "b", "c", "d"],
            "n": pa.array([1, None, 3, None], pa.int32()),
            "x": pa.array([1, 2, 2**53 + 1, 2**53 + 1], pa.int64()),
        }
    )
    found = taken(signature(n="integer", x="double"), batch)
    assert found.kept.to_pydict() == {"id": ["a"], "n": [1], "x": [1]}
    assert found.rows.to_pydict() == {"n": [1], "x": [1.0]}
    assert found.rows.schema.types == [pa.int32(), pa.float64()]
    assert list(found.good) == [0]
    assert found.bad == [
        (1, "column 'n' has no value, and the model takes int32"),
        (2, "column 'x' has '9007199254740993', which is no double"),
        (
            3,
            "column 'n' has no value, and the model takes int32; column 'x' has '9007199254740993', which is no double",
        ),
    ]


def test_a_bad_value_in_a_list_is_a_matter_of_its_row_only():
    sign = Signature.of_mlmodel({"signature": {"inputs": Schema([ColSpec(Array(DataType.double), "v")]).to_json()}})
    found = taken(sign, pa.record_batch({"v": [[1], [2, 2**53 + 1], [3], []]}))
    assert [row for row, _ in found.bad] == [1]
    assert found.rows["v"].to_pylist() == [[1.0], [3.0], []]


def test_days_beyond_the_range_of_nanoseconds_are_told():
    days = pa.array([datetime.date(2024, 1, 31), datetime.date(9999, 12, 31)])
    found = taken(signature(d="datetime"), pa.record_batch({"d": days}))
    assert [row for row, _ in found.bad] == [1]


def test_times_that_python_does_not_have_are_told():
    batch = pa.record_batch({"t": pa.array([0, 2**60], pa.timestamp("us"))})
    assert taken(signature(t="datetime"), batch).bad[0][0] == 1


def test_columns_of_csv_whose_first_rows_are_empty_or_times():
    """Types are guessed from these where there is no signature."""
    schema = pa.schema({"n": pa.null(), "t": pa.time32("s")})
    batch = pa.record_batch({"n": ["", "", "x", ""], "t": ["10:00:01", "", "", "noon"]})
    intake = Intake(features_of(None, schema, "they"), schema, schema.names, quarantines=True)
    found = intake.of(Part(batch, Location.parse("/data/in.csv"), 1))
    assert found.kept.to_pydict() == {"n": [None, None], "t": [datetime.time(10, 0, 1), None]}
    assert [row for row, _ in found.bad] == [2, 3]


def test_gaps_that_the_model_takes_are_no_bad_rows():
    found = taken(signature(x="double", s="string"), pa.record_batch({"x": [None, 1.0], "s": ["a", None]}))
    assert (found.bad, found.good) == ((), None)
    assert found.rows.num_rows == 2


VALUES = {
    "double": ["1", " 1.5 ", "1e5", "-0", "inf", "NaN", "", "NA", "null", "n.a.", "1,5", "0x10", "1.5x", " "],
    "long": ["1", " -7 ", "+1", "007", "1.0", "9223372036854775808", "", "NULL", "one"],
    "integer": ["2147483647", "2147483648", "-1", ""],
    "boolean": ["true", "False", "1", "0", "yes", "", "TRUE", " true", "tRuE"],
    "datetime": ["2024-01-31", "2024-01-31 12:00:00", "2024-01-31T12:00:00.5", "2024-13-01", "31.1.2024", "", "n/a",
                 "2024-01-31 12:00:00+02:00", " 2024-01-31"],
    "string": ["", " a ", "NA", "null"],
    "float": ["1.5", "1e60", "x"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in VALUES.items() for text in texts])
def test_text_means_what_it_means_when_arrow_reads_csv(tmp_path, kind, text):
    """Arrow's own reader, which is used without quarantine, is the judge."""
    wanted = arrow_type({"type": kind})
    (tmp_path / "a.csv").write_text(f'x,y\n"{text}",0\n')
    table = open_table(Location.parse(str(tmp_path / "a.csv")))
    try:
        [read] = table.typed({"x": wanted}).parts(["x"], 10)
        expected = read.batch["x"].to_pylist()
    except InputDataError:
        expected = None
    found = taken(signature(x=kind), pa.record_batch({"x": [text]}), schema=pa.schema([("x", wanted)]))
    if expected == [None] and pa.types.is_integer(wanted):
        assert found.bad == [(0, f"column 'x' has no value, and the model takes {wanted}")]
    elif expected is None:
        assert found.bad == [(0, f"column 'x' has {text!r}, which is no {wanted}")]
    else:
        assert not found.bad
        np.testing.assert_equal(found.kept["x"].to_pylist(), expected)


def test_long_values_are_cut_in_the_reason():
    batch = pa.record_batch({"x": ["y" * 10_000]})
    [(_, reason)] = taken(signature(x="double"), batch, schema=pa.schema([("x", pa.float64())])).bad
    assert len(reason) < 200


def test_dates_that_the_type_does_not_have():
    batch = pa.record_batch({"x": pa.array([datetime.datetime(9999, 1, 1), None], pa.timestamp("s"))})
    found = taken(signature(x="datetime"), batch)
    assert [index for index, _ in found.bad] == [0]


# -- the model fails


class Model:
    """Predicts x; fails if one of the rows has a bad value."""

    def __init__(self, bad=(), error=ValueError):
        self.bad = set(bad)
        self.error = error
        self.calls = 0

    def __call__(self, frame):
        self.calls += 1
        if self.bad & set(frame["x"]):
            raise self.error(f"{len(frame)} rows")
        return frame["x"].to_numpy() * 2


def numbers(count):
    return pa.record_batch({"x": pa.array(range(count), pa.int64())})


QUARANTINE = Asked(quarantines=True)


@pytest.mark.parametrize("bad", [[0], [999], [500, 501], [3, 400, 401, 402, 999], list(range(0, 1000, 97))])
def test_rows_on_which_the_model_fails_are_found(bad):
    model = Model(bad)
    found = score(model, numbers(1000), QUARANTINE)
    assert list(found.bad) == [(index, "ValueError: 1 rows") for index in bad]
    assert found.columns["prediction"].to_pylist() == [2 * n for n in range(1000) if n not in bad]
    assert model.calls <= 2 + 2 * 11 * len(bad)


def test_nothing_is_searched_without_quarantine():
    model = Model([3])
    with pytest.raises(PredictionError, match=r"^ValueError: # rows \(in __call__, test_inference_intake.py line"):
        score(model, numbers(10), Asked())
    assert model.calls == 1


def test_rows_without_a_prediction_are_bad_rows():
    found = score(lambda frame: frame["x"][frame["x"] != 4].to_numpy(), numbers(10), QUARANTINE)
    assert list(found.bad) == [(4, "The model returned 0 values of 'prediction' for 1 rows.")]
    assert len(found.columns) == 9


def test_a_model_that_cannot_predict_at_all_is_told_soon():
    model = Model(range(100_000))
    with pytest.raises(PredictionError, match="fails on each of the first 20 rows: ValueError: # rows"):
        score(model, numbers(100_000), QUARANTINE)
    assert model.calls < 80


def test_a_bad_stretch_is_none_if_the_model_has_worked_before():
    asked = Asked(quarantines=True, has_worked=True)
    found = score(Model(range(50)), numbers(50), asked)
    assert found.columns is None
    assert len(found.bad) == 50


def test_the_search_is_bounded(monkeypatch):
    monkeypatch.setattr(scoring, "MOST_CALLS", 100)
    model = Model(range(0, 1000, 2))
    with pytest.raises(PredictionError, match="fails on too many of 1,000 rows"):
        score(model, numbers(1000), QUARANTINE)
    assert model.calls == 101


def test_too_little_memory_is_no_bad_row():
    with pytest.raises(MemoryError):
        score(Model([3], MemoryError), numbers(10), QUARANTINE)


def test_reasons_are_short():
    def fail(frame):
        raise ValueError("x" * 5000)

    [(_, reason)] = score(fail, numbers(1), QUARANTINE).bad
    assert len(reason) < 600
