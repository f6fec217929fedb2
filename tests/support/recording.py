"""A model that tells what it was given, and columns of every MLflow type, for tests that values arrive as they are.

The judge is mlflow's own enforcement: ``expected`` gives it the same rows as Python values.
"""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array, Map, Object, Property


def told(given: Any) -> list[str]:
    """What a model was given, one text for each row: labels, dtypes, and the type and value of everything."""

    def one(value):
        kind = type(value).__name__
        if isinstance(value, dict):
            return f"{kind}{{{', '.join(f'{key!r}: {one(item)}' for key, item in sorted(value.items()))}}}"
        if isinstance(value, (list, tuple)):
            return f"{kind}[{', '.join(one(item) for item in value)}]"
        if hasattr(value, "tolist") and getattr(value, "ndim", 0):
            return f"{kind}<{value.dtype}>[{', '.join(one(item) for item in value)}]"
        return f"{kind}({value!r})"

    if not hasattr(given, "columns"):
        return [f"{given.dtype}{one(row)}" for row in given]
    parts = [
        [f"{label!r} {given.dtypes.iloc[i]} {one(value)}" for value in given.iloc[:, i]]
        for i, label in enumerate(given.columns)
    ]
    return ["; ".join(row) for row in zip(*parts, strict=True)]


class Recording(mlflow.pyfunc.PythonModel):
    """Predicts what it was given."""

    def predict(self, context, model_input, params=None):
        return told(model_input)


def save_recording(folder: Path) -> Path:
    """Save the model, with a signature to be replaced by ``with_inputs``."""
    import sys

    import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # other processes do not find it
    signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("string")]))
    mlflow.pyfunc.save_model(folder, python_model=Recording(), signature=signature, pip_requirements=["mlflow"])
    cloudpickle.unregister_pickle_by_value(module)
    return folder


def with_inputs(folder: Path, inputs: Schema) -> Path:
    """Give the saved model these inputs; no other file of it changes."""
    path = folder / "MLmodel"
    mlmodel = yaml.safe_load(path.read_text())
    mlmodel["signature"]["inputs"] = json.dumps(inputs.to_dict())
    path.write_text(yaml.safe_dump(mlmodel))
    return folder


@dataclass(frozen=True)
class Column:
    """An input of a model and values of it.

    :param values: as Python has them
    :param arrow: how a file has them, which may be narrower than what the model takes
    """

    name: Any
    kind: Any
    required: bool
    values: Sequence[Any]
    arrow: pa.DataType

    @property
    def spec(self) -> ColSpec:
        return ColSpec(self.kind, self.name, required=self.required) if self.name is not None else ColSpec(self.kind)

    @property
    def series(self) -> pd.Series:
        """The values as a caller of the model would have them."""
        dtypes = {DataType.integer: "int32", DataType.float: "float32"}
        dtype = dtypes.get(self.kind) if isinstance(self.kind, DataType) else None
        return pd.Series([_as_mlflow_wants(copy.deepcopy(v), self.kind) for v in self.values], dtype=dtype)


def table_of(columns: Sequence[Column]) -> pa.Table:
    """The columns as a file has them; its names are text."""
    names = [f"c{i}" if column.name is None else str(column.name) for i, column in enumerate(columns)]
    return pa.table([pa.array(c.values, c.arrow) for c in columns], names=names)


def schema_of(columns: Sequence[Column]) -> Schema:
    return Schema([column.spec for column in columns])


def expected(columns: Sequence[Column]) -> list[str] | None:
    """What mlflow gives the model of these rows; None if it refuses them."""
    names = [f"c{i}" if column.name is None else column.name for i, column in enumerate(columns)]
    frame = pd.concat([column.series for column in columns], axis=1)
    frame.columns = names
    try:
        return told(_enforce_schema(frame, schema_of(columns)))
    except Exception:
        return None


def _as_mlflow_wants(value: Any, kind: Any, *, is_top: bool = True) -> Any:
    """Numbers of 32 bits and times inside of others are told from longer ones by their NumPy types only."""
    if value is None:
        return None
    if isinstance(kind, Array):
        return [_as_mlflow_wants(item, kind.dtype, is_top=False) for item in value]
    if isinstance(kind, Map):
        return {key: _as_mlflow_wants(item, kind.value_type, is_top=False) for key, item in value.items()}
    if isinstance(kind, Object):
        kinds = {prop.name: prop.dtype for prop in kind.properties}
        return {key: _as_mlflow_wants(item, kinds[key], is_top=False) for key, item in value.items()}
    if isinstance(kind, AnyType):
        return value
    if kind == DataType.datetime:
        midnight = value if isinstance(value, datetime.datetime) else datetime.datetime(*value.timetuple()[:3])
        return midnight if is_top else np.datetime64(midnight, "ns")
    if kind == DataType.double:
        return float(value)
    if is_top:
        return value
    return {DataType.integer: np.int32, DataType.float: np.float32}.get(kind, lambda item: item)(value)


@dataclass(frozen=True)
class Leaf:
    """How a file may have values of an MLflow type.

    :param drawn: values of it
    :param edges: the three that are likeliest to go wrong
    """

    arrow: pa.DataType
    drawn: st.SearchStrategy[Any]
    edges: Sequence[Any]


_TIMES = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)).map(
    lambda time: time.replace(fold=0)  # which no table can hold
)
_MILLISECONDS = _TIMES.map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000))
_EPOCH = datetime.datetime(1970, 1, 1)
# Just before the epoch; in the hour that clocks of Europe skip, and in the one that clocks of New York show twice.
_CLOCKS = [
    _EPOCH - datetime.timedelta(milliseconds=1), datetime.datetime(2021, 3, 28, 2, 30),
    datetime.datetime(2021, 11, 7, 1, 30, 0, 123000),
]  # fmt: skip
_ZONES = (None, "UTC", "Europe/Berlin", "America/New_York", "+05:30")


def _whole(*kinds: pa.DataType, most: int = 64) -> list[Leaf]:
    leaves = []
    for kind in kinds:
        bits, is_signed = min(kind.bit_width, most), pa.types.is_signed_integer(kind)
        least, greatest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
        leaves.append(Leaf(kind, st.integers(least, greatest), [least, 1, greatest]))
    return leaves


def _others(strategy: st.SearchStrategy[Any], edges: Sequence[Any], *kinds: pa.DataType) -> list[Leaf]:
    return [Leaf(kind, strategy, edges) for kind in kinds]


_FLOATS = _others(st.floats(width=32), [float("nan"), -0.0, 2.0**-149], pa.float32())
_DECIMALS = [Decimal("-0.01"), Decimal(1), Decimal(10**7)]
_SMALL, _MIDDLE = (pa.int8(), pa.int16(), pa.uint8()), (pa.int32(), pa.uint16(), pa.uint32())
# By what a model takes, what a file may have; the first is the same type.
LEAVES: dict[DataType, list[Leaf]] = {
    DataType.boolean: _others(st.booleans(), [True, False, True], pa.bool_()),
    DataType.integer: _whole(pa.int32(), *_SMALL, pa.uint16()),
    DataType.long: _whole(pa.int64(), *_SMALL, *_MIDDLE),
    DataType.float: [*_FLOATS, *_whole(*_SMALL)],
    DataType.double: [
        *_others(st.floats(), [float("inf"), -0.0, 5e-324], pa.float64()),
        *_FLOATS,
        *_whole(pa.int64(), *_SMALL, *_MIDDLE, most=54),
        *_others(st.decimals(-(10**7), 10**7, places=2), _DECIMALS, pa.decimal128(10, 2)),
    ],
    DataType.string: _others(
        st.text(max_size=5), ["", "é\0\U0001f600", " 1\n"], pa.string(), pa.large_string()
    ),
    DataType.binary: [
        *_others(st.binary(max_size=5), [b"", b"\0\xff", b"a"], pa.binary(), pa.large_binary()),
        *_others(st.binary(min_size=3, max_size=3), [b"\0\0\0", b"\xff\xfe\0", b"abc"], pa.binary(3)),
    ],
    DataType.datetime: [
        *_others(_TIMES, _CLOCKS, *(pa.timestamp("us", zone) for zone in _ZONES)),
        *_others(_MILLISECONDS, _CLOCKS, pa.timestamp("ms"), pa.timestamp("ms", "Asia/Tokyo")),
        *_others(st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1)),
                 [datetime.date(1700, 1, 1), datetime.date(1970, 1, 1), datetime.date(2200, 1, 1)], pa.date32()),
    ],
}  # fmt: skip
NO_GAPS = (DataType.integer, DataType.long)


@st.composite
def kinds(draw, depth: int = 2) -> Any:
    """An MLflow type, as deep as that."""
    choices = [*DataType, *([Array, Map, Object, AnyType] if depth else [])]
    chosen = draw(st.sampled_from(choices))
    if isinstance(chosen, DataType):
        return chosen
    if chosen is AnyType:
        return AnyType()
    if chosen is Object:
        names = draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
        return Object([Property(n, draw(kinds(depth - 1)), required=draw(st.booleans())) for n in names])
    return chosen(draw(kinds(depth - 1)))


def _gaps(strategy, *, allowed):
    return st.one_of(strategy, strategy, st.none()) if allowed else strategy


@st.composite
def values_of(
    draw, kind: Any, *, optional: bool = False, is_exact: bool = False
) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    """The Arrow type for an MLflow type, and values of it."""
    if isinstance(kind, DataType):
        leaf = LEAVES[kind][0] if is_exact else draw(st.sampled_from(LEAVES[kind]))
        return leaf.arrow, leaf.drawn
    if isinstance(kind, AnyType):
        return draw(values_of(draw(kinds(1).filter(lambda found: not _has_any(found))), is_exact=True))
    if isinstance(kind, Array):
        arrow, inner = draw(values_of(kind.dtype, optional=optional, is_exact=is_exact))
        may_lack = kind.dtype not in NO_GAPS and (isinstance(kind.dtype, (DataType, AnyType)) or optional)
        return pa.list_(arrow), st.lists(_gaps(inner, allowed=may_lack), max_size=3)
    if isinstance(kind, Map):
        arrow, inner = draw(values_of(kind.value_type, optional=optional, is_exact=is_exact))
        return pa.map_(pa.string(), arrow), st.dictionaries(st.sampled_from(["k", "l"]), _gaps(inner, allowed=optional))
    fields, parts = [], {}
    for prop in kind.properties:
        arrow, inner = draw(values_of(prop.dtype, optional=not prop.required, is_exact=is_exact))
        fields.append((prop.name, arrow))
        parts[prop.name] = _gaps(inner, allowed=not prop.required)
    return pa.struct(fields), st.fixed_dictionaries(parts)


def _has_any(kind: Any) -> bool:
    if isinstance(kind, Object):
        return any(_has_any(prop.dtype) for prop in kind.properties)
    inner = getattr(kind, "dtype", None) or getattr(kind, "value_type", None)
    return isinstance(kind, AnyType) or (inner is not None and _has_any(inner))


@st.composite
def column(draw, name: Any, rows: int, kind: Any = None) -> Column:
    """One column of so many rows."""
    kind = draw(kinds()) if kind is None else kind
    required = True if name is None else draw(st.booleans())
    arrow, values = draw(values_of(kind, optional=not required))
    is_scalar = isinstance(kind, (DataType, AnyType))
    may_lack = kind not in NO_GAPS and (is_scalar or not required)
    return Column(
        name, kind, required, draw(st.lists(_gaps(values, allowed=may_lack), min_size=rows, max_size=rows)), arrow
    )


@st.composite
def tables(draw, most: int = 4) -> list[Column]:
    """Columns of a table that fits a signature, with names, with whole numbers for names, or without any."""
    count, rows = draw(st.integers(1, most)), draw(st.integers(1, 4))
    names = draw(st.sampled_from([[f"n{i}" for i in range(count)], list(range(count)), [None] * count]))
    return [draw(column(name, rows)) for name in names]


def every_file_type() -> list[Column]:
    """A column for each way in which a file may have a type, alone and in arrays, maps and objects."""
    found = []
    for kind, leaves in LEAVES.items():
        thing = Object([Property("a", kind), Property("b", kind, required=False)])
        gap = [] if kind in NO_GAPS else [None]
        inner = [] if kind == DataType.float else gap  # in a list of NumPy's, mlflow takes no None
        for leaf in leaves:
            one, two, three = leaf.edges
            struct = pa.struct([("a", leaf.arrow), ("b", leaf.arrow)])
            things = [{"a": one, "b": two}, {"a": two, "b": None}, {"a": three, "b": three}]
            found += [
                (kind, leaf.arrow, [*leaf.edges, *(gap or [one])]),
                (Array(kind), pa.list_(leaf.arrow), [leaf.edges, [], [three, *inner], None]),
                (Map(kind), pa.map_(pa.string(), leaf.arrow), [{"k": one, "l": two}, {}, {"k": three}, None]),
                (thing, struct, [*things, None]),
                (Map(Array(thing)), pa.map_(pa.string(), pa.list_(struct)), [{"k": things}, {"k": []}, {}, None]),
            ]
    return [
        Column(f"n{i}", kind, isinstance(kind, DataType), values, arrow)
        for i, (kind, arrow, values) in enumerate(found)
    ]


@st.composite
def every_type(draw) -> list[Column]:
    """A table with each type at least once."""
    found = [
        *DataType, Array(DataType.float), Array(Array(DataType.integer)), Array(DataType.string), Map(DataType.double),
        Map(Array(DataType.long)), Array(Map(DataType.boolean)), AnyType(), Array(AnyType()),
        Object([Property("a", DataType.long, required=False), Property("b", Array(DataType.float)),
                Property("c", Object([Property("d", DataType.datetime, required=False)]), required=False)]),
    ]  # fmt: skip
    return [draw(column(f"n{i}", 3, kind)) for i, kind in enumerate(found)]
