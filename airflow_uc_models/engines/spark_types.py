"""Types of signatures and of Spark: whether a column holds what a model takes, and what the model is given of it.

Part of the script that is shipped to Databricks: nothing but PySpark and MLflow is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SQL = {
    "boolean": "boolean", "integer": "int", "long": "bigint", "float": "float", "double": "double",
    "string": "string", "binary": "binary", "datetime": "timestamp_ntz",
}  # fmt: skip
# What each type takes without loss; doubles are compared value by value.
_WHOLE = ("tinyint", "smallint", "int", "bigint")
_WIDENS = {
    "int": _WHOLE[:3], "bigint": _WHOLE, "float": ("tinyint", "smallint", "float"),
    "double": (*_WHOLE, "float", "double", "decimal"), "timestamp_ntz": ("date", "timestamp", "timestamp_ntz"),
}  # fmt: skip
NEVER_NULL = ("int", "bigint")


def fits(kind: Any, found: Any) -> bool:
    """Whether a column can hold what a model takes.

    :param kind: MLflow's type
    :param found: Spark's type
    """
    name, holds = type(kind).__name__, found.typeName()
    if name == "Array":
        return bool(holds == "array" and fits(kind.dtype, found.elementType))
    if name == "Map":
        return bool(holds == "map" and found.keyType.typeName() == "string" and fits(kind.value_type, found.valueType))
    if name == "Object":
        return bool(holds == "struct") and _fits_struct(kind, found)
    wanted = SQL.get(getattr(kind, "name", ""))
    return wanted is None or widens(found, wanted)


def _fits_struct(kind: Any, found: Any) -> bool:
    properties = {prop.name: prop for prop in kind.properties}
    required = {prop.name for prop in kind.properties if prop.required}
    return required <= set(found.names) <= set(properties) and all(
        fits(properties[field.name].dtype, field.dataType) for field in found
    )


def widens(found: Any, wanted: str) -> bool:
    """Whether a column of a Spark type can be given as a SQL type: nothing is cut off or guessed."""
    holds = found.simpleString().partition("(")[0]
    return holds in _WIDENS.get(wanted, (wanted,)) or (holds == "void" and wanted not in NEVER_NULL)


def given(kind: Any, found: Any, column: Any) -> Any:
    """Return a column as a model takes it, in arrays, maps and structs, too.

    :param kind: MLflow's type
    :param found: Spark's type, which fits it
    """
    from pyspark.sql import functions as F  # noqa: N812 - its usual name

    name = type(kind).__name__
    if not _changes(kind, found):
        return column
    if name == "Array":
        return F.transform(column, lambda item: given(kind.dtype, found.elementType, item))
    if name == "Map":
        return F.transform_values(column, lambda _, item: given(kind.value_type, found.valueType, item))
    if name == "Object":
        kinds = {prop.name: prop.dtype for prop in kind.properties}
        parts = [given(kinds[f.name], f.dataType, column.getField(f.name)).alias(f.name) for f in found]
        return F.when(column.isNotNull(), F.struct(*parts))
    return scalar(found, column, SQL[kind.name])


def in_utc(column: Any) -> Any:
    """Return times with a time zone as instants in UTC without one, whatever the session's zone."""
    from pyspark.sql import functions as F  # noqa: N812

    # A cast goes by the session's clocks, which skip an hour in spring and show one twice in autumn.
    return F.timestamp_add("MICROSECOND", F.unix_micros(column), F.lit("1970-01-01").cast("timestamp_ntz"))


def scalar(found: Any, column: Any, wanted: str) -> Any:
    """Return a column as a SQL type."""
    if wanted == "timestamp_ntz" and found.simpleString() == "timestamp":
        return in_utc(column)
    return column if found.simpleString() == wanted else column.cast(wanted)


def rounds(kind: Any, found: Any, column: Any) -> Any:
    """Return whether a whole number is no double, as a column; None if none of them is to be one."""
    from pyspark.sql import functions as F  # noqa: N812

    name, inner = type(kind).__name__, None
    if name == "Array":
        inner = _any_rounds(kind.dtype, found.elementType, column)
    elif name == "Map":
        inner = _any_rounds(kind.value_type, found.valueType, F.map_values(column))
    elif name == "Object":
        kinds = {prop.name: prop.dtype for prop in kind.properties}
        parts = [rounds(kinds[field.name], field.dataType, column.getField(field.name)) for field in found]
        for part in parts:
            inner = part if inner is None else inner if part is None else inner | part
    elif getattr(kind, "name", "") == "double" and found.simpleString() == "bigint":
        inner = column.cast("double").cast("decimal(38,0)") != column
    return None if inner is None else F.coalesce(inner, F.lit(False))


def _any_rounds(kind: Any, found: Any, values: Any) -> Any:
    from pyspark.sql import functions as F  # noqa: N812

    check: Callable[[Any], Any] = lambda item: rounds(kind, found, item)  # noqa: E731 - Spark asks for a lambda
    return None if rounds(kind, found, F.lit(None)) is None else F.exists(values, check)


def _changes(kind: Any, found: Any) -> bool:
    name = type(kind).__name__
    if name == "Array":
        return _changes(kind.dtype, found.elementType)
    if name == "Map":
        return _changes(kind.value_type, found.valueType)
    if name == "Object":
        kinds = {prop.name: prop.dtype for prop in kind.properties}
        return any(_changes(kinds[field.name], field.dataType) for field in found)
    wanted = SQL.get(getattr(kind, "name", ""))
    return wanted is not None and found.simpleString() != wanted
