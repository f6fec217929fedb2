"""Signatures against tables, and predictions as columns. mlflow's own enforcement is the judge of the former."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import infer_signature
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array, Map, Object, Property

from airflow_uc_models.engines.casts import widened
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.predictions import PredictionColumns
from airflow_uc_models.engines.schema import accepts, arrow_type, features_of
from airflow_uc_models.engines.tables import Part
from airflow_uc_models.environments.scoring import Asked, frame, prediction_arrays
from airflow_uc_models.exceptions import InputDataError, InvalidArgumentError, ModelContentError, PredictionError
from airflow_uc_models.signatures import Field, Signature


def part(**columns):
    return Part(pa.record_batch(columns), Location.parse("/data/in.parquet"), 1)


def signature(*columns):
    """A signature as it is in an MLmodel file."""
    return Signature.of_mlmodel({"signature": {"inputs": Schema(list(columns)).to_json()}})


def features(sign, given):
    return features_of(sign and sign.inputs, given.batch.schema, "The columns of /data/in.parquet and m/1")


def frame_of(sign, given):
    """What pyfunc predicts on."""
    found = features(sign, given)
    return frame(found.of(given), Asked(as_tensor=found.as_tensor, is_enforced=found.is_enforced))


MOMENT = datetime.datetime(2024, 1, 31, 12)
ARROW = [
    *(pa.array([2, 3], t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *(pa.array([2, 3], t) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    *(pa.array(np.array([2.5, 3], t)) for t in ("float16", "float32", "float64")),
    pa.array([True, False]),
    pa.array([decimal.Decimal("2.5"), decimal.Decimal(3)]),
    *(pa.array(["a", "2"], t) for t in (pa.string(), pa.large_string(), pa.string_view())),
    *(pa.array([b"a", b"2"], t) for t in (pa.binary(), pa.large_binary(), pa.binary(1))),
    *(pa.array([MOMENT, MOMENT], pa.timestamp(unit)) for unit in ("s", "us", "ns")),
    pa.array([MOMENT, MOMENT], pa.timestamp("us", "UTC")),
    pa.array([MOMENT.date(), MOMENT.date()]),
    pa.array([MOMENT.time(), MOMENT.time()]),
    pa.array([None, None]),
    pa.array([[1.5], [2.0, 3.0]]),
    pa.array([[2], [3, 4]]),
    pa.array([["a"], []]),
    pa.array([{"k": 1}, {"k": 2}]),
    pa.array([[("k", 1.5)], []], pa.map_(pa.string(), pa.float64())),
]
MLFLOW = [
    *DataType,
    Array(DataType.double),
    Array(DataType.string),
    Object([Property("k", DataType.long)]),
    Map(DataType.double),
    AnyType(),
]
# Where this package takes more than mlflow does: all values are exact (checked one by one where they need not be) ...
MORE = {
    *((f"{u}int64", "double") for u in ("", "u")),
    *((f"{u}int{n}", "float") for u in ("", "u") for n in (8, 16)),
    ("list<item: int64>", "Array(double)"),
    ("null", "float"),
    ("timestamp[us, tz=UTC]", "datetime"),
}
# ... and less: for these mlflow lets everything pass that pandas holds as Python objects.
UNSEEN = {"string", "binary", "boolean"}


@pytest.mark.parametrize("kind", MLFLOW, ids=str)
@pytest.mark.parametrize("array", ARROW, ids=lambda a: str(a.type))
def test_accepts_what_mlflow_accepts(array, kind):
    given = part(x=array)
    spec = ColSpec(kind, "x").to_dict()
    plain = given.batch.to_pandas(maps_as_pydicts="strict")
    try:
        _enforce_schema(plain, Schema([ColSpec(kind, "x")]))
        mlflow_accepts = True
    except Exception:
        mlflow_accepts = False
    pair = (str(array.type), str(kind).removeprefix("DataType."))
    if accepts(spec, array.type):
        assert mlflow_accepts != (pair in MORE), pair
        given = frame_of(signature(ColSpec(kind, "x")), given)
        enforced = _enforce_schema(given, Schema([ColSpec(kind, "x")]))
        assert len(enforced) == 2
    else:
        assert not mlflow_accepts or (pair[1] in UNSEEN and plain["x"].dtype.kind == "O"), pair
        with pytest.raises(ModelContentError, match="column 'x' is "):
            features(signature(ColSpec(kind, "x")), given)


def test_optional_columns_may_be_absent_but_not_of_another_type():
    sign = signature(ColSpec("double", "x"), ColSpec("long", "y", required=False))
    given = part(x=[1.0])
    assert list(frame_of(sign, given).columns) == ["x"]
    with pytest.raises(ModelContentError, match="'y' is string"):
        features(sign, part(x=[1.0], y=["a"]))


def test_a_model_that_would_be_given_nothing():
    sign = signature(ColSpec("double", "x", required=False), ColSpec("long", "y", required=False))
    with pytest.raises(ModelContentError, match="can do without each of x, y, but not without all of them"):
        features(sign, part(id=[1]))


def test_other_columns_do_not_reach_the_model():
    given = part(id=[7], y=[1.0], x=[2.0])
    assert list(frame_of(signature(ColSpec("double", "x"), ColSpec("double", "y")), given).columns) == ["x", "y"]


def test_columns_without_names_go_by_position():
    sign = signature(ColSpec("double"), ColSpec("string"))
    given = part(a=[1], b=["u"])
    assert frame_of(sign, given).to_dict("list") == {"a": [1.0], "b": ["u"]}
    with pytest.raises(ModelContentError, match="'b' is double"):
        features(sign, part(a=[1], b=[2.0]))
    with pytest.raises(ModelContentError, match="asks for 2; the input has 1: a"):
        features(sign, part(a=[1]))


def test_a_tensor_takes_the_columns_in_order():
    given = np.array([[1, 2], [3, 4]], dtype="float32")
    sign = Signature.of_mlmodel({"signature": infer_signature(given).to_dict()})
    table = part(b=np.array([1, 3], "float32"), a=np.array([2, 4], "int16"))
    array = frame_of(sign, table)
    assert array.dtype == np.float32
    assert array.tolist() == given.tolist()
    with pytest.raises(ModelContentError, match=r"'b' is double; the model asks for tensor<float32, \[-1\]>"):
        features(sign, part(b=[1.0], a=[2.0]))


@pytest.mark.parametrize("given", [np.zeros((2, 3, 3)), {"a": np.zeros(2), "b": np.zeros(2)}])
def test_other_tensors_are_refused(given):
    sign = Signature.of_mlmodel({"signature": infer_signature(given).to_dict()})
    with pytest.raises(ModelContentError, match="tensors that a table of columns does not hold"):
        features(sign, part(a=[0.0], b=[0.0]))


def test_values_that_the_type_does_not_have():
    sign = signature(ColSpec("datetime", "x"))
    given = part(x=pa.array([datetime.datetime(9999, 1, 1)], pa.timestamp("s")))
    with pytest.raises(InputDataError, match=r"Column 'x' of rows 1 to 1 of /data/in\.parquet has a value that is no"):
        frame_of(sign, given)


def test_frames_for_models_without_signature_can_be_written_to():
    given = part(x=[1.0], y=[2.0])
    writable = frame_of(None, given)
    writable["x"].to_numpy()
    writable.loc[0, "x"] = 5.0
    assert given.batch["x"].to_pylist() == [1.0]


# -- predictions


def batch_of(predictions, rows, names=("prediction",)):
    arrays = prediction_arrays(predictions, rows, names)
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def columns_of(predictions, rows, outputs=(), kept=()):
    columns = PredictionColumns([Field.parse(entry) for entry in outputs], kept)
    arrays = columns.of(batch_of(predictions, rows, columns.names))
    return dict(zip(columns.schema.names, (a.to_pylist() for a in arrays), strict=True)), columns.schema.types


STRING, DOUBLE, LONG = pa.string(), pa.float64(), pa.int64()
SHAPES = [
    (np.array([1, 2]), {"prediction": [1, 2]}, [LONG]),
    (np.array([[1.5], [2.5]]), {"prediction": [1.5, 2.5]}, [DOUBLE]),
    (np.array([[1, 2], [3, 4]]).T, {"prediction": [[1, 3], [2, 4]]}, [pa.list_(LONG)]),
    (np.array(["a", "bc"]), {"prediction": ["a", "bc"]}, [STRING]),
    (np.array(["a", None], dtype=object), {"prediction": ["a", None]}, [STRING]),
    (np.array([True, False]), {"prediction": [True, False]}, [pa.bool_()]),
    (pd.Series([1.5, None], index=[7, 9], name="s"), {"prediction": [1.5, None]}, [DOUBLE]),
    (pd.Series(["a", "b"], dtype="category"), {"prediction": ["a", "b"]}, [STRING]),
    (pd.Series([1, None], dtype="Int64"), {"prediction": [1, None]}, [LONG]),
    (["a", None], {"prediction": ["a", None]}, [STRING]),
    ([[1.0], [2.0, 3.0]], {"prediction": [[1.0], [2.0, 3.0]]}, [pa.list_(DOUBLE)]),
    ([{"k": 1}, {"k": 2}], {"prediction": [{"k": 1}, {"k": 2}]}, [pa.struct([("k", LONG)])]),
    (pd.DataFrame({"p": [1.0, 2.0]}), {"prediction": [1.0, 2.0]}, [DOUBLE]),
    (pd.DataFrame({"p": [1, 2], "q": ["a", "b"]}, index=[5, 6]), {"p": [1, 2], "q": ["a", "b"]}, [LONG, STRING]),
    (pd.DataFrame([[1, 2], [3, 4]]), {"prediction_0": [1, 3], "prediction_1": [2, 4]}, [LONG, LONG]),
    ({"p": np.array([1, 2]), "q": ["a", "b"]}, {"p": [1, 2], "q": ["a", "b"]}, [LONG, STRING]),
]


@pytest.mark.parametrize(("given", "stored", "types"), SHAPES)
def test_what_models_return_becomes_columns(given, stored, types):
    found, found_types = columns_of(given, 2)
    if isinstance(given, pd.Series) and given.dtype == "float64":
        assert np.isnan(found["prediction"].pop())  # what the model said, not a gap
        stored["prediction"].pop()
    assert found == stored
    assert [pa.string() if t == pa.large_string() else t for t in found_types] == types


def test_the_signature_names_the_columns_of_an_array():
    outputs = [ColSpec("double", "low").to_dict(), ColSpec("double", "high").to_dict()]
    for given in (np.array([[1, 2], [3, 4]]), pd.DataFrame([[1, 2], [3, 4]])):
        found, types = columns_of(given, 2, outputs)
        assert found == {"low": [1.0, 3.0], "high": [2.0, 4.0]}
        assert types == [DOUBLE, DOUBLE]


def test_the_signature_widens_types_but_does_not_narrow_them():
    double, long = [ColSpec("double").to_dict()], [ColSpec("long").to_dict()]
    assert columns_of([None, None], 2, double)[1] == [DOUBLE]
    assert columns_of(np.array([1, 2]), 2, double)[1] == [DOUBLE]
    assert columns_of(np.array([1.0, 2.0]), 2, long)[1] == [DOUBLE]


def test_before_the_first_batch_the_signature_says_what_there_will_be():
    inferred = infer_signature(np.zeros((2, 2)), np.zeros((2, 3))).to_dict()
    outputs = Signature.of_mlmodel({"signature": inferred}).outputs
    assert PredictionColumns(outputs).schema == pa.schema([("prediction", pa.list_(DOUBLE))])
    named = [Field("p", {"type": "string"}), Field("q", {"type": "long"})]
    assert PredictionColumns(named).schema == pa.schema([("p", STRING), ("q", LONG)])
    assert PredictionColumns([]).schema == pa.schema([("prediction", pa.null())])


def test_later_batches_must_be_like_the_first():
    columns = PredictionColumns([])
    columns.of(batch_of(np.array([1.5]), 1))
    assert columns.of(batch_of(np.array([2]), 1))[0].type == DOUBLE
    with pytest.raises(PredictionError, match="returned 'prediction' as string for this batch, and as double before"):
        columns.of(batch_of(["high"], 1))
    columns = PredictionColumns([])
    columns.of(batch_of([None], 1))
    with pytest.raises(PredictionError, match="Log the model with a signature of its outputs, which tells their types"):
        columns.of(batch_of(["high"], 1))
    with pytest.raises(PredictionError, match="returned p, q for this batch, and prediction before"):
        columns.of(batch_of({"p": [1], "q": [2]}, 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([1, 2, 3]), "3 values of 'prediction' for 2 rows"),
        (np.zeros((2, 2, 2)), r"a ndarray of shape \(2, 2, 2\)"),
        (1.5, "returned a float"),
        ("ab", "returned a str"),
        (None, "returned a NoneType"),
        ([1, "a"], "cannot be stored as columns"),
        ([1j, 2j], "cannot be stored as columns"),
        ([2**70, 1], "cannot be stored as columns"),
        ({"label": 1.5}, "cannot be stored as columns"),
        ({"label": "ab"}, "cannot be stored as columns: one str is no column"),
        (pd.DataFrame([[1, 2], [3, 4]], columns=["p", "p"]), "columns of the same name: p, p"),
        (pd.DataFrame(index=range(2)), "returned no columns"),
        (np.zeros((2, 0)), "returned no columns"),
    ],
)
def test_what_is_no_prediction_for_each_row(given, message):
    with pytest.raises(PredictionError, match=message):
        columns_of(given, 2)


def test_names_that_the_output_has_already():
    with pytest.raises(InvalidArgumentError, match="has the column\\(s\\) prediction"):
        PredictionColumns([], ["id", "prediction"])
    columns = PredictionColumns([], ["p"])
    with pytest.raises(InvalidArgumentError, match="has the column\\(s\\) p already"):
        columns.of(batch_of({"p": [1], "q": [2]}, 1))


def test_types_without_an_arrow_form_are_passed_on():
    assert arrow_type({"type": "any"}) is None
    assert arrow_type({"type": "tensor", "tensor-spec": {"dtype": "object", "shape": [-1]}}) is None


@pytest.mark.parametrize("kind", [pa.decimal128(10, 2), pa.decimal256(50, 2)], ids=str)
def test_decimals_become_the_nearest_doubles_also_within_others(kind):
    """Arrow's own cast gives -498.77000000000004."""
    value = decimal.Decimal("-498.77")
    shapes = {
        "alone": (kind, pa.float64(), value, -498.77),
        "list": (pa.list_(kind), pa.list_(pa.float64()), [value, None], [-498.77, None]),
        "large list": (pa.large_list(kind), pa.list_(pa.float64()), [value], [-498.77]),
        "fixed list": (pa.list_(kind, 1), pa.list_(pa.float64()), [value], [-498.77]),
        "map": (pa.map_(pa.string(), kind), pa.map_(pa.string(), pa.float64()), [("a", value)], [("a", -498.77)]),
        "struct": (
            pa.struct([("a", kind), ("b", pa.string())]),
            pa.struct([("a", pa.float64()), ("b", pa.string())]),
            {"a": value, "b": "1"},
            {"a": -498.77, "b": "1"},
        ),
    }
    for found, wanted, given, expected in shapes.values():
        assert widened(pa.array([given, None], found), wanted) == pa.array([expected, None], wanted)
