"""CSV files on Spark, read as the engine ``local`` reads them: same options, same spellings of values.

Spark reads all columns as text here. What it would guess, or cut off in silence, makes a row bad. Part of the script
that is shipped to Databricks: nothing but PySpark and MLflow is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_uc_models.engines.spark_types import in_utc

# What stands for no value in a CSV file's numbers, times and booleans; the list that Arrow has, too.
_NO_VALUE = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA", "NULL",
    "NaN", "n/a", "nan", "null",
)  # fmt: skip
_TEXTS = ("string", "binary")
# Of a text that is a time, not a date: what ends in -31 may be either.
ZONE = r"[ T].*(Z|[+-]\d\d(:?\d\d)?)$"
# Spark's own casts take more spellings, such as 1.5f, yes, 2024-1, and times of which they drop the time zone.
_SPELLINGS = {
    "boolean": r"^(1|0|true|True|TRUE|false|False|FALSE)$",
    **dict.fromkeys(("int", "bigint"), r"^[ \t]*(-?\d+|0[xX][0-9a-fA-F]{1,15})[ \t]*$"),
    **dict.fromkeys(
        ("float", "double"),
        r"(?i)^[ \t]*[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|inf|infinity|nan)[ \t]*$",
    ),
    "timestamp_ntz": r"^\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d{1,6}0*)?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?$",
}
# Java's names where Python's are others, and those that Spark takes without a setting.
_CHARSETS = {
    "utf-8-sig": "utf-8", "iso8859-1": "iso-8859-1", "ascii": "us-ascii", "utf-16-le": "utf-16le",
    "utf-16-be": "utf-16be", "mac-roman": "x-MacRoman",
}  # fmt: skip
_KNOWN_CHARSETS = ("utf-8", "iso-8859-1", "us-ascii", "utf-16", "utf-16le", "utf-16be", "utf-32")
_ANY_CHARSET = "spark.sql.legacy.javaCharsets"
# What Spark puts in the place of bytes that are not of the encoding.
NOT_DECODED = "\ufffd"
_ESCAPED = (
    r"quotes with a backslash before them (\"). If these stand for quotes inside of values, set "
    r"csv_options=CsvOptions(escape='\\'); if not, double the quotes inside of values in the file"
)


def reader_options(csv: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of Spark's reader for the fields of CsvOptions."""
    quote = csv.get("quote", '"')
    return {
        "header": csv.get("header", True),
        "multiLine": quote is not None,
        "sep": csv.get("delimiter", ","),
        "quote": quote or "",
        "escape": csv.get("escape") or quote or "\0",
        "encoding": _charset(csv),
        "enforceSchema": False,
    }


def _charset(csv: Mapping[str, Any]) -> str:
    encoding = str(csv.get("encoding", "utf-8"))
    return _CHARSETS.get(encoding, encoding)


@contextmanager
def charsets(spark: Any, csv: Mapping[str, Any] | None) -> Iterator[None]:
    """Let Spark read files in every encoding that Java knows, as long as the block takes."""
    if _charset(csv or {}) in _KNOWN_CHARSETS:
        yield
        return
    before = spark.conf.get(_ANY_CHARSET, "false")
    spark.conf.set(_ANY_CHARSET, "true")
    try:
        yield
    finally:
        spark.conf.set(_ANY_CHARSET, before)


def text_of(column: Any, kind: str, csv: Mapping[str, Any]) -> Any:
    """Return what a column of text has for a SQL type; no value where the file has none."""
    from pyspark.sql import functions as F  # noqa: N812 - its usual name

    text, nulls = F.coalesce(column, F.lit("")), csv.get("null_values")
    if kind in _TEXTS and nulls is None:
        return text
    return F.when(~text.isin(*(_NO_VALUE if nulls is None else nulls)), text)


def value_of(text: Any, kind: str, csv: Mapping[str, Any]) -> Any:
    """Return text as a SQL type; no value where it is not spelled as this type is."""
    from pyspark.sql import functions as F  # noqa: N812

    if kind in ("float", "double") and csv.get("decimal") == ",":
        text = F.when(~text.contains("."), F.translate(text, ",", "."))
    if kind in _SPELLINGS:
        text = F.when(text.rlike(_SPELLINGS[kind]), text)
    if kind in ("int", "bigint"):
        digits = F.regexp_extract(text, r"0[xX]([0-9a-fA-F]+)", 1)
        text = F.when(digits == "", text).otherwise(F.conv(digits, 16, 10))
    if kind != "timestamp_ntz":
        return text.try_cast(kind)
    zone = F.regexp_replace(F.regexp_replace(text, r"([+-]\d\d)(\d\d)$", "$1:$2"), r"([+-]\d\d)$", "$1:00")
    return F.when(text.rlike(ZONE), in_utc(zone.try_cast("timestamp"))).otherwise(text.try_cast(kind))


def damage(columns: Mapping[str, Any], csv: Mapping[str, Any]) -> Iterator[Any]:
    """Yield why a row's text cannot be what the file has, as columns without a value where it can.

    :param columns: those of text, by name
    """
    from pyspark.sql import functions as F  # noqa: N812

    is_unescaped = csv.get("quote", '"') == '"' and csv.get("escape") is None
    for name, column in columns.items():
        undecoded = F.lit(f"Column '{name}' has text that is not {csv.get('encoding', 'utf-8')}")
        yield F.when(column.contains(NOT_DECODED), undecoded)
        if is_unescaped:
            escaped = F.lit(f"Column '{name}' has {_ESCAPED}")
            yield F.when(column.rlike(r'\\"[^",\r\n\t;|]'), escaped)
