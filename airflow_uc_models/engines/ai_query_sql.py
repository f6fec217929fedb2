"""The SQL of the engine ``ai_query``: every statement that it sends, without sending any.

The endpoint is asked once for each row, into a table of its own; what it answered is then taken from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from airflow_uc_models.engines.job import REASON_COLUMN, RUN_COLUMN
from airflow_uc_models.engines.schema import accepts
from airflow_uc_models.engines.spark_plan import tick
from airflow_uc_models.exceptions import ModelContentError
from airflow_uc_models.signatures import Field, type_name

ANSWER = "_airflow_answer"
PREDICTION = "prediction"
_SCALARS = {
    "boolean": "BOOLEAN",
    "integer": "INT",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "STRING",
    "binary": "BINARY",
    "datetime": "TIMESTAMP",
}
_OF_NUMPY = {
    "bool": "BOOLEAN",
    "int32": "INT",
    "int64": "BIGINT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "str": "STRING",
    "object": "STRING",
}


def literal(text: str) -> str:
    """Quote a text; a backslash escapes in Databricks SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def sql_type(kind: Mapping[str, Any]) -> str:
    """Return the SQL type of an MLflow type; ModelContentError if there is none."""
    inner: str | None = None
    match kind["type"]:
        case "array":
            inner = f"ARRAY<{sql_type(kind['items'])}>"
        case "map":
            inner = f"MAP<STRING, {sql_type(kind['values'])}>"
        case "object":
            inner = (
                f"STRUCT<{', '.join(f'{tick(key)}: {sql_type(value)}' for key, value in kind['properties'].items())}>"
            )
        case "tensor":
            inner = _of_tensor(kind.get("tensor-spec") or {})
        case other:
            inner = _SCALARS.get(other)
    if inner is None:
        raise ModelContentError(f"The model returns {type_name(kind)}, for which SQL has no type.")
    return inner


def fits(kind: Mapping[str, Any], found: str) -> bool:
    """Whether a column of a SQL type can be cast to an MLflow type with nothing cut off; of nested types, SQL tells.

    :param found: as Unity Catalog writes it, such as ``decimal(10,2)``
    """
    import pyarrow as pa

    arrow = {
        "boolean": pa.bool_(), "tinyint": pa.int8(), "smallint": pa.int16(), "int": pa.int32(), "bigint": pa.int64(),
        "float": pa.float32(), "double": pa.float64(), "decimal": pa.decimal128(38), "string": pa.string(),
        "varchar": pa.string(), "char": pa.string(), "binary": pa.binary(), "date": pa.date32(),
        "timestamp": pa.timestamp("us"), "timestamp_ntz": pa.timestamp("us"),
    }.get(found.lower().partition("(")[0].strip())  # fmt: skip
    return arrow is None or kind["type"] not in _SCALARS or accepts(kind, arrow)


def _of_tensor(spec: Mapping[str, Any]) -> str | None:
    item, shape = _OF_NUMPY.get(str(spec.get("dtype"))), spec.get("shape") or ()
    if item is None or len(shape) not in (1, 2):
        return None
    return item if len(shape) == 1 else f"ARRAY<{item}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What is asked of the endpoint, and where the answers go.

    :param source: the quoted table of the rows
    :param target: the quoted table of the output
    :param bad_rows: the quoted table of bad rows; None where the first one ends the job
    :param staging: the quoted table of the answers
    :param request: pairs of a field that the model takes and the SQL type of its column
    :param return_type: the SQL type of an answer
    :param predictions: columns of the output that the answer's fields of these names become; none if it has no fields
    :param kept: columns of the input that the output has
    :param values: pairs of a column and the SQL of its value, the same in all rows
    :param key: the key of this Dag run, by which its rows are told apart; None if the output is its alone
    """

    endpoint: str
    source: str
    target: str
    bad_rows: str | None
    staging: str
    request: Sequence[Sequence[str]]
    return_type: str
    predictions: Sequence[str]
    kept: Sequence[str]
    values: Sequence[Sequence[str]]
    key: str | None

    @classmethod
    def of(cls, outputs: Sequence[Field], **fields: Any) -> Self:
        """Return the scoring of a model with these outputs."""
        if len(outputs) == 1:
            return cls(return_type=sql_type(outputs[0].type), predictions=(), **fields)
        if not all(field.name for field in outputs):
            raise ModelContentError(
                "The model returns several columns without names; log it with a signature that has."
            )
        listed = ", ".join(f"{tick(str(field.name))}: {sql_type(field.type)}" for field in outputs)
        return cls(return_type=f"STRUCT<{listed}>", predictions=tuple(str(field.name) for field in outputs), **fields)

    @property
    def added(self) -> list[str]:
        """The columns that the output has besides those kept."""
        own = [column for column, _ in self.values] + ([RUN_COLUMN] if self.key else [])
        return [*(self.predictions or [PREDICTION]), *own]

    # -- statements

    def score(self) -> str:
        """Ask the endpoint about all rows; the only statement that costs predictions."""
        fields = ", ".join(f"{literal(field)}, CAST({tick(field)} AS {kind})" for field, kind in self.request)
        lenient = ", failOnError => false" if self.bad_rows else ""
        answer = (
            f"ai_query({literal(self.endpoint)}, named_struct({fields}), returnType => {literal(self.return_type)}"
            f"{lenient}) AS {tick(ANSWER)}"
        )
        columns = ", ".join([*map(tick, self.kept), answer])
        return f"CREATE OR REPLACE TABLE {self.staging} AS SELECT {columns} FROM {self.source}"  # noqa: S608 - all quoted

    def count(self) -> str:
        """Count good and bad rows."""
        if not self.bad_rows:
            return f"SELECT count(*), 0 FROM {self.staging}"  # noqa: S608
        good = self._is_good
        return f"SELECT count_if({good}), count_if(NOT ({good})) FROM {self.staging}"  # noqa: S608

    def first_reason(self) -> str:
        """Ask why some row is bad."""
        return f"SELECT {tick(ANSWER)}.`errorMessage` FROM {self.staging} WHERE NOT ({self._is_good}) LIMIT 1"  # noqa: S608

    def publish(self, existing: Sequence[str] | None) -> list[str]:
        """Put the good rows in place, in one transaction.

        :param existing: the columns of the output as it is; None if there is none
        """
        answer = f"{tick(ANSWER)}.`result`" if self.bad_rows else tick(ANSWER)
        found = {column: f"{answer}.{tick(column)}" for column in self.predictions} or {PREDICTION: answer}
        condition = self._is_good if self.bad_rows else "true"
        values = {column: sql for column, sql in self.values}  # noqa: C416 - they may be lists
        return self._put(self.target, found | values, condition, existing)

    def put_aside(self, existing: Sequence[str] | None, rows: int) -> list[str]:
        """Put the bad rows aside, each with the reason; leave nothing of an earlier try."""
        assert self.bad_rows  # noqa: S101 - asked for where they are put aside
        if not rows and existing is None:
            return []
        if not rows and self.key is None:
            return [f"DROP TABLE IF EXISTS {self.bad_rows}"]
        if not rows:
            return [f"DELETE FROM {self.bad_rows} WHERE {self._is_own}"]  # noqa: S608
        reason = {REASON_COLUMN: f"{tick(ANSWER)}.`errorMessage`"}
        return self._put(self.bad_rows, reason, f"NOT ({self._is_good})", existing)

    def drop(self) -> str:
        """Remove the answers."""
        return f"DROP TABLE IF EXISTS {self.staging}"

    def _put(self, table: str, found: Mapping[str, str], condition: str, existing: Sequence[str] | None) -> list[str]:
        columns = {**{column: tick(column) for column in self.kept}, **found}
        if self.key is None:
            return [f"CREATE OR REPLACE TABLE {table} AS {self._select(columns, condition)}"]
        columns[RUN_COLUMN] = literal(self.key)
        if existing is None:
            # By this partition Delta tells apart what runs write at the same time.
            parted = f"PARTITIONED BY ({tick(RUN_COLUMN)})"
            made = [f"CREATE TABLE IF NOT EXISTS {table} {parted} AS {self._select(columns, 'false')}"]
        else:  # rows are inserted by position
            by_name = {column.lower(): (column, sql) for column, sql in columns.items()}
            columns, made = dict(by_name[column.lower()] for column in existing), []
        return [*made, f"INSERT INTO {table} REPLACE WHERE {self._is_own} {self._select(columns, condition)}"]

    def _select(self, columns: Mapping[str, str], condition: str) -> str:
        listed = ", ".join(f"{sql} AS {tick(column)}" for column, sql in columns.items())
        return f"SELECT {listed} FROM {self.staging} WHERE {condition}"  # noqa: S608

    @property
    def _is_good(self) -> str:
        return f"{tick(ANSWER)}.`errorMessage` IS NULL"

    @property
    def _is_own(self) -> str:
        return f"{tick(RUN_COLUMN)} = {literal(self.key or '')}"
