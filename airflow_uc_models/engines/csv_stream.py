"""CSV files as Arrow reads them: unpacked, in UTF-8, with an end of the last line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.paths import Location

if TYPE_CHECKING:
    import pyarrow as pa

_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_BLOCK = 4 << 20
_BOM = "\ufeff".encode()
# A backslash before a quote that ends neither its value nor stands before another quote.
_ESCAPED = re.compile(rb'\\"[^",\r\n\t;|]')


class UnreadableCsvError(Exception):
    """The file is no CSV as the options say; the message has no value of it."""


class _Stream:
    """A file for Arrow: what is read of it is UTF-8, and the last line has an end.

    Without that end, Arrow does not take a header for one.
    """

    closed = False

    def __init__(self, raw: Any, options: CsvOptions) -> None:
        self._raw = raw
        self._looks_for_escapes = options.quote == '"' and options.escape is None
        is_utf8 = codecs.lookup(options.encoding).name in ("utf-8", "utf-8-sig")
        self._decoder = None if is_utf8 else codecs.getincrementaldecoder(options.encoding)("strict")
        # Arrow drops an escape before any character; one that stands before no quote is doubled, to stay.
        escape, quote = (re.escape(char.encode()) for char in (options.escape or "", options.quote or ""))
        self._escapes = re.compile(escape + b"[" + quote + escape + b"]?") if options.escape else None
        self._cut = b""
        self._held = b""
        self._last = b""
        self._is_at_end = False

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, or all that are left."""
        count = _BLOCK if size < 0 else size
        while len(self._held) < count and not self._is_at_end:
            self._held += self._next(count - len(self._held))
        piece, self._held = self._held[:count], self._held[count:]
        return piece

    def close(self) -> None:
        """Do nothing: whoever has opened the file closes it."""

    def _next(self, size: int) -> bytes:
        found = bytes(self._raw.read(size))
        self._is_at_end = not found
        if self._decoder is not None:
            found = self._decoder.decode(found, final=self._is_at_end).encode()
            if not self._last and found.startswith(_BOM):
                found = found[len(_BOM) :]
        if self._escapes is not None:
            found = self._with_escapes(found)
        if self._looks_for_escapes and _ESCAPED.search(self._last[-2:] + found):
            raise UnreadableCsvError(
                r"it has quotes with a backslash before them (\"). If these stand for quotes inside of values, set "
                r"csv_options=CsvOptions(escape='\\'); if not, double the quotes inside of values in the file"
            )
        ends = self._is_at_end and self._last and not self._last.endswith(b"\n")
        self._last = (self._last[-2:] + found)[-3:]
        return found + b"\n" if ends else found

    def _with_escapes(self, found: bytes) -> bytes:
        assert self._escapes is not None  # noqa: S101 - for mypy
        found, self._cut = self._cut + found, b""

        def kept(match: re.Match[bytes]) -> bytes:
            if len(match[0]) == 1 and match.end() == len(found) and not self._is_at_end:
                self._cut = match[0]  # what it stands before is not read yet
                return b""
            return match[0] * 2 if len(match[0]) == 1 else match[0]

        return self._escapes.sub(kept, found)


@contextmanager
def open_csv(
    file: Location,
    options: CsvOptions,
    schema: pa.Schema | None = None,
    names: Sequence[str] | None = None,
) -> Generator[Any, None, None]:
    """Open a CSV file as a reader of record batches.

    :param schema: the columns to read, and their types; None reads all, of likely types
    :param names: of all columns of the file, where it has no header
    """
    import pyarrow as pa
    from pyarrow import csv

    convert = csv.ConvertOptions(decimal_point=options.decimal)
    if schema is not None:
        convert.column_types = schema
        convert.include_columns = schema.names
    if options.null_values is not None:
        convert.null_values = list(options.null_values)
        convert.strings_can_be_null = True
    # One thread: errors then tell the row, and reading runs beside the prediction anyway.
    read = csv.ReadOptions(use_threads=False, block_size=_BLOCK)
    if not options.header:
        read.column_names = list(names or ())
        read.autogenerate_column_names = names is None
    parse = csv.ParseOptions(
        delimiter=options.delimiter,
        quote_char=options.quote or False,
        escape_char=options.escape or False,
        double_quote=options.escape is None and options.quote is not None,
        newlines_in_values=options.quote is not None,
    )
    codec = next((name for ending, name in _CODECS.items() if file.name.lower().endswith(ending)), None)
    with file.open_input(random_access=False) as handle:
        stream = _Stream(pa.CompressedInputStream(handle, codec) if codec else handle, options)
        with csv.open_csv(
            pa.PythonFile(stream, mode="r"), read_options=read, parse_options=parse, convert_options=convert
        ) as reader:
            yield reader
