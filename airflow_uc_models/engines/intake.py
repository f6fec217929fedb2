"""From the rows of the input to those that the model is given, and to those that cannot be given to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.casts import present, times_of, widened
from airflow_uc_models.engines.schema import Features
from airflow_uc_models.engines.tables import Part

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Taken:
    """Some rows of the input on their way to the model.

    :param part: all of the rows, as they were read
    :param kept: the columns of the output, of the good rows
    :param rows: what the model is given of the good rows
    :param good: the numbers of the good rows in the part; None if all are
    :param bad: number in the part and reason of each row that cannot be given to the model
    """

    part: Part
    kept: pa.RecordBatch
    rows: pa.RecordBatch
    good: Sequence[int] | None = None
    bad: Sequence[tuple[int, str]] = ()

    def number(self, index: int) -> int:
        """Return a good row's number in the part."""
        return index if self.good is None else self.good[index]


@dataclass(frozen=True, slots=True)
class Intake:
    """Turns what is read into what the model takes.

    :param schema: the input's columns, of the types that the output has
    :param kept: the columns of the output
    :param csv: how CSV files of the input are written
    :param quarantines: put rows aside that do not fit; else the first one is an InputDataError
    """

    features: Features
    schema: pa.Schema
    kept: Sequence[str]
    quarantines: bool = False
    csv: CsvOptions = field(default_factory=CsvOptions)

    def of(self, part: Part) -> Taken:
        """Return the rows of a part, the good and the bad."""
        if not self.quarantines:
            return Taken(part, _chosen(part.batch, self.kept), self.features.of(part))
        import pyarrow as pa

        reasons = _Reasons()
        typed = {name: self._typed(part.batch, name, reasons) for name in part.batch.schema.names}
        given = {name: self._given(typed[name], name, reasons) for name in self.features.types}
        kept = pa.RecordBatch.from_arrays([typed[name] for name in self.kept], names=list(self.kept))
        # Of no columns Arrow makes no rows, whatever their number.
        rows = pa.RecordBatch.from_arrays(list(given.values()), names=list(given))
        if not reasons.by_row:
            return Taken(part, kept, rows)
        good = [index for index in range(part.batch.num_rows) if index not in reasons.by_row]
        numbers = pa.array(good, pa.int64())
        return Taken(part, kept.take(numbers), rows.take(numbers), good, reasons.listed())

    def _typed(self, batch: pa.RecordBatch, name: str, reasons: _Reasons) -> pa.Array:
        """Return a column in the type of the output: text of CSV files becomes what is asked for."""
        wanted = self.schema.field(name).type
        column = batch.column(name)
        if column.type == wanted:
            return column
        return _cast(column, wanted, partial(_from_text, csv=self.csv), name, reasons)

    def _given(self, column: pa.Array, name: str, reasons: _Reasons) -> pa.Array:
        """Return a column in the type the model takes."""
        wanted = self.features.types[name]
        if wanted is None:
            return column
        if column.null_count and name in self.features.never_null:
            for index in column.is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist():
                reasons.add(index, name, f"column {name!r} has no value, and the model takes {wanted}")
        return column if column.type == wanted else _cast(column, wanted, widened, name, reasons)


@dataclass
class _Reasons:
    """Why rows are bad. What is wrong with a value is told once, also if a later step finds nothing in its place."""

    by_row: dict[int, list[str]] = field(default_factory=dict)
    _told: set[tuple[int, str]] = field(default_factory=set)

    def add(self, index: int, name: str, text: str) -> None:
        if (index, name) not in self._told:
            self._told.add((index, name))
            self.by_row.setdefault(index, []).append(text)

    def listed(self) -> list[tuple[int, str]]:
        return [(index, "; ".join(texts)) for index, texts in sorted(self.by_row.items())]


def _cast(
    column: pa.Array,
    wanted: pa.DataType,
    cast: Callable[[pa.Array, pa.DataType], pa.Array],
    name: str,
    reasons: _Reasons,
) -> pa.Array:
    """Cast a column; values that cannot be are noted and missing in the result."""
    import pyarrow as pa

    def piece(start: int, count: int) -> list[pa.Array]:
        try:
            return [cast(part(start, count), wanted)]
        except pa.ArrowInvalid:
            if count == 1:
                reasons.add(start, name, f"column {name!r} has {_shown(column[start])!r}, which is no {wanted}")
                return [pa.nulls(1, wanted)]
            half = count // 2
            return [*piece(start, half), *piece(start + half, count - half)]

    def part(start: int, count: int) -> pa.Array:
        # Of a slice of lists, Arrow would cast the values of all the others, too.
        is_slice = pa.types.is_nested(column.type) and count < len(column)
        return column.take(pa.array(range(start, start + count))) if is_slice else column.slice(start, count)

    return pa.concat_arrays(piece(0, len(column)))


def _shown(value: pa.Scalar) -> str:
    try:
        shown = str(value.as_py())
    except (OverflowError, ValueError):  # a time that Python does not have
        shown = f"{value.value} as {value.type}"
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]} ..."


def _from_text(column: pa.Array, wanted: pa.DataType, csv: CsvOptions) -> pa.Array:
    """Read values as Arrow reads those of CSV files."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_binary(wanted):
        return column.cast(wanted)
    if pa.types.is_timestamp(wanted):
        return times_of(column, wanted, csv)
    text = present(column, csv)
    if pa.types.is_boolean(wanted):
        return _switches(text)
    if pa.types.is_integer(wanted) or pa.types.is_floating(wanted):
        text = pc.utf8_trim_whitespace(text)
    if pa.types.is_floating(wanted) and csv.decimal == ",":
        has_point = pc.match_substring(text, ".")
        text = pc.if_else(has_point, "?", pc.replace_substring(text, ",", "."))
    if pa.types.is_null(wanted):  # the first rows have no value, and others cannot have any then
        if text.null_count < len(text):
            raise pa.ArrowInvalid("there is a value")
        return pa.nulls(len(text))
    if pa.types.is_time(wanted):
        return pc.binary_join_element_wise("1970-01-01", text, " ").cast(pa.timestamp(wanted.unit)).cast(wanted)
    return text.cast(wanted)


def _switches(text: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    spelled = csv.ConvertOptions()
    is_true, is_false = (pc.is_in(text, value_set=pa.array(v)) for v in (spelled.true_values, spelled.false_values))
    if not pc.all(pc.or_(pc.or_(is_true, is_false), text.is_null())).as_py():
        raise pa.ArrowInvalid("there is another value")
    return pc.if_else(text.is_null(), None, is_true)


def _chosen(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([batch.column(name) for name in names], names=list(names))
