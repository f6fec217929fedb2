"""What may be told of an error without a value of the rows it was raised on: messages go to logs.

Runs in the environment of the model and on Spark's workers, too, so on any Python from 3.10, and nothing of this
package is imported.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_MOST_TEXT = 500
# So many letters in common with a value tell a part of it.
_PART = 4


def described(error: BaseException, rows: Any = None, names: Collection[str] = ()) -> str:
    """Return class, text and place of an error, without what is in the rows.

    :param rows: what the error was raised on: record batches, DataFrames, arrays, lists, dicts or values
    :param names: of columns, which may be told
    """
    place = ""
    if trace := error.__traceback__:
        while trace.tb_next:
            trace = trace.tb_next
        code = trace.tb_frame.f_code
        place = f" (in {code.co_name}, {code.co_filename.rpartition('/')[2]} line {trace.tb_lineno})"
    text = safe_text(str(error), rows, names)
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def safe_text(text: str, rows: Any = None, names: Collection[str] = ()) -> str:
    """Return a text with ``#`` for each number and for each word that has letters in common with a text in the rows."""
    values = {value.casefold() for value in _texts(rows)}
    tokens = {token for value in values for token in re.findall(r"\w+", value)}
    short = [token for token in tokens if len(token) == _PART - 1]
    whole = "\0".join(values)
    known = {name for name in names if name.casefold() not in tokens}

    def may_tell(piece: str) -> bool:
        if piece in known or (piece.isascii() and not piece[0].isalnum()):
            return True
        word = piece.casefold()
        if not word.isascii() or any(char.isdigit() for char in word) or word in tokens:
            return False
        parts = (word[i : i + _PART] for i in range(len(word) - _PART + 1))
        return not any(part in whole for part in parts) and not any(token in word for token in short)

    told = "".join(piece if may_tell(piece) else "#" for piece in re.findall(r"\w+|\W", text[: 4 * _MOST_TEXT]))
    told = re.sub(r"#(?:[-.,:+/]?#)+", "#", " ".join(told.split()))
    return told if len(told) <= _MOST_TEXT else f"{told[:_MOST_TEXT]} ..."


@contextmanager
def warned_safely(rows: Any, names: Collection[str] = ()) -> Generator[None, None, None]:
    """Have what mlflow logs and Python warns of in the block told without what is in the rows.

    :param rows: what the model is given
    :param names: of columns, which may be told
    """
    make, show = logging.getLogRecordFactory(), warnings.showwarning

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        if made.name.partition(".")[0] == "mlflow":
            made.msg, made.args, made.exc_info = safe_text(made.getMessage(), rows, names), (), None
        return made

    def shown(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        show(safe_text(str(message), rows, names), category, filename, lineno, file, line)

    logging.setLogRecordFactory(record)
    warnings.showwarning = shown
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)
        warnings.showwarning = show


def _texts(value: Any) -> Iterator[str]:
    """Yield each text in rows, whatever holds them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (bytes, bytearray)):
        yield bytes(value).decode("latin-1")
        yield bytes(value).decode("utf-8", "ignore")
    else:
        for item in _items(value):
            yield from _texts(item)


def _items(value: Any) -> Iterable[Any]:
    """Return what may have text in it: items of a container, columns of a table."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set)):
        return value
    if hasattr(value, "columns"):
        # Arrow's tables have columns, DataFrames the names of them.
        return value.columns if hasattr(value, "schema") else [value.iloc[:, i] for i in range(len(value.columns))]
    if hasattr(value, "to_pylist"):
        found: list[Any] = value.to_pylist() if _may_have_text(value.type) else []
        return found
    if hasattr(value, "tolist") and getattr(getattr(value, "dtype", None), "kind", "O") in "OSUT":
        listed = value.tolist()
        return listed if isinstance(listed, list) else [listed] if isinstance(listed, (str, bytes)) else []
    return []


def _may_have_text(kind: Any) -> bool:
    return str(kind).startswith(("string", "large_string", "binary", "large_binary", "fixed_size_binary")) or (
        kind.num_fields > 0 or str(kind).startswith(("dictionary", "string_view", "binary_view"))
    )
