"""Row values never reach logs or exceptions, in whatever way a model or a file fails."""

from __future__ import annotations

import logging
import traceback
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, Object, Property

from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.local import score
from airflow_uc_models.engines.local_plan import plan_of
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.runners import InProcess
from airflow_uc_models.engines.tables import open_table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.redaction import described, safe_text

CANARY, NUMBER = "Zebulon-Quist", 48151.625
ROWS = {"name": ["Ann", CANARY], "x": [1.5, NUMBER], "blob": [b"", CANARY.encode()], "tags": [["a"], [CANARY]]}


def whole(frame):
    raise ValueError(f"cannot score {frame.to_dict()}")


def chained(frame):
    try:
        whole(frame)
    except ValueError as error:
        raise RuntimeError(f"on {frame['name'].iloc[-1].upper()}") from error


def key(frame):
    raise KeyError(frame["name"].iloc[-1])


def cut(frame):
    raise ValueError(f"bad customer{frame['name'].iloc[-1][:6]}, {frame['blob'].iloc[-1]!r}")


def number(frame):
    raise ArithmeticError(f"x is {frame['x'].iloc[-1]:.1f}")


def leave(frame):
    raise SystemExit(f"{frame}")


def echo(frame):
    return [1.5, frame["name"].iloc[-1]]


def other_type(frame):
    return [{"k": 1}, CANARY]


FAILURES = [whole, chained, key, cut, number, leave, echo, other_type]
PARTS = ("zebulon", "quist", "zebulo", "48151")


def run(tmp_path, predict, inputs, source="in.parquet", **options):
    job = InferenceJob(input=str(tmp_path / source), output=str(tmp_path / "out.parquet"), **options)
    signature = {"inputs": Schema(inputs).to_json(), "outputs": Schema([ColSpec("double")]).to_json()}
    plan = plan_of(job, open_table(Location.parse(job.input)), {"signature": signature}, ModelVersion("a.b.c", 1))
    return score(InProcess(predict), plan)


INPUTS = [
    ColSpec("string", "name"),
    ColSpec("double", "x"),
    ColSpec("binary", "blob"),
    ColSpec(Array("string"), "tags"),
]


def assert_nothing_is_told(caught, caplog):
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert not [part for part in PARTS if part in told.casefold()], told


@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
@pytest.mark.parametrize("predict", FAILURES)
def test_what_a_model_raises_is_told_without_values(tmp_path, caplog, predict, on_bad_rows):
    caplog.set_level(logging.DEBUG)
    pq.write_table(pa.table({name: values[1:] for name, values in ROWS.items()}), tmp_path / "in.parquet")
    with pytest.raises(Exception, match="row") as caught:
        run(tmp_path, predict, INPUTS, on_bad_rows=on_bad_rows)
    assert_nothing_is_told(caught, caplog)


def warn(frame):
    warnings.warn(f"odd: {frame['name'].iloc[0]}", RuntimeWarning, stacklevel=1)
    try:
        whole(frame)
    except ValueError as error:
        logging.getLogger("mlflow.models").warning("Failed on %s", frame["x"].iloc[0], exc_info=error)
    return frame["x"]


def test_what_mlflow_and_python_warn_of_is_told_without_values(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    pq.write_table(pa.table({name: values[1:] for name, values in ROWS.items()}), tmp_path / "in.parquet")
    with pytest.warns(RuntimeWarning, match="odd: #") as warned:
        run(tmp_path, warn, INPUTS)
    assert "Failed on #" in caplog.text
    told = caplog.text + "".join(str(item.message) for item in warned)
    assert not [part for part in PARTS if part in told.casefold()], told


def test_quarantined_rows_have_the_whole_reason(tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "in.parquet")

    def fail_on_one(frame):
        if (frame["x"] > 2).any():
            raise ValueError(f"{frame['name'].iloc[-1]} is too much")
        return frame["x"]

    assert run(tmp_path, fail_on_one, INPUTS, on_bad_rows="quarantine").bad_rows == 1
    [reason] = pq.read_table(tmp_path / "out.bad_rows.parquet")["reason"].to_pylist()
    assert reason == f"ValueError: {CANARY} is too much"


@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Array("long"), [[48151, None]]),
        (Object([Property("k", ColSpec("string").type)]), pa.array([{"k": None}], pa.struct([("k", pa.string())]))),
        ("long", pa.array([None], pa.int64())),
        ("double", [2**53 + 48151]),
    ],
    ids=str,
)
def test_what_mlflow_refuses_is_told_without_values(tmp_path, caplog, kind, values, on_bad_rows):
    pq.write_table(pa.table({"v": values, "name": [CANARY]}), tmp_path / "in.parquet")
    inputs = [ColSpec(kind, "v"), ColSpec("string", "name")]

    def predict(frame):
        return _enforce_schema(frame, Schema(inputs))["name"].map(len)

    with pytest.raises(Exception, match="row") as caught:
        run(tmp_path, predict, inputs, on_bad_rows=on_bad_rows)
    assert_nothing_is_told(caught, caplog)


@pytest.mark.parametrize("on_bad_rows", ["fail", "quarantine"])
@pytest.mark.parametrize("line", [f"{CANARY},b", f"{NUMBER},{CANARY},c", f"{NUMBER}"])
def test_what_csv_files_lack_is_told_without_values(tmp_path, caplog, line, on_bad_rows):
    (tmp_path / "in.csv").write_text(f"x,name\n{line}\n")
    with pytest.raises(Exception, match=r"[rR]ow") as caught:
        run(tmp_path, lambda f: f["x"], [ColSpec("double", "x")], "in.csv", on_bad_rows=on_bad_rows)
    assert_nothing_is_told(caught, caplog)


@given(st.text(min_size=4), st.sampled_from(["value {!r} of row", "{} is bad", "in<{}>", "x{}y"]))
def test_no_text_of_a_row_is_told(value, message):
    told = safe_text(message.format(value), [{"k": value}])
    for word in value.split():
        if word.isalpha() and len(word) >= 4 and word.casefold() not in message.casefold():
            assert word.casefold() not in told.casefold()


def test_what_helps_to_find_the_error_is_told():
    rows = pa.record_batch({"f0": [1.0], "city": ["Rome"]})
    error = KeyError("f0 of Rome is 1.0, which is negative")
    assert described(error, rows, ["f0", "city"]) == "KeyError: 'f0 of # is #, which is negative'"
    for given_rows in (rows.to_pandas(), rows.to_pylist(), np.array(["Rome"]), pd.Series(["Rome"]), ("Rome",)):
        assert "Rome" not in safe_text("Rome", given_rows)
