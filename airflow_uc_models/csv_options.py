"""How CSV files are written: one description for every engine."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.quantities import as_switch


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvOptions:
    r"""How the values of CSV files are told apart and read, the same for all engines.

    ::

        CsvOptions(delimiter=";", decimal=",", encoding="latin-1", null_values=["", "-"])

    :param delimiter: between two values (one character)
    :param quote: around values that hold a delimiter or a line break (one character; None: no value is quoted)
    :param escape: before a quote inside of a quoted value, such as a backslash (one character); by default such a
        quote is doubled
    :param encoding: as Python names it: ``utf-8``, ``latin-1``, ``cp1252``, ``utf-16`` ...
    :param decimal: before the digits of a fraction (``.`` or ``,``)
    :param null_values: texts that stand for no value, in columns of text, too (list of str); by default an empty one,
        ``NA``, ``NaN``, ``null`` and the like in columns of numbers, times and booleans, and none in columns of text
    :param header: whether the first line has the names of the columns; without, they are called ``0``, ``1`` ...
    """

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    encoding: str = "utf-8"
    decimal: str = "."
    null_values: Sequence[str] | None = None
    header: bool = True

    def __post_init__(self) -> None:
        for name in ("delimiter", "quote", "escape"):
            value = getattr(self, name)
            is_none = value is None and name != "delimiter"
            if not is_none and (not isinstance(value, str) or len(value.encode()) != 1 or value in "\r\n"):
                raise _wrong(name, "one ASCII character", value)
        if self.decimal not in (".", ","):
            raise _wrong("decimal", "'.' or ','", self.decimal)
        taken = [char for char in (self.delimiter, self.quote, self.escape) if char is not None]
        if len(set(taken)) < len(taken) or self.decimal == self.delimiter:
            raise InvalidArgumentError(
                "csv_options: delimiter, quote, escape and decimal must be different characters."
            )
        if self.escape is not None and self.quote is None:
            raise InvalidArgumentError("csv_options: escape is for quotes inside of quoted values; quote is None.")
        self._check_encoding()
        if not isinstance(self.header, bool):
            raise _wrong("header", "True or False", self.header)
        if self.null_values is not None:
            if isinstance(self.null_values, str) or not all(isinstance(text, str) for text in self.null_values):
                raise _wrong("null_values", "a list of texts", self.null_values)
            object.__setattr__(self, "null_values", tuple(self.null_values))

    def _check_encoding(self) -> None:
        try:
            found = codecs.lookup(self.encoding)
        except (LookupError, TypeError):
            found = None
        if found is None or not getattr(found, "_is_text_encoding", True):
            raise _wrong("encoding", "an encoding of text that Python knows", self.encoding)
        object.__setattr__(self, "encoding", found.name)

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Return what a parameter has: options, a dict of them as templates leave it, or nothing."""
        if value is None or value in ("", "None"):
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidArgumentError(f"csv_options must be CsvOptions or a dict of its fields, not {value!r}.")
        known = {field.name for field in fields(cls)}
        if unknown := [str(key) for key in value if key not in known]:
            raise InvalidArgumentError(
                f"csv_options has {', '.join(map(repr, unknown))}; it knows {', '.join(sorted(known))}."
            )
        given = {key: item for key, item in value.items() if not (key != "quote" and item == "None")}
        if "header" in given:
            given["header"] = as_switch(given["header"])
        if given.get("quote") == "None":
            given["quote"] = None
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return {**asdict(self), "null_values": None if self.null_values is None else list(self.null_values)}


def _wrong(name: str, meaning: str, value: Any) -> InvalidArgumentError:
    return InvalidArgumentError(f"csv_options: {name} must be {meaning}, not {value!r}.")
