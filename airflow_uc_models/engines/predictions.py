"""What a model returns, as columns: named, of one type from the first batch to the last, one value for each row.

One column is always called ``prediction``. Several bear the names that the model gives them, or else the
signature's; several without any name are lists in the one column ``prediction``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_uc_models.engines.schema import arrow_type, widens
from airflow_uc_models.exceptions import InvalidArgumentError, PredictionError
from airflow_uc_models.signatures import Field

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTION = "prediction"


class PredictionColumns:
    """Turns each batch's predictions into Arrow columns of one schema.

    The schema is that of the first batch, with the wider types of the signature's outputs where they fit.

    :param outputs: the signature's outputs, if there is one
    :param kept: input columns that stand beside the predictions; their names are taken
    """

    def __init__(self, outputs: Sequence[Field], kept: Sequence[str] = ()) -> None:
        named = [item.name for item in outputs if item.name is not None]
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

    def of(self, predictions: Any, rows: int) -> list[pa.Array]:
        """Return the columns of one batch; PredictionError unless they fit its rows and the columns of the first."""
        import pyarrow as pa

        try:
            arrays = {name: _array(values) for name, values in self._columns(predictions).items()}
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise PredictionError(f"The predictions cannot be stored as columns: {error}") from error
        for name, array in arrays.items():
            if len(array) != rows:
                raise PredictionError(f"The model returned {len(array):,} values of {name!r} for {rows:,} rows.")
        if self._schema is None:
            self._refuse_clash(list(arrays))
            self._schema = pa.schema([(name, self._type(name, array.type)) for name, array in arrays.items()])
        return [_fitted(arrays, field) for field in self._fields(arrays)]

    def _fields(self, arrays: Mapping[str, Any]) -> list[pa.Field]:
        if set(arrays) != set(self.schema.names):
            raise PredictionError(
                f"The model returned {', '.join(arrays)} for this batch, and {', '.join(self.schema.names)} before."
            )
        return list(self.schema)

    def _type(self, name: str, found: pa.DataType) -> pa.DataType:
        declared = self.declared.get(name)
        return declared if declared is not None and widens(found, declared) else found

    def _columns(self, predictions: Any) -> dict[str, Any]:
        import numpy as np
        import pandas as pd

        if isinstance(predictions, pd.DataFrame):
            labels = self._labels(list(predictions.columns))
            return {label: predictions.iloc[:, i] for i, label in enumerate(labels)}
        if isinstance(predictions, Mapping):
            labels = self._labels(list(predictions))
            return dict(zip(labels, predictions.values(), strict=True))
        if isinstance(predictions, np.ndarray) and predictions.ndim == 2:
            if predictions.shape[1] == 1:
                return {PREDICTION: predictions[:, 0]}
            if predictions.shape[1] == len(self.names):
                return {name: predictions[:, i] for i, name in enumerate(self.names)}
            return {PREDICTION: predictions}
        if isinstance(predictions, pd.Series | list | tuple) or (
            isinstance(predictions, np.ndarray) and predictions.ndim == 1
        ):
            return {PREDICTION: predictions}
        shape = f" of shape {predictions.shape}" if isinstance(predictions, np.ndarray) else ""
        raise PredictionError(
            f"The model returned a {type(predictions).__name__}{shape}; one prediction for each row is needed: an "
            "array of one or two dimensions, a Series, a DataFrame, a list, or a dict of them."
        )

    def _labels(self, given: list[Any]) -> list[str]:
        """Return the names of several columns; ``prediction`` for one."""
        if len(given) == 1:
            return [PREDICTION]
        if all(isinstance(label, int) for label in given):
            return self.names if len(self.names) == len(given) else [f"{PREDICTION}_{label}" for label in given]
        labels = [str(label) for label in given]
        if len(set(labels)) < len(labels):
            raise PredictionError(f"The model returned columns of the same name: {', '.join(labels)}.")
        return labels

    def _refuse_clash(self, names: Sequence[str]) -> None:
        if both := [name for name in names if name in self.kept]:
            raise InvalidArgumentError(
                f"The input has the column(s) {', '.join(both)}, and the predictions are called so, too. "
                "Leave them out of the output: name the columns to keep with keep_columns."
            )


def _array(values: Any) -> pa.Array:
    """Return values as one Arrow array; NaN stays NaN in columns of floats, and is a gap in columns of objects."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    if isinstance(values, pd.Series) and isinstance(values.dtype, np.dtype):
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        offsets = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, flat)
    is_plain = isinstance(values, np.ndarray) and values.dtype.kind in "biuf"
    array = pa.array(values, from_pandas=not is_plain)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _fitted(arrays: Mapping[str, pa.Array], field: pa.Field) -> pa.Array:
    import pyarrow as pa

    array = arrays[field.name]
    if array.type == field.type:
        return array
    try:
        return array.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PredictionError(
            f"The model returned {field.name!r} as {array.type} for this batch, and as {field.type} before: {error}"
        ) from error
