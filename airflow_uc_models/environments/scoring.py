"""What is done with a batch of rows where the model is: in its own process, or in the task's.

Runs in the environment of the model, too, so on any Python from 3.10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_uc_models.environments.frames import frame_of, tensor_of
from airflow_uc_models.environments.redaction import described, safe_text, warned_safely
from airflow_uc_models.exceptions import PredictionError

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTION = "prediction"
# Looking for the rows on which a model fails ends when it is no matter of single rows.
MOST_CALLS, FIRST_ROWS = 10_000, 20
_MOST_TEXT = 500


@dataclass(frozen=True)
class Asked:
    """How a batch is given to the model, and what is made of its answer.

    :param names: the signature's names of several outputs; else just ``prediction``
    :param as_tensor: give the columns as one array, not as a DataFrame
    :param is_enforced: the model has a signature, to which pyfunc holds the rows
    :param quarantines: look for the rows on which the model fails
    :param has_worked: the model has predicted rows of an earlier batch
    :param labels: the names by which the model knows the columns, where those are not text
    :param params: parameters of the signature; None for their defaults
    :param inferred: columns for which the signature takes any type
    """

    names: Sequence[str] = (PREDICTION,)
    as_tensor: bool = False
    is_enforced: bool = True
    quarantines: bool = False
    has_worked: bool = False
    labels: Sequence[str | int] | None = None
    inferred: Sequence[str] = ()
    params: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Predicted:
    """What the model made of a batch.

    :param columns: the predictions of the good rows, in their order; None if there is no good row
    :param bad: number in the batch and reason of each row on which it failed, in their order
    """

    columns: pa.RecordBatch | None
    bad: Sequence[tuple[int, str]] = ()


def predict(model: Any, arguments: Mapping[str, Any], batches: Sequence[Any]) -> tuple[dict[str, Any], list[Any]]:
    """Score one batch in a model's process: the worker's function of this name."""
    predicted = score(model.pyfunc.predict, batches[0], Asked(**arguments))
    return {"bad": predicted.bad}, [] if predicted.columns is None else [predicted.columns]


def score(predict: Callable[..., Any], rows: pa.RecordBatch, asked: Asked) -> Predicted:
    """Predict rows that fit the signature; what the model raises is raised, unless ``asked`` quarantines bad rows.

    :param predict: takes a DataFrame, or an array for a tensor signature
    """
    told = ""
    try:
        return Predicted(_predictions(predict, rows, asked))
    except MemoryError:
        raise
    except Exception as error:
        if asked.quarantines:
            search = _Search(predict, rows, asked)
            search.halve(0, rows.num_rows, error)
        else:
            told = safe_reason(error, rows)
    if told:
        raise PredictionError(told)
    bad = {index for index, _ in search.bad}
    good = [index for index in range(rows.num_rows) if index not in bad]
    return Predicted(_predictions(predict, rows.take(good), asked) if good else None, search.bad)


@dataclass
class _Search:
    """Finds the rows on which a model fails, by halving batches on which it does."""

    predict: Callable[..., Any]
    rows: pa.RecordBatch
    asked: Asked
    calls: int = 0
    has_worked: bool = False
    bad: list[tuple[int, str]] = field(default_factory=list)

    def halve(self, start: int, count: int, error: Exception) -> None:
        """Note the bad rows among these, on which the model fails together."""
        if count == 1:
            self.bad.append((start, reason(error)))
            if len(self.bad) >= FIRST_ROWS and not (self.has_worked or self.asked.has_worked):
                told = safe_reason(error, self.rows)
                raise PredictionError(f"The model fails on each of the first {FIRST_ROWS} rows: {told}") from None
            return
        half = count // 2
        for first, size in ((start, half), (start + half, count - half)):
            self.calls += 1
            if self.calls > MOST_CALLS:
                raise PredictionError(
                    f"The model fails on too many of {self.rows.num_rows:,} rows: {len(self.bad):,} of them were found "
                    f"in {MOST_CALLS:,} predictions, which is no matter of single rows. The last one: "
                    f"{safe_reason(error, self.rows)}"
                ) from None
            try:
                _predictions(self.predict, self.rows.slice(first, size), self.asked)
                self.has_worked = True
            except MemoryError:
                raise
            except Exception as raised:
                self.halve(first, size, raised)


def reason(error: Exception) -> str:
    """Return why a row is bad, in one short text that stands beside the row."""
    told = str(error) if isinstance(error, PredictionError) else f"{type(error).__name__}: {error}"
    return told if len(told) <= _MOST_TEXT else f"{told[:_MOST_TEXT]} ..."


def safe_reason(error: Exception, rows: Any) -> str:
    """Return the same for messages, which go to logs: without what is in the rows."""
    if isinstance(error, PredictionError):
        return str(error)
    return described(error, rows, getattr(getattr(rows, "schema", None), "names", ()))


def frame(rows: pa.RecordBatch, asked: Asked) -> Any:
    """Return what pyfunc predicts on: a DataFrame, or an array for a tensor signature."""
    if asked.as_tensor:
        return tensor_of(rows)
    # Without enforcement the model itself gets this frame and may write to it; split blocks can be read-only.
    return frame_of(rows, asked.labels, inferred=asked.inferred, is_writable=not asked.is_enforced)


def _predictions(predict: Callable[..., Any], rows: pa.RecordBatch, asked: Asked) -> pa.RecordBatch:
    import pyarrow as pa

    given = frame(rows, asked)
    with warned_safely(rows, rows.schema.names):
        predicted = predict(given) if asked.params is None else predict(given, params=dict(asked.params))
    columns = prediction_arrays(predicted, rows.num_rows, asked.names)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def prediction_arrays(predictions: Any, rows: int, names: Sequence[str]) -> dict[str, pa.Array]:
    """Return a model's answer as columns, one value for each row; PredictionError if it is nothing of that kind.

    :param names: what the signature calls several outputs
    """
    import pyarrow as pa

    problem = ""
    try:
        arrays = {name: _array(values) for name, values in _columns(predictions, names).items()}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, OverflowError) as error:
        problem = safe_text(str(error), predictions)
    if problem:
        raise PredictionError(f"The predictions cannot be stored as columns: {problem}")
    if not arrays:
        raise PredictionError("The model returned no columns.")
    for name, array in arrays.items():
        if len(array) != rows:
            raise PredictionError(f"The model returned {len(array):,} values of {name!r} for {rows:,} rows.")
    return arrays


def _columns(predictions: Any, names: Sequence[str]) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    if isinstance(predictions, pd.DataFrame):
        labels = _labels(list(predictions.columns), names)
        return {label: predictions.iloc[:, i] for i, label in enumerate(labels)}
    if isinstance(predictions, Mapping):
        labels = _labels(list(predictions), names)
        return dict(zip(labels, predictions.values(), strict=True))
    if isinstance(predictions, np.ndarray) and predictions.ndim == 2:
        if predictions.shape[1] == 1:
            return {PREDICTION: predictions[:, 0]}
        if predictions.shape[1] == 0:
            return {}
        if predictions.shape[1] == len(names):
            return {name: predictions[:, i] for i, name in enumerate(names)}
        return {PREDICTION: predictions}
    if isinstance(predictions, (pd.Series, list, tuple)) or (
        isinstance(predictions, np.ndarray) and predictions.ndim == 1
    ):
        return {PREDICTION: predictions}
    shape = f" of shape {predictions.shape}" if isinstance(predictions, np.ndarray) else ""
    raise PredictionError(
        f"The model returned a {type(predictions).__name__}{shape}; one prediction for each row is needed: an "
        "array of one or two dimensions, a Series, a DataFrame, a list, or a dict of them."
    )


def _labels(given: list[Any], names: Sequence[str]) -> Sequence[str]:
    """Return the names of several columns; ``prediction`` for one."""
    if len(given) == 1:
        return [PREDICTION]
    if all(isinstance(label, int) for label in given):
        return names if len(names) == len(given) else [f"{PREDICTION}_{label}" for label in given]
    labels = [str(label) for label in given]
    if len(set(labels)) < len(labels):
        raise PredictionError(f"The model returned columns of the same name: {', '.join(labels)}.")
    return labels


def _array(values: Any) -> pa.Array:
    """Return values as one Arrow array; NaN stays NaN in columns of floats, and is a gap in columns of objects."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    if isinstance(values, (str, bytes)):  # of which Arrow would make a column of letters
        raise TypeError(f"one {type(values).__name__} is no column of values")
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
