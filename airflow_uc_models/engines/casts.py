"""Casts that Arrow does not have as they are needed here, and the value on which a cast fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.spark_csv import ZONE

if TYPE_CHECKING:
    import pyarrow as pa


def widened(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Cast a column to a type that holds its values; a decimal becomes the nearest double.

    Arrow's own cast divides the digits by a power of ten in doubles, which is not always the nearest: -498.77 becomes
    -498.77000000000004. Its way from text is exact.
    """
    return column.cast(_decimals_as_text(column.type)).cast(wanted)


def _decimals_as_text(kind: pa.DataType) -> pa.DataType:
    """Return a type with text in the place of decimals, also of those within lists, maps and structs."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_decimal(kind):
        return pa.string()
    if types.is_struct(kind):
        return pa.struct([field.with_type(_decimals_as_text(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(_decimals_as_text(kind.item_type)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_decimals_as_text(kind.value_type)), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        make = pa.large_list if types.is_large_list(kind) else pa.list_
        return make(kind.value_field.with_type(_decimals_as_text(kind.value_type)))
    return kind


def without(text: pa.Array, where: pa.Array) -> pa.Array:
    """Return text with no value where it is said.

    Of part of an array, pyarrow up to 22 at least gives wrong text where a single null is asked for.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(where, pa.nulls(len(text), text.type), text)


def present(text: pa.Array, csv: CsvOptions) -> pa.Array:
    """Return values of a CSV file without those that stand for no value."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    if csv.null_values is not None:  # taken for none when they were read
        return text
    missing = pc.is_in(text, value_set=pa.array(arrow_csv.ConvertOptions().null_values))
    return without(text, missing)


def times_of(text: pa.Array, wanted: pa.DataType, csv: CsvOptions) -> pa.Array:
    """Return times of a CSV file; those with a time zone, beside which there may be others, as instants in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = present(text, csv)
    has_zone = pc.match_substring_regex(text, ZONE)
    if wanted.tz or not pc.any(has_zone).as_py():
        return _in_range(text.cast(wanted), text)
    plain = without(text, has_zone).cast(wanted)
    zoned = without(text, pc.invert(has_zone)).cast(pa.timestamp(wanted.unit, "UTC")).cast(wanted)
    return _in_range(pc.coalesce(plain, zoned), text)


def _in_range(times: pa.Array, text: pa.Array) -> pa.Array:
    """Return times that were read of a text; ArrowInvalid if the type does not reach one of them.

    pyarrow up to 22 at least then goes on at the other end of the range: 1500-01-01 becomes a day in 2084.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    read = pc.year(times.cast(pa.timestamp(times.type.unit)))
    written = pc.utf8_slice_codeunits(text, 0, 4).cast(pa.int64())
    # a time zone may lead into the year before or after
    if pc.any(pc.greater(pc.abs(pc.subtract(read, written)), 1)).as_py():
        raise pa.ArrowInvalid(f"there is a time that {times.type} does not reach")
    return times


def first_misfit(column: pa.Array, cast: Callable[[pa.Array], pa.Array]) -> int:
    """Return the index of the first value that cannot be cast, in a column that has one."""
    import pyarrow as pa

    start, count = 0, len(column)
    while count > 1:
        half = count // 2
        try:
            cast(column.take(pa.array(range(start, start + half))))
            start, count = start + half, count - half
        except pa.ArrowInvalid:
            count = half
    return start
