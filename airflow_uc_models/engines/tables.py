"""Tables as files: Parquet and CSV, read in record batches at constant memory."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.casts import first_misfit, times_of
from airflow_uc_models.engines.csv_stream import UnreadableCsvError, open_csv
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.exceptions import InputDataError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {"parquet": (".parquet",), "csv": (".csv", ".csv.gz", ".csv.bz2", ".csv.zst")}
# Read per column at once; a row group is never held as a whole. Each read of an object store is a request.
_PARQUET_BUFFER, _PARQUET_BUFFER_REMOTE = 1 << 17, 1 << 20
# What a value of text or of a list is taken for where its file does not tell.
_UNKNOWN_WIDTH = 32.0
# The end of a Parquet file: four bytes with the footer's length, and four that say what the file is.
_FOOTER_END, _SIGNATURE = 8, 28
_PHYSICAL_WIDTHS = {"INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


@dataclass(frozen=True, slots=True)
class Part:
    """One record batch and where it comes from.

    :param first_row: number of its first row in the file, from 1
    """

    batch: pa.RecordBatch
    file: Location
    first_row: int

    @property
    def where(self) -> str:
        """The rows, as messages name them."""
        return f"rows {self.first_row:,} to {self.first_row + self.batch.num_rows - 1:,} of {self.file.shown}"


class Table(Protocol):
    """One table in one or more files."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns, with dictionaries decoded."""

    @property
    def rows(self) -> int | None:
        """The number of its rows, where the files tell it."""

    def typed(self, types: Mapping[str, pa.DataType | None] | None) -> Table:
        """Return the table with these column types, where its files have none; None takes them from the first rows."""

    def row_bytes(self, columns: Sequence[str]) -> float:
        """Return about how much memory one row of these columns takes."""

    def parts(self, columns: Sequence[str], batch_size: int) -> Generator[Part, None, None]:
        """Yield all rows of these columns, in order."""


def open_table(location: Location, input_format: str | None = None, csv: CsvOptions | None = None) -> Table:
    """Look into a file or folder; InputDataError if it is no table of Parquet or CSV files with the same columns.

    :param input_format: ``parquet`` or ``csv``; None tells it by the file names
    :param csv: how CSV files are written
    """
    with _reading(location):
        files = location.files()
    kind = input_format or _format_of(files, location)
    return _ParquetTable.of(files) if kind == "parquet" else _CsvTable.of(files, csv or CsvOptions())


def _format_of(files: list[Location], location: Location) -> str:
    by_format: dict[str | None, list[str]] = {}
    for file in files:
        found = next((kind for kind, endings in FORMATS.items() if file.name.lower().endswith(endings)), None)
        by_format.setdefault(found, []).append(file.name)
    [kind, *others] = by_format
    if others or kind is None:
        examples = ", ".join(names[0] for names in by_format.values())
        raise InputDataError(
            f"The input {location.shown} must be .parquet or .csv files, all of one kind, but there is {examples}. "
            "Name the format with input_format if the file names do not tell it."
        )
    return kind


# What the operating system or a storage says of a file that is not there for us; a retry finds the same.
_GONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@contextmanager
def _reading(file: Location, names: Sequence[str] = ()) -> Generator[None, None, None]:
    """Name file, row and column in what is raised on bad data or a missing file; what may pass is raised as it is.

    No value of the file is repeated: messages go to logs, and values may be personal data.
    """
    import pyarrow as pa

    try:
        yield
    except (MemoryError, pa.ArrowCancelled):
        raise
    except (pa.ArrowException, UnicodeError, EOFError, zlib.error, UnreadableCsvError, *_GONE) as error:
        problem = _problem(error, names)
    except OSError as error:
        # Arrow raises a bare OSError for damaged data; those of files and networks have a number or a class.
        if type(error) is not OSError or error.errno:
            raise
        problem = _problem(error, names)
    else:
        return
    raise InputDataError(f"{file.shown} cannot be read: {problem}") from None


def _problem(error: Exception, names: Sequence[str]) -> str:
    """Return what is wrong with a file, in words that have no value of it."""
    if isinstance(error, UnicodeError):
        return f"it is not {getattr(error, 'encoding', 'UTF-8').upper()}"
    if isinstance(error, UnreadableCsvError):
        return str(error)
    if isinstance(error, _GONE):
        return f"{type(error).__name__}: {error.strerror or 'it is gone, or may not be read'}"
    text = re.sub(r"In CSV column #(\d+)", lambda m: f"In column {_nth(names, int(m[1]))!r}", str(error))
    text = text.partition("\n")[0]
    # Behind these words Arrow quotes the value, or the whole row.
    return re.sub(r"(got \d+|conversion error to [^:]+(?:: invalid UTF8 data)?).*", r"\1", text)


def _nth(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else f"#{index}"


def _one_schema(files: Sequence[Location], read: Callable[[Location], pa.Schema]) -> pa.Schema:
    """Return the schema that all files share, whatever the order of their columns.

    A column without any value has no type in some files; that of the other files is its type.
    """
    import pyarrow as pa

    with _reading(files[0]):
        first = _checked(read(files[0]), files[0])
    expected = dict(zip(first.names, first.types, strict=True))
    for file in files[1:]:
        with _reading(file):
            schema = _checked(read(file), file)
        found = dict(zip(schema.names, schema.types, strict=True))
        expected |= {n: kind for n, kind in found.items() if n in expected and pa.types.is_null(expected[n])}
        if names := [n for n in {**expected, **found} if not _like(found.get(n), expected.get(n))]:
            differences = "; ".join(
                f"{n!r} is {expected.get(n, 'missing')} and {found.get(n, 'missing')}" for n in names
            )
            raise InputDataError(f"{files[0].shown} and {file.shown} have different columns: {differences}.")
    return pa.schema(list(expected.items()))


def _like(found: pa.DataType | None, expected: pa.DataType | None) -> bool:
    """Whether values of a type are of the expected one, too, but for the form in which Arrow holds them."""
    from pyarrow import types

    if found is None or expected is None:
        return False
    forms = ((types.is_string, types.is_large_string), (types.is_binary, types.is_large_binary))
    both = (found, expected)
    is_same_but_for_form = any(all(a(kind) or b(kind) for kind in both) for a, b in forms)
    return found == expected or types.is_null(found) or is_same_but_for_form


def _checked(schema: pa.Schema, file: Location) -> pa.Schema:
    """Return the schema with names and plain types only."""
    import pyarrow as pa

    if doubled := sorted(name for name, count in Counter(schema.names).items() if count > 1):
        raise InputDataError(f"{file.shown} has more than one column {', '.join(map(repr, doubled))}.")
    return pa.schema([(item.name, _plain(item.type)) for item in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of values that Arrow holds in a form in which it cannot pick rows, or holds only once."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return kind.value_type
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = [batch.column(f.name) for f in schema]
    columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _numbered(batches: Iterator[pa.RecordBatch], schema: pa.Schema, size: int, file: Location) -> Iterator[Part]:
    """Cut and join batches to the wanted size; the last one of a file is what remains."""
    first_row = 1
    for batch in _resized(batches, size):
        part = Part(_conformed(batch, schema), file, first_row)
        first_row += part.batch.num_rows
        yield part


def _resized(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        offset = 0
        while offset < batch.num_rows:
            piece = batch.slice(offset, size - count)
            offset += piece.num_rows
            count += piece.num_rows
            held.append(piece)
            if count == size:
                yield from _joined(held)
                held, count = [], 0
    if held:
        yield from _joined(held)


def _width(kind: pa.DataType) -> float:
    """Return the bytes of a value, as far as its type tells."""
    try:
        return float(kind.bit_width) / 8
    except ValueError:
        return _UNKNOWN_WIDTH


def _joined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Return batches as one, or as several where a column has more text than one holds: 2 GB."""
    import pyarrow as pa

    joined: list[pa.RecordBatch] = batches
    return joined if len(joined) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()


@dataclass(frozen=True)
class _ParquetTable:
    files: Sequence[Location]
    schema: pa.Schema
    rows: int
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, files: Sequence[Location]) -> Table:
        rows = 0
        sizes: Counter[str] = Counter()

        def schema_of(file: Location) -> pa.Schema:
            nonlocal rows
            with cls._open(file) as opened:
                _refuse_encrypted(opened, file)
                rows += opened.metadata.num_rows
                sizes.update(_column_sizes(opened))
                return opened.schema_arrow

        schema = _one_schema(files, schema_of)
        return cls(files, schema, rows, sizes)

    @staticmethod
    @contextmanager
    def _open(file: Location) -> Generator[Any, None, None]:
        from pyarrow import parquet

        with _reading(file), file.open_input(random_access=True) as handle:
            size = _PARQUET_BUFFER if file.is_local else _PARQUET_BUFFER_REMOTE
            yield parquet.ParquetFile(handle, buffer_size=size, pre_buffer=False)

    def typed(self, types: Mapping[str, pa.DataType | None] | None) -> Table:  # noqa: ARG002 - the files have types
        return self

    def row_bytes(self, columns: Sequence[str]) -> float:
        stored = ((name, self.sizes.get(name, 0) / max(self.rows, 1)) for name in columns)
        return sum(max(size, _width(self.schema.field(name).type)) for name, size in stored)

    def parts(self, columns: Sequence[str], batch_size: int) -> Generator[Part, None, None]:
        import pyarrow as pa

        schema = pa.schema([self.schema.field(name) for name in columns])
        for file in self.files:
            with self._open(file) as opened:
                batches = opened.iter_batches(batch_size, columns=list(columns))
                yield from _numbered(batches, schema, batch_size, file)


def _refuse_encrypted(opened: Any, file: Location) -> None:
    """Raise InputDataError for encrypted columns: Arrow ends this process when it is asked about one.

    Behind what tells of all columns, such a file has a signature, which is part of the footer and not of the metadata.
    """
    with file.open_input(random_access=True) as handle:
        handle.seek(-_FOOTER_END, 2)
        length = int.from_bytes(handle.read(4), "little")
    if length - opened.metadata.serialized_size == _SIGNATURE:
        raise InputDataError(f"{file.shown} cannot be read: it has encrypted columns.")


def _column_sizes(opened: Any) -> Counter[str]:
    """Return about how much memory each column of an open Parquet file takes."""
    sizes: Counter[str] = Counter()
    names = set(opened.schema_arrow.names)
    for number in range(opened.metadata.num_row_groups):
        group = opened.metadata.row_group(number)
        for index in range(group.num_columns):
            leaf = group.column(index)
            path = leaf.path_in_schema
            # Repeated values are stored once, so the file can be much smaller than what it holds.
            size = max(leaf.total_uncompressed_size, leaf.num_values * _PHYSICAL_WIDTHS.get(leaf.physical_type, 0))
            sizes[path if path in names else path.partition(".")[0]] += size
    return sizes


@dataclass(frozen=True)
class _CsvTable:
    """Columns are text until ``typed``; what the model does not take stays text, so nothing is guessed or lost."""

    files: Sequence[Location]
    schema: pa.Schema
    headers: Mapping[str, Sequence[str]]
    options: CsvOptions
    rows: int | None = None

    @classmethod
    def of(cls, files: Sequence[Location], options: CsvOptions) -> Table:
        import pyarrow as pa

        headers: dict[str, Sequence[str]] = {}

        def schema_of(file: Location) -> pa.Schema:
            names = headers[file.path] = list(_likely_types(file, options))
            return pa.schema([(name, pa.string()) for name in names])

        schema = _one_schema(files, schema_of)
        return cls(files, schema, headers, options)

    def typed(self, types: Mapping[str, pa.DataType | None] | None) -> Table:
        import pyarrow as pa

        if types is None:
            types = _likely_types(self.files[0], self.options)
        # Lists and the like have no form in CSV; as text they will not fit the signature, which then says so.
        flat = {name: wanted for name, wanted in types.items() if wanted and not pa.types.is_nested(wanted)}
        return replace(self, schema=pa.schema([(name, flat.get(name, pa.string())) for name in self.schema.names]))

    def row_bytes(self, columns: Sequence[str]) -> float:
        return sum(_width(self.schema.field(name).type) for name in columns)

    def parts(self, columns: Sequence[str], batch_size: int) -> Generator[Part, None, None]:
        import pyarrow as pa

        schema = pa.schema([self.schema.field(name) for name in columns])
        is_time = [pa.types.is_timestamp(kind) and not kind.tz for kind in schema.types]
        as_read = pa.schema([f.with_type(pa.string()) if time else f for f, time in zip(schema, is_time, strict=True)])
        for file in self.files:
            names = self.headers[file.path]
            with _reading(file, names), open_csv(file, self.options, as_read, names) as batches:
                for part in _numbered(batches, as_read, batch_size, file):
                    yield self._with_times(part, schema)

    def _with_times(self, part: Part, schema: pa.Schema) -> Part:
        """Return the part with times for their text, of which Arrow's reader takes one form a column only."""
        import pyarrow as pa

        columns = []
        for column, wanted in zip(part.batch.columns, schema, strict=True):
            cast = partial(times_of, wanted=wanted.type, csv=self.options)
            try:
                columns.append(column if column.type == wanted.type else cast(column))
                continue
            except pa.ArrowInvalid:
                row = part.first_row + first_misfit(column, cast) + self.options.header
            raise InputDataError(
                f"{part.file.shown} cannot be read: In column {wanted.name!r}: Row #{row}: CSV conversion error to "
                f"{wanted.type}"
            )
        return replace(part, batch=pa.RecordBatch.from_arrays(columns, schema=schema))


def _likely_types(file: Location, options: CsvOptions) -> dict[str, pa.DataType]:
    """Return the columns of a CSV file, and their types as the first rows look."""
    with _reading(file), open_csv(file, options) as reader:
        schema = _checked(reader.schema, file)
        names = schema.names if options.header else map(str, range(len(schema)))
        return dict(zip(names, schema.types, strict=True))
