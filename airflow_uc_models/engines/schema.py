"""A model's signature and a table: whether the columns fit, and what pyfunc is given of them.

Accepted is what mlflow's own enforcement accepts, and whole numbers of any size for ``double`` as long as each value
is exact. Not accepted is what mlflow lets pass unseen because pandas holds it as Python objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_uc_models.engines.casts import first_misfit, widened
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
        named = {str(item.column): item for item in inputs}
        if len(named) < len(inputs):
            raise ModelContentError(
                "The model's signature has names that a file cannot tell apart, such as 0 and '0'. Log the model with "
                "other names."
            )
        return named
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
    """The columns that the model takes, and the type that each is given to it in; None leaves it as it is.

    :param labels: the names by which the model knows them, where those are not text as in the input
    :param never_null: the columns that must have a value in each row
    :param inferred: the columns for which the signature takes any type
    """

    types: Mapping[str, pa.DataType | None]
    as_tensor: bool = False
    is_enforced: bool = True
    labels: Sequence[str | int] | None = None
    never_null: frozenset[str] = frozenset()
    inferred: Sequence[str] = ()

    def of(self, part: Part) -> pa.RecordBatch:
        """Return the rows as the model takes them; InputDataError for values that it does not take."""
        import pyarrow as pa

        arrays = [self._given(part, name, wanted) for name, wanted in self.types.items()]
        return pa.RecordBatch.from_arrays(arrays, names=list(self.types))

    def _given(self, part: Part, name: str, wanted: pa.DataType | None) -> pa.Array:
        """Return a column in the type the model takes; InputDataError for values that this type does not have."""
        import pyarrow as pa

        column = part.batch.column(name)
        if wanted is None:
            return column
        if column.null_count and name in self.never_null:
            raise InputDataError(
                f"Column {name!r} has no value in {column.null_count} of {part.where}; the model takes {wanted} there, "
                "which cannot be missing. Fill the gaps, or log the model with double for this column."
            )
        if column.type == wanted:
            return column
        try:
            return widened(column, wanted)
        except pa.ArrowInvalid:
            row = part.first_row + first_misfit(column, lambda part: widened(part, wanted))
        raise InputDataError(f"Column {name!r} of {part.where} has a value that is no {wanted}: row {row:,}.")


def features_of(inputs: Sequence[Field] | None, schema: pa.Schema, what: str) -> Features:
    """Compare a table's columns with a signature; ModelContentError lists all that is wrong.

    :param inputs: the signature's inputs; None gives the model every column as it is
    :param what: model and table, in words that complete "... do not fit"
    """
    if inputs is None:
        return Features(dict.fromkeys(schema.names), is_enforced=False)
    asked = fields_by_column(inputs, schema.names)
    problems = []
    columns = dict(zip(schema.names, schema.types, strict=True))
    for name, item in asked.items():
        if name not in columns:
            if item.required:
                problems.append(f"column {name!r} is missing; the model asks for {type_name(item.type)}")
        elif not accepts(item.type, found := columns[name]):
            problems.append(f"column {name!r} is {found}; the model asks for {type_name(item.type)}")
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise ModelContentError(f"{what} do not fit:{listed}\nThe input has: {', '.join(schema.names)}.")
    types = {n: given_type(item.type, columns[n]) for n, item in asked.items() if n in columns}
    if not types:
        raise ModelContentError(
            f"{what} do not fit: the model can do without each of {', '.join(asked)}, but not without all of them. "
            f"The input has: {', '.join(schema.names)}."
        )
    labels = [name if (label := asked[name].name) is None else label for name in types]
    return Features(
        types,
        as_tensor=inputs[0].type["type"] == "tensor",
        labels=None if labels == list(types) else labels,
        never_null=frozenset(name for name in types if _is_whole(asked[name].type)),
        inferred=tuple(name for name in types if asked[name].type["type"] == "any"),
    )


def _is_whole(kind: Kind) -> bool:
    """Whether pandas has no way to say that a value of this type is missing."""
    from pyarrow import types

    wanted = None if kind["type"] == "any" else arrow_type(kind)
    return wanted is not None and bool(types.is_integer(wanted))


def given_type(kind: Kind, found: pa.DataType) -> pa.DataType | None:
    """Return the type in which a column of the found type is given to a model that asks for an MLflow type.

    :param found: what ``accepts`` has accepted; tells which optional properties there are
    """
    import pyarrow as pa

    match kind["type"]:
        case "any":
            return _python_type(found)
        case "array":
            return pa.list_(_inner_type(kind["items"], found.value_type))
        case "map":
            return pa.map_(pa.string(), _inner_type(kind["values"], found.item_type))
        case "object":
            return pa.struct([(f.name, _inner_type(kind["properties"][f.name], f.type)) for f in found])
        case _:
            return arrow_type(kind)


def _inner_type(kind: Kind, found: pa.DataType) -> pa.DataType:
    wanted = given_type(kind, found)
    return found if wanted is None else wanted


def _python_type(found: pa.DataType) -> pa.DataType:
    """Return the type of the same values as Python has them: it knows one kind of whole number and one of others."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_integer(found) and not types.is_uint64(found):
        return pa.int64()
    if types.is_floating(found):
        return pa.float64()
    if types.is_map(found):
        return pa.map_(_python_type(found.key_type), _python_type(found.item_type))
    if types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found):
        return pa.list_(_python_type(found.value_type))
    if types.is_struct(found):
        return pa.struct([(field.name, _python_type(field.type)) for field in found])
    return {pa.timestamp("s"): pa.timestamp("us"), pa.timestamp("ms"): pa.timestamp("us")}.get(found, found)


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
    if dtype.kind not in "biufUSM":
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
            has_names = types.is_map(found) and _family(found.key_type) in _LIKE[0]
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
        return bool(types.is_date(found) or types.is_timestamp(found))
    return any(_family(found) in names and _family(wanted) in names for names in _LIKE)


def _family(kind: pa.DataType) -> str:
    return str(kind).partition("[")[0]
