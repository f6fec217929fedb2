"""What a model returns, as columns: named, of one type from the first batch to the last, one value for each row.

One column is always called ``prediction``. Several bear the names that the model gives them, or else the
signature's; several without any name are lists in the one column ``prediction``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_uc_models.engines.schema import arrow_type, widens
from airflow_uc_models.environments.scoring import PREDICTION
from airflow_uc_models.exceptions import InvalidArgumentError, PredictionError
from airflow_uc_models.signatures import Field

if TYPE_CHECKING:
    import pyarrow as pa


class PredictionColumns:
    """Turns each batch's predictions into Arrow columns of one schema.

    The schema is that of the first batch, with the wider types of the signature's outputs where they fit.

    :param outputs: the signature's outputs, if there is one
    :param kept: columns that stand beside the predictions; their names are taken
    """

    def __init__(self, outputs: Sequence[Field], kept: Sequence[str] = ()) -> None:
        named = [item.column for item in outputs if item.column is not None]
        self.names = named if len(named) > 1 else [PREDICTION]
        declared = [arrow_type(item.type) for item in outputs]
        self.declared: dict[str, pa.DataType | None] = {}
        if len(declared) == len(self.names):
            self.declared = dict(zip(self.names, declared, strict=True))
        self.kept = kept
        self._schema: pa.Schema | None = None
        self._refuse_clash(self.names)

    @property
    def schema(self) -> pa.Schema:
        """Names and types; before the first batch, what the signature says of them."""
        import pyarrow as pa

        if self._schema is not None:
            return self._schema
        return pa.schema([(name, self.declared.get(name) or pa.null()) for name in self.names])

    def of(self, predictions: pa.RecordBatch) -> list[pa.Array]:
        """Return the columns of one batch; PredictionError unless they fit the columns of the first."""
        import pyarrow as pa

        if self._schema is None:
            self._refuse_clash(predictions.schema.names)
            self._schema = pa.schema([(item.name, self._type(item.name, item.type)) for item in predictions.schema])
        if set(predictions.schema.names) != set(self._schema.names):
            raise PredictionError(
                f"The model returned {', '.join(predictions.schema.names)} for this batch, and "
                f"{', '.join(self._schema.names)} before."
            )
        return [_fitted(predictions.column(item.name), item) for item in self._schema]

    def _type(self, name: str, found: pa.DataType) -> pa.DataType:
        declared = self.declared.get(name)
        return declared if declared is not None and widens(found, declared) else found

    def _refuse_clash(self, names: Sequence[str]) -> None:
        if both := [name for name in names if name in self.kept]:
            raise InvalidArgumentError(
                f"The output has the column(s) {', '.join(both)} already, and the predictions are called so, too. "
                "Leave them out of the output: name the columns to keep with keep_columns."
            )


def _fitted(array: pa.Array, field: pa.Field) -> pa.Array:
    import pyarrow as pa

    if array.type == field.type:
        return array
    try:
        return array.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # what Arrow says of it has the value
    raise PredictionError(
        f"The model returned {field.name!r} as {array.type} for this batch, and as {field.type} before. "
        "Log the model with a signature of its outputs, which tells their types before the first batch."
    )
