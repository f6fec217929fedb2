"""What the engine ``local`` is to do: a job that fits its model, from the columns it reads to those it writes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_uc_models.engines.intake import Intake, Taken
from airflow_uc_models.engines.job import InferenceJob
from airflow_uc_models.engines.model_params import checked_params
from airflow_uc_models.engines.outputs import BAD_ROW_COLUMNS, metadata_arrays, metadata_fields
from airflow_uc_models.engines.predictions import PredictionColumns
from airflow_uc_models.engines.schema import Features, arrow_type, features_of, fields_by_column
from airflow_uc_models.engines.tables import Table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.scoring import Asked, Predicted
from airflow_uc_models.exceptions import InvalidArgumentError, ModelContentError
from airflow_uc_models.signatures import Signature

if TYPE_CHECKING:
    import pyarrow as pa

# A batch's size unless the job tells it. Each batch costs a forest one pass through all of its trees, so it is large;
# a handful of them is in memory at once.
_BATCH_BYTES = 16 << 20
# pandas and mlflow take their time for each column of each batch, so batches of many columns are larger.
_WIDE_COLUMNS, _WIDE_BYTES = 200, 128 << 20
_BATCH_ROWS = (64, 131_072)


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that fits its model: what to read, what to give to the model and what to write.

    :param source: what is read
    :param table: the same with the types that the output has
    :param kept: input columns of the output
    """

    job: InferenceJob
    version: ModelVersion
    source: Table
    table: Table
    features: Features
    predictions: PredictionColumns
    kept: Sequence[str]

    @property
    def columns(self) -> list[str]:
        """What is read of the input."""
        return list(dict.fromkeys([*self.kept, *self.features.types]))

    @property
    def batch_size(self) -> int:
        """Rows that the model is given at once."""
        if self.job.batch_size is not None:
            return self.job.batch_size
        fewest, most = _BATCH_ROWS
        size = _WIDE_BYTES if len(self.columns) > _WIDE_COLUMNS else _BATCH_BYTES
        return max(fewest, min(most, int(size / self.table.row_bytes(self.columns))))

    @property
    def asked(self) -> Asked:
        """How the model is to predict."""
        return Asked(
            self.predictions.names,
            self.features.as_tensor,
            self.features.is_enforced,
            quarantines=self.job.quarantines,
            labels=self.features.labels,
            inferred=self.features.inferred,
            params=self.job.params,
        )

    @property
    def output_schema(self) -> pa.Schema:
        """The columns of the output, as far as they are known before the first batch."""
        import pyarrow as pa

        kept = [self.table.schema.field(name) for name in self.kept]
        return pa.schema([*kept, *self.predictions.schema, *metadata_fields(self.job)])

    def taken(self) -> Generator[Taken, None, None]:
        """Yield all rows of the input on their way to the model."""
        intake = Intake(self.features, self.table.schema, self.kept, self.job.quarantines, self.job.csv)
        with closing(self.source.parts(self.columns, self.batch_size)) as parts:
            for part in parts:
                yield intake.of(part)

    def nothing(self) -> pa.RecordBatch:
        """Return no rows: they make the file's columns certain when the input has none."""
        import pyarrow as pa

        return pa.RecordBatch.from_pylist([], schema=self.output_schema)

    def output(self, taken: Taken, predicted: Predicted) -> pa.RecordBatch:
        """Return the output's rows for some of the input's."""
        import pyarrow as pa

        if predicted.columns is None:
            return self.nothing()
        kept = taken.kept.columns
        if predicted.bad:
            bad = {index for index, _ in predicted.bad}
            good = [index for index in range(taken.rows.num_rows) if index not in bad]
            kept = [column.take(pa.array(good, pa.int64())) for column in kept]
        columns = self.predictions.of(predicted.columns)
        metadata = metadata_arrays(self.job, self.version, predicted.columns.num_rows)
        return pa.RecordBatch.from_arrays([*kept, *columns, *metadata], schema=self.output_schema)


def plan_of(job: InferenceJob, table: Table, mlmodel: dict[str, Any], version: ModelVersion) -> Plan:
    """Compare input and model; ModelContentError if they do not fit.

    :param mlmodel: the model's MLmodel file
    """
    signature = Signature.of_mlmodel(mlmodel) or Signature()
    inputs = signature.inputs or None
    if inputs is None and job.signature_required:
        raise ModelContentError(
            f"{version.uri} has no signature, so the input cannot be checked before it is scored. Log the model with a "
            "signature or an input example, or set signature_required=False."
        )
    source = table
    if inputs is None:
        table = table.typed(None)
    else:
        asked = fields_by_column(inputs, table.schema.names)
        table = table.typed({name: arrow_type(item.type) for name, item in asked.items()})
    features = features_of(inputs, table.schema, f"The columns of {job.input} and {version.uri}")
    kept = _kept(job, table)
    predictions = PredictionColumns(signature.outputs or (), [*kept, *job.metadata_columns])
    params = checked_params(signature, job.params, version.uri)
    return Plan(
        replace(job, params=params), version, source if job.quarantines else table, table, features, predictions, kept
    )


def _kept(job: InferenceJob, table: Table) -> list[str]:
    """Return the input columns of the output; InvalidArgumentError for one that is not there or whose name is taken."""
    names = table.schema.names
    kept = names if job.keep_columns is None else list(dict.fromkeys(job.keep_columns))
    if unknown := [name for name in kept if name not in names]:
        raise InvalidArgumentError(
            f"keep_columns names {', '.join(map(repr, unknown))}, which the input {job.input} does not have. "
            f"It has: {', '.join(names)}."
        )
    added = {"metadata_columns": job.metadata_columns, "on_bad_rows": BAD_ROW_COLUMNS if job.quarantines else ()}
    for parameter, taken in added.items():
        if both := [name for name in kept if name in taken]:
            raise InvalidArgumentError(
                f"The input has the column(s) {', '.join(both)}, which {parameter} adds, too. Leave them out of the "
                "output: name the columns to keep with keep_columns."
            )
    return kept
