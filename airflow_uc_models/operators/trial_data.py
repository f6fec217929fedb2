"""The rows that models are measured on: files or a table, as each model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.casts import widened
from airflow_uc_models.engines.job import is_table
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.schema import features_of
from airflow_uc_models.engines.tables import Part, open_table
from airflow_uc_models.evaluation import Evaluation
from airflow_uc_models.exceptions import InputDataError, InvalidArgumentError
from airflow_uc_models.hooks.databricks_sql import read_table, sql_hook
from airflow_uc_models.rules_metrics import slice_metric_name
from airflow_uc_models.signatures import Signature

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 65_536
_MOST_SLICES, _MOST_SLICE_TEXT = 100, 100
_CODE = "__slice_{}"


@dataclass(frozen=True)
class TrialData:
    """All rows, in memory.

    :param table: the columns as they were read
    :param location: where they are from, for messages
    """

    evaluation: Evaluation
    table: pa.Table
    location: Location

    @classmethod
    def read(cls, evaluation: Evaluation, registry_conn_id: str) -> Self:
        """Read the rows; InputDataError if they are none to measure on."""
        name = evaluation.data.strip()
        if is_table(name):
            if evaluation.csv_options not in (None, CsvOptions()):
                raise InvalidArgumentError(f"csv_options of the evaluation are for CSV files; {name} is a table.")
            conn_id = evaluation.databricks_conn_id or registry_conn_id
            hook = sql_hook(conn_id, evaluation.http_path, evaluation.sql_endpoint_name)
            location = Location(name, None, name, is_local=False)
            table = read_table(hook, name, evaluation.max_rows + 1)
        else:
            location = Location.parse(name)
            table = _of_files(evaluation, location)
        found = cls(evaluation, _without_decimals(table), location)
        found.check()
        return found

    @property
    def name(self) -> str:
        """What reasons call the data."""
        return self.evaluation.data.strip()

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.table.num_rows)

    def check(self) -> None:
        """Raise unless there are rows, with the columns that were named and a true value in each."""
        wanted = [self.evaluation.targets, *(self.evaluation.slices or ())]
        if missing := [name for name in wanted if name not in self.table.column_names]:
            raise InputDataError(
                f"{self.name} has no column {', '.join(map(repr, missing))}; it has: "
                f"{', '.join(self.table.column_names)}."
            )
        if not self.rows:
            raise InputDataError(f"{self.name} has no rows to measure models on.")
        if self.rows > self.evaluation.max_rows:
            raise InputDataError(
                f"{self.name} has more than {self.evaluation.max_rows:,} rows; measure on a sample of it, or set "
                "max_rows higher if this worker has the memory."
            )
        if nulls := self.table.column(self.evaluation.targets).null_count:
            raise InputDataError(
                f"Column {self.evaluation.targets!r} of {self.name} has no value in {nulls:,} of {self.rows:,} rows."
            )

    def given_to(self, signature: Signature | None, label: str) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
        """Return the rows in the types that a model takes, and the arguments of the worker's ``evaluate``.

        Raises: ModelContentError if the columns do not fit the signature.
        """
        import pyarrow as pa

        evaluation = self.evaluation
        beside = {evaluation.targets, *(evaluation.slices or ())}
        inputs = signature.inputs if signature else None
        # A signature says which columns are features; without one, they are what has no other purpose.
        named = bool(inputs) and inputs is not None and inputs[0].name is not None
        columns = [name for name in self.table.column_names if named or name not in beside]
        if not columns:
            raise InputDataError(f"{self.name} has no columns for a model beside {', '.join(sorted(beside))}.")
        rows = self.table.select(columns).combine_chunks()
        features = features_of(inputs, rows.schema, f"{label} and {self.name}")
        batches = [
            features.of(Part(batch, self.location, number * _BATCH + 1))
            for number, batch in enumerate(rows.to_batches(_BATCH))
        ]
        given = pa.Table.from_batches(batches)
        if evaluation.targets not in given.column_names:
            given = given.append_column(evaluation.targets, self.table.column(evaluation.targets))
        codes, slices = self._slices()
        for name, code in codes.items():
            given = given.append_column(name, code)
        arguments = {
            "features": list(features.types),
            "labels": features.labels,
            "inferred": list(features.inferred),
            "targets": evaluation.targets,
            "model_type": evaluation.model_type,
            "evaluator_config": self._config(),
            "slices": slices,
        }
        return given.combine_chunks().to_batches(_BATCH), arguments

    def _slices(self) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Return columns with codes of the values, and column and code of each slice."""
        import pyarrow.compute as pc

        codes: dict[str, Any] = {}
        slices: dict[str, list[Any]] = {}
        found: dict[str, list[str]] = {}
        for i, column in enumerate(self.evaluation.slices or ()):
            encoded = pc.dictionary_encode(self.table.column(column), null_encoding="encode").combine_chunks()
            values = [_value_text(value) for value in encoded.dictionary.to_pylist()]
            self._check_slices(column, values)
            found[column] = values
            codes[_CODE.format(i)] = encoded.indices
            slices |= {f"{column}={value}": [_CODE.format(i), code] for code, value in enumerate(values)}
        self._check_names([f"{column}={value}" for column, values in found.items() for value in values])
        return codes, slices

    def _check_slices(self, column: str, values: Sequence[str]) -> None:
        if len(values) > _MOST_SLICES or any(len(value) > _MOST_SLICE_TEXT for value in values):
            raise InputDataError(
                f"Column {column!r} of {self.name} has {len(values):,} values; slices are for at most {_MOST_SLICES}, "
                f"of at most {_MOST_SLICE_TEXT} characters."
            )

    def _check_names(self, parts: Sequence[str]) -> None:
        """Raise if the metrics of two slices had the same name: one would be judged for the other."""
        names: dict[str, str] = {}
        for part in parts:
            name = slice_metric_name("", part, self.evaluation.slice_metric)
            if name in names:
                raise InputDataError(
                    f"The slices {names[name]!r} and {part!r} of {self.name} differ only in characters that names of "
                    "metrics do not have; spell them out in the data."
                )
            names[name] = part

    def _config(self) -> dict[str, Any]:
        """Return the evaluator's configuration; all slices share the labels of the whole."""
        import pyarrow.compute as pc

        config: dict[str, Any] = {"log_model_explainability": False}
        if self.evaluation.model_type == "classifier":
            labels = pc.unique(self.table.column(self.evaluation.targets)).to_pylist()
            if all(isinstance(label, str | int | float) for label in labels):
                config["label_list"] = sorted(labels)
        return config | dict(self.evaluation.evaluator_config or {})


def _of_files(evaluation: Evaluation, location: Location) -> pa.Table:
    import pyarrow as pa

    csv = CsvOptions.parse(evaluation.csv_options)
    table = open_table(location, evaluation.input_format, csv).typed(None)
    found, rows = [], 0
    for part in table.parts(table.schema.names, _BATCH):
        found.append(part.batch)
        rows += part.batch.num_rows
        if rows > evaluation.max_rows:
            break
    return pa.Table.from_batches(found, schema=table.schema)


def _without_decimals(table: pa.Table) -> pa.Table:
    """Return decimals, which warehouses give and models do not take, as doubles."""
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            doubles = [widened(chunk, pa.float64()) for chunk in table.column(index).chunks]
            table = table.set_column(index, field.with_type(pa.float64()), pa.chunked_array(doubles, pa.float64()))
    return table


def _value_text(value: Any) -> str:
    return "null" if value is None else str(value)
