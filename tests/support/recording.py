"""A model that tells what it was given, and columns of every MLflow type, for tests that values arrive as they are.

The judge is mlflow's own enforcement: ``expected`` gives it the same rows as Python values.
"""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
    :param arrow: how a file has them
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
    if is_top or isinstance(kind, AnyType):
        return value
    if kind == DataType.datetime:
        return np.datetime64(value, "ns")
    return {DataType.integer: np.int32, DataType.float: np.float32}.get(kind, lambda item: item)(value)


_TIMES = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)).map(
    lambda time: time.replace(fold=0)  # which no table can hold
)
LEAVES: dict[DataType, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    DataType.boolean: (pa.bool_(), st.booleans()),
    DataType.integer: (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    DataType.long: (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    DataType.float: (pa.float32(), st.floats(width=32)),
    DataType.double: (pa.float64(), st.floats()),
    DataType.string: (pa.string(), st.text(max_size=5)),
    DataType.binary: (pa.binary(), st.binary(max_size=5)),
    DataType.datetime: (pa.timestamp("us"), _TIMES),
}
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
def values_of(draw, kind: Any, *, optional: bool = False) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    """The Arrow type for an MLflow type, and values of it."""
    if isinstance(kind, DataType):
        return LEAVES[kind]
    if isinstance(kind, AnyType):
        return draw(values_of(draw(kinds(1).filter(lambda found: not _has_any(found)))))
    if isinstance(kind, Array):
        arrow, inner = draw(values_of(kind.dtype, optional=optional))
        may_lack = kind.dtype not in NO_GAPS and (isinstance(kind.dtype, (DataType, AnyType)) or optional)
        return pa.list_(arrow), st.lists(_gaps(inner, allowed=may_lack), max_size=3)
    if isinstance(kind, Map):
        arrow, inner = draw(values_of(kind.value_type, optional=optional))
        return pa.map_(pa.string(), arrow), st.dictionaries(st.sampled_from(["k", "l"]), _gaps(inner, allowed=optional))
    fields, parts = [], {}
    for prop in kind.properties:
        arrow, inner = draw(values_of(prop.dtype, optional=not prop.required))
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
