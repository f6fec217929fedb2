"""How a Spark worker predicts where mlflow's own Spark function does not do.

Spark sends these functions to workers that do not have this package: nothing of it may be imported here. Part of the
script that is shipped to Databricks: nothing but PySpark and MLflow is imported.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_uc_models.environments.frames import frame_of, tensor_of
from airflow_uc_models.environments.redaction import described, warned_safely

_MOST_REASON = 1_000


def bring_model(spark: Any, uri: str, *, is_remote: bool) -> Callable[[], Any]:
    """Return a function that loads the model on a worker; the files go there unless the workers are this machine."""
    from pyspark import cloudpickle

    for name in {__name__, frame_of.__module__, described.__module__}:
        cloudpickle.register_pickle_by_value(sys.modules[name])  # type: ignore[no-untyped-call]
    if not is_remote and spark.conf.get("spark.master", "").startswith("local"):
        return lambda: _load(uri)
    import mlflow.artifacts

    name = f"model_{secrets.token_hex(8)}"
    # Beside the model's own folder, if it has one: that goes with the task, also if its process is killed.
    beside = os.path.dirname(uri) if os.path.isdir(uri) else None  # noqa: PTH112, PTH120
    with tempfile.TemporaryDirectory(prefix="model-archive-", dir=beside) as folder:
        files = uri if os.path.isdir(uri) else mlflow.artifacts.download_artifacts(uri, dst_path=folder)  # noqa: PTH112
        archive = shutil.make_archive(f"{folder}/{name}", "zip", files)
        if is_remote:
            spark.addArtifacts(f"{archive}#{name}", archive=True)
        else:
            spark.sparkContext.addArchive(f"{archive}#{name}")
    return lambda: _load_brought(name)


def _load_brought(name: str) -> Any:
    from pyspark import SparkFiles

    return _load(f"{SparkFiles.getRootDirectory()}/{name}")


def _load(folder: str) -> Any:
    import mlflow.pyfunc

    try:
        return mlflow.pyfunc.load_model(folder)
    except (Exception, SystemExit) as error:  # a model's own code may raise anything, but it has seen no row yet
        lasting = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and not isinstance(error, lasting)):
            raise
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MOST_REASON]
    raise LoadingError(told)


@dataclass(frozen=True)
class Given:
    """How the model is given its columns.

    :param as_tensor: as one array
    :param labels: their names, where the model knows them by others than the input
    :param inferred: the columns for which the signature takes any type
    :param params: parameters of inference; None for their defaults
    """

    as_tensor: bool = False
    labels: Sequence[Any] | None = None
    inferred: Sequence[str] = ()
    params: Mapping[str, Any] | None = None


class LoadingError(Exception):
    """The model cannot be loaded; the message says why."""


class ScoringError(Exception):
    """The model failed; the message has no value of the rows."""


def predicting(
    load: Callable[[], Any], features: Sequence[str], results: Any, *, given: Given, reason: str | None
) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what each worker does with its batches: predictions take the place of the model's columns.

    :param load: gives the model
    :param features: names of the model's columns, which are the last ones of a batch
    :param results: Arrow schema of the predictions
    :param given: how the model is given its columns
    :param reason: the column that says why the model failed on a row; without one, it then fails altogether
    """

    def score(model: Any, kept: Any, rows: Any) -> Iterator[Any]:
        import pyarrow as pa

        count = rows.num_rows
        problem = ""
        try:
            columns = _columns(_predict(model, rows, given), results, count)
            columns += [pa.nulls(count, pa.string())] if reason else []
        except Exception as error:
            if reason is None:
                problem = described(error, rows, features)
            elif count > 1:
                half = count // 2
                yield from score(model, kept.slice(0, half), rows.slice(0, half))
                yield from score(model, kept.slice(half), rows.slice(half))
                return
            told = pa.array([f"{type(error).__name__}: {error}"[:_MOST_REASON]])
            columns = [*(pa.nulls(1, kind) for kind in results.types), told]
        if problem:
            raise ScoringError(problem)
        names = [*kept.schema.names, *results.names, *([reason] if reason else [])]
        yield pa.RecordBatch.from_arrays([*kept.columns, *columns], names=names)

    def work(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        model = load()
        for batch in batches:
            if batch.num_rows:
                border = batch.num_columns - len(features)
                kept = batch.select(batch.schema.names[:border])
                rows = pa.RecordBatch.from_arrays(batch.columns[border:], names=list(features))
                yield from score(model, kept, rows)

    return work


def _predict(model: Any, rows: Any, given: Given) -> Any:
    import pyarrow as pa

    names = rows.schema.names
    columns = [
        column.cast(_plain_type(column.type, is_free=name in given.inferred))
        for name, column in zip(names, rows.columns, strict=True)
    ]
    typed = pa.RecordBatch.from_arrays(columns, names=names)
    frame = tensor_of(typed) if given.as_tensor else frame_of(typed, given.labels, inferred=given.inferred)
    with warned_safely(rows, names):
        return model.predict(frame) if given.params is None else model.predict(frame, params=dict(given.params))


def _plain_type(kind: Any, *, is_free: bool) -> Any:
    """Return the type by which a DataFrame gets the right values.

    MLflow's times have nanoseconds; of numbers, Python has one type of whole ones and one of others.
    """
    import pyarrow as pa

    def plain(inner: Any) -> Any:
        return _plain_type(inner, is_free=is_free)

    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, plain(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, plain(field.type)) for field in kind])
    if is_free:
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        return (pa.int64() if pa.types.is_integer(kind) else pa.float64()) if is_number else kind
    return pa.timestamp("ns") if pa.types.is_timestamp(kind) else kind


def _columns(predictions: Any, results: Any, count: int) -> list[Any]:
    """Return predictions as Arrow columns of these names and types; ValueError if they are something else."""
    import numpy as np
    import pandas as pd

    if isinstance(predictions, dict):
        predictions = pd.DataFrame(predictions)
    if isinstance(predictions, pd.DataFrame):
        named = set(results.names) <= set(predictions.columns)
        found = [predictions[name] if named else predictions.iloc[:, i] for i, name in enumerate(results.names)]
    elif len(results) > 1:
        found = list(np.asarray(predictions).T)
    else:
        found = [predictions]
    columns = [_column(values, field.type) for values, field in zip(found, results, strict=True)]
    if wrong := [len(column) for column in columns if len(column) != count]:
        raise ValueError(f"The model returned {wrong[0]} values for {count} rows.")
    return columns


def _column(values: Any, kind: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    if isinstance(values, np.ndarray) and values.ndim > 1:
        values = list(values) if pa.types.is_list(kind) else values.reshape(len(values))
    is_plain = getattr(getattr(values, "dtype", None), "kind", "") in "biuf"
    array = pa.array(values, from_pandas=not is_plain)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array if array.type == kind else array.cast(kind)
