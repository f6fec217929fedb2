"""Rows as pyfunc takes them: a DataFrame, or an array for a tensor, of the same values that Python would hold.

Runs in the environment of the model and on Spark's workers, too, so on any Python from 3.10, and nothing of this
package is imported. MLflow's enforcement knows lists, dicts and scalars; of Arrow's own form of nested values
(arrays of NumPy in dicts, whole numbers beside a gap as floats) it makes other values, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def frame_of(
    rows: pa.RecordBatch,
    labels: Sequence[Any] | None = None,
    *,
    inferred: Sequence[str] = (),
    is_writable: bool = False,
) -> Any:
    """Return the rows as a DataFrame.

    :param labels: names of the columns, where the model knows them by others than the input
    :param inferred: columns of any type: pandas finds it by the values
    :param is_writable: whoever gets the frame may write to it
    """
    import pandas as pd
    import pyarrow as pa

    names = rows.schema.names
    apart = [i for i, column in enumerate(rows.columns) if names[i] in inferred or _is_apart(column)]
    if not apart:
        frame = rows.to_pandas(split_blocks=not is_writable)
    else:
        rest = [i for i in range(len(names)) if i not in set(apart)]
        flat = pa.RecordBatch.from_arrays([rows.column(i) for i in rest], names=[names[i] for i in rest])
        series = {
            names[i]: pd.Series(python_values(rows.column(i)), dtype=None if names[i] in inferred else object)
            for i in apart
        }
        found = pd.DataFrame(series, index=pd.RangeIndex(rows.num_rows))
        frame = pd.concat([flat.to_pandas(), found], axis=1)[names] if rest else found
    if labels is not None:
        frame.columns = list(labels)
    return frame


def tensor_of(rows: pa.RecordBatch) -> Any:
    """Return the rows as one array, a column of it for each of theirs."""
    import numpy as np
    import pyarrow as pa

    def column(array: pa.Array) -> Any:
        values = array.to_numpy(zero_copy_only=False)
        if pa.types.is_string(array.type):
            return values.astype(str)
        return values.astype(bytes) if pa.types.is_binary(array.type) else values

    return np.column_stack([column(array) for array in rows.columns])


def _is_apart(column: pa.Array) -> bool:
    """Whether a column is not left to Arrow: nested values, and text of which there is none, which pandas infers."""
    import pyarrow as pa

    return bool(pa.types.is_nested(column.type)) or (
        column.null_count == len(column) and bool(pa.types.is_string(column.type))
    )


def python_values(array: pa.Array) -> list[Any]:
    """Return values as Python holds them: dicts, lists and scalars, None where there is none.

    Numbers of 32 bits and times in nanoseconds, which Python does not have, are NumPy's, for MLflow to tell their type.
    """
    import pyarrow as pa

    kind = array.type
    if pa.types.is_map(kind):
        return _dicts(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(array)
    if pa.types.is_struct(kind):
        return _structs(array, [field.name for field in kind])
    if kind in (pa.int32(), pa.float32(), pa.timestamp("ns")):
        return _masked(array, list(array.fill_null(pa.scalar(0, kind)).to_numpy(zero_copy_only=False)))
    found: list[Any] = array.to_pylist()
    return found


def _masked(array: pa.Array, values: list[Any]) -> list[Any]:
    """Return the values, and None where the array has none."""
    if not array.null_count:
        return values
    return [value if is_there else None for value, is_there in zip(values, array.is_valid().to_pylist(), strict=True)]


def _elements(array: pa.Array) -> list[Any]:
    """Return what is in lists; NaN for a number of 32 bits that is missing, as pandas has it for one of 64."""
    import numpy as np
    import pyarrow as pa

    values = python_values(array)
    if array.null_count and array.type == pa.float32():
        return [np.float32("nan") if value is None else value for value in values]
    return values


def _structs(array: pa.Array, names: Sequence[str]) -> list[Any]:
    if not names:
        return _masked(array, [{} for _ in range(len(array))])
    columns = [python_values(child) for child in array.flatten()]
    return _masked(array, [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)])


def _lists(array: pa.Array) -> list[Any]:
    import pyarrow.compute as pc

    elements = _elements(array.flatten())
    values: list[Any] = []
    position = 0
    for length in pc.list_value_length(array).to_pylist():
        values.append(None if length is None else elements[position : position + length])
        position += length or 0
    return values


def _dicts(array: pa.Array) -> list[Any]:
    offsets = array.offsets.to_pylist()
    start, count = offsets[0], offsets[-1] - offsets[0]
    keys, items = (python_values(child.slice(start, count)) for child in (array.keys, array.items))
    ranges = [slice(one - start, other - start) for one, other in pairwise(offsets)]
    return _masked(array, [dict(zip(keys[part], items[part], strict=True)) for part in ranges])
