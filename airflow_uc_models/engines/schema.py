"""A model's signature and a table: whether the columns fit, and what pyfunc is given of them.

Accepted is what mlflow's own enforcement accepts, and whole numbers of any size for ``double`` as long as each value
is exact. Not accepted is what mlflow lets pass unseen because pandas holds it as Python objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_uc_models.engines.tables import Part
from airflow_uc_models.exceptions import InputDataError, ModelContentError
from airflow_uc_models.signatures import Field, type_name

if TYPE_CHECKING:
    import pyarrow as pa

# MLflow's JSON of a type, as in signatures.Field.
Kind = Mapping[str, Any]

# Types of the same values, by the names that Arrow gives them.
_LIKE = (
    {"string", "large_string", "string_view"},
    {"binary", "large_binary", "binary_view", "fixed_size_binary"},
)


def fields_by_column(inputs: Sequence[Field], names: Sequence[str]) -> dict[str, Field]:
    """Return what the model asks of each column that it takes.

    :param inputs: the signature's inputs
    :param names: the table's columns; where the signature has no names, its order is theirs
    """
    if any(item.type["type"] == "tensor" for item in inputs):
        row = _row_of_tensor(inputs, names)
        return {name: Field(name, row) for name in names}
    if all(item.name is not None for item in inputs):
        return {str(item.name): item for item in inputs}
    _check_count(names, len(inputs))
    return dict(zip(names, inputs, strict=True))


def _row_of_tensor(inputs: Sequence[Field], names: Sequence[str]) -> Kind:
    """Return the type of each column of the one tensor that stands for all of them."""
    tensor = inputs[0].type.get("tensor-spec", {})
    shape = tensor.get("shape", ())
    if len(inputs) > 1 or inputs[0].name is not None or len(shape) != 2 or shape[0] != -1:
        asked = ", ".join(type_name(item.type) for item in inputs)
        raise ModelContentError(
            f"The model's signature asks for tensors that a table of columns does not hold ({asked}); batch inference "
            "takes columns, or one unnamed tensor of shape (-1, number of columns)."
        )
    if shape[1] != -1:
        _check_count(names, shape[1])
    return {"type": "tensor", "tensor-spec": {**tensor, "shape": [-1]}}


def _check_count(names: Sequence[str], wanted: int) -> None:
    if len(names) != wanted:
        raise ModelContentError(
            f"The model's signature names no columns and asks for {wanted}; the input has {len(names)}: "
            f"{', '.join(names)}. Leave the others out of the input, or log the model with named columns."
        )


@dataclass(frozen=True, slots=True)
class Features:
    """The columns that the model takes, and the type that each is given to it in; None leaves it as it is."""

    types: Mapping[str, pa.DataType | None]
    as_tensor: bool = False
    is_enforced: bool = True

    def of(self, part: Part) -> pa.RecordBatch:
        """Return the rows as the model takes them; InputDataError for values that it does not take."""
        import pyarrow as pa

        arrays = [_given(part, name, wanted) for name, wanted in self.types.items()]
        return pa.RecordBatch.from_arrays(arrays, names=list(self.types))


def features_of(inputs: Sequence[Field] | None, schema: pa.Schema, what: str) -> Features:
    """Compare a table's columns with a signature; ModelContentError lists all that is wrong.

    :param inputs: the signature's inputs; None gives the model every column as it is
    :param what: model and table, in words that complete "... do not fit"
    """
    if inputs is None:
        return Features(dict.fromkeys(schema.names), is_enforced=False)
    asked = fields_by_column(inputs, schema.names)
    problems = []
    for name, item in asked.items():
        if name not in schema.names:
            if item.required:
                problems.append(f"column {name!r} is missing; the model asks for {type_name(item.type)}")
        elif not accepts(item.type, found := schema.field(name).type):
            problems.append(f"column {name!r} is {found}; the model asks for {type_name(item.type)}")
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise ModelContentError(f"{what} do not fit:{listed}\nThe input has: {', '.join(schema.names)}.")
    types = {name: arrow_type(item.type) for name, item in asked.items() if name in schema.names}
    if not types:
        raise ModelContentError(
            f"{what} do not fit: the model can do without each of {', '.join(asked)}, but not without all of them. "
            f"The input has: {', '.join(schema.names)}."
        )
    return Features(types, as_tensor=inputs[0].type["type"] == "tensor")


def _given(part: Part, name: str, wanted: pa.DataType | None) -> pa.Array:
    """Return a column in the type the model takes; InputDataError for values that this type does not have."""
    import pyarrow as pa

    column = part.batch.column(name)
    if wanted is None:
        return column
    if column.null_count and pa.types.is_integer(wanted):
        raise InputDataError(
            f"Column {name!r} has no value in {column.null_count} of {part.where}; the model takes {wanted} there, "
            "which cannot be missing. Fill the gaps, or log the model with double for this column."
        )
    if column.type == wanted:
        return column
    try:
        return column.cast(wanted)
    except pa.ArrowInvalid as error:
        raise InputDataError(f"Column {name!r} of {part.where} has a value that is no {wanted}: {error}") from error


def arrow_type(kind: Kind) -> pa.DataType | None:
    """Return the Arrow type of an MLflow type, or None where values are passed on as they come."""
    import pyarrow as pa

    name = kind["type"]
    if name == "array":
        inner = arrow_type(kind["items"])
        return None if inner is None else pa.list_(inner)
    if name == "tensor":
        return _tensor_type(kind["tensor-spec"])
    factories: dict[str, Callable[[], pa.DataType]] = {
        "boolean": pa.bool_,
        "integer": pa.int32,
        "long": pa.int64,
        "float": pa.float32,
        "double": pa.float64,
        "string": pa.string,
        "binary": pa.binary,
        "datetime": lambda: pa.timestamp("ns"),
    }
    return factories[name]() if name in factories else None


def _tensor_type(tensor: Mapping[str, Any]) -> pa.DataType | None:
    """Return the type of a tensor's rows: a value, or a list of values for two dimensions."""
    import numpy as np
    import pyarrow as pa

    dtype = np.dtype(tensor["dtype"])
    if dtype.kind not in "biufUS":
        return None
    item = {"U": pa.string(), "S": pa.binary()}.get(dtype.kind) or pa.from_numpy_dtype(dtype)
    dimensions = len(tensor["shape"])
    return {1: item, 2: pa.list_(item)}.get(dimensions)


def accepts(kind: Kind, found: pa.DataType) -> bool:
    """Whether a column of the found type can hold what the MLflow type asks for."""
    from pyarrow import types

    match kind["type"]:
        case "any":
            return True
        case "array":
            is_list = types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found)
            return is_list and accepts(kind["items"], found.value_type)
        case "map":
            has_names = types.is_map(found) and types.is_string(found.key_type)
            return has_names and accepts(kind["values"], found.item_type)
        case "object":
            return types.is_struct(found) and _accepts_struct(kind["properties"], found)
        case _:
            wanted = arrow_type(kind)
            return wanted is None or widens(found, wanted)


def _accepts_struct(properties: Mapping[str, Kind], found: pa.StructType) -> bool:
    given = {field.name: field.type for field in found}
    wanted = {name for name, kind in properties.items() if kind.get("required", True)}
    return wanted <= given.keys() <= properties.keys() and all(accepts(properties[k], v) for k, v in given.items())


def widens(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column may be turned into the wanted type: nothing is cut off or guessed, only decimals are rounded."""
    from pyarrow import types

    if found == wanted:
        return True
    if types.is_null(found):
        return not types.is_integer(wanted)
    if types.is_integer(wanted):
        keeps_sign = types.is_signed_integer(wanted) or types.is_unsigned_integer(found)
        return bool(types.is_integer(found) and keeps_sign and found.bit_width < wanted.bit_width)
    if types.is_float64(wanted):
        return bool(types.is_integer(found) or types.is_floating(found) or types.is_decimal(found))
    if types.is_floating(wanted):
        is_number = types.is_integer(found) or types.is_floating(found)
        return bool(is_number and found.bit_width < wanted.bit_width)
    if types.is_timestamp(wanted):
        return bool(types.is_date(found) or (types.is_timestamp(found) and found.tz is None))
    return any(_family(found) in names and _family(wanted) in names for names in _LIKE)


def _family(kind: pa.DataType) -> str:
    return str(kind).partition("[")[0]
