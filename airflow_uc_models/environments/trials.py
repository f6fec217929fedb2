"""A model tried out where it is: measured on data, and on its own input example.

Runs in the environment of the model, so on any Python from 3.10 and any mlflow from 2.11.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_uc_models.environments.frames import frame_of
from airflow_uc_models.environments.redaction import described, warned_safely
from airflow_uc_models.exceptions import ModelEnvironmentError, PredictionError

_MOST_TEXT = 1_000


def evaluate(model: Any, arguments: Mapping[str, Any], batches: Sequence[Any]) -> dict[str, Any]:
    """Return the metrics of ``mlflow.models.evaluate`` on all rows, and on each slice.

    ``arguments``: ``features`` and ``targets``, names of columns; ``labels``, by which the model knows the features, if
    by others; ``inferred``, features of any type; ``model_type``; ``evaluator_config``; ``slices``:
    ``{name: [column, code]}``, where the column holds the codes of its values.
    """
    # A private store of plain files in the working folder of this process, which is gone when it ends. A database
    # would need the SQLAlchemy that the model's mlflow was made for, which models do not pin.
    os.environ |= {"MPLBACKEND": "Agg", "MLFLOW_ALLOW_FILE_STORE": "true"}
    import mlflow
    import pandas as pd

    place = (Path.cwd() / "evaluation").as_uri()
    mlflow.set_tracking_uri(place)
    mlflow.set_registry_uri(place)
    pyfunc = model.pyfunc
    # The private store does not have the logged model for which mlflow would log the metrics.
    if getattr(pyfunc, "model_id", None):
        pyfunc._model_id = pyfunc.metadata.model_id = None  # noqa: SLF001 - it cannot be told otherwise
    inferred, features = arguments.get("inferred") or (), arguments["features"]
    frame = pd.concat([frame_of(batch, inferred=inferred, is_writable=True) for batch in batches], ignore_index=True)
    labels = arguments.get("labels") or features
    frame = frame.rename(columns=dict(zip(features, labels, strict=True)))
    columns = [*labels, arguments["targets"]]
    slices: dict[str, Any] = {}
    problem = ""
    try:
        metrics = _measured(pyfunc, frame[columns], arguments)
    except Exception as error:
        problem = described(error, frame, columns)
    if problem:
        raise PredictionError(problem)
    for name, (column, code) in arguments["slices"].items():
        try:
            slices[name] = {"metrics": _measured(pyfunc, frame.loc[frame[column] == code, columns], arguments)}
        except Exception as error:  # too few rows for a metric, say; who asks for the metric of this slice is told
            slices[name] = {"error": described(error, frame, columns)[:_MOST_TEXT]}
    return {"metrics": metrics, "slices": slices}


def _measured(pyfunc: Any, frame: Any, arguments: Mapping[str, Any]) -> dict[str, float]:
    import mlflow
    import mlflow.models

    with mlflow.start_run(), warned_safely(frame, [str(name) for name in frame.columns]):
        result = mlflow.models.evaluate(
            pyfunc,
            frame.reset_index(drop=True),
            targets=arguments["targets"],
            model_type=arguments["model_type"],
            evaluator_config=arguments["evaluator_config"],
        )
    return {name: float(value) for name, value in result.metrics.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def smoke_test(model: Any, arguments: Mapping[str, Any], batches: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG001
    """Predict the model's own input example; tells what came of it, and raises nothing that the model raises.

    Returns ``{"problem"}``, or ``{"outputs", "rows", "expected_rows"}``: the types of the output in MLflow's JSON, as
    a signature of it would have them, and numbers of rows, None where there are none to count.
    """
    try:
        pyfunc = model.pyfunc
    except ModelEnvironmentError:  # may pass
        raise
    except Exception as error:
        return {"problem": _problem("cannot be loaded in its environment", error)}
    try:
        example = pyfunc.metadata.load_input_example(str(model.folder))
    except Exception as error:
        return {"problem": _problem("has an input example that cannot be read", error)}
    if example is None:
        return {"problem": "the model has no input example: log it with input_example=..."}
    try:
        with warned_safely(example):
            output = pyfunc.predict(example)
    except Exception as error:
        return {"problem": _problem("fails on its own input example", error, example)}
    try:
        outputs = _types(output, pyfunc.metadata.get_output_schema())
    except Exception as error:
        return {"problem": _problem("predicts what no signature describes", error, output)}
    return {"outputs": outputs, "rows": _rows(output), "expected_rows": _rows(example)}


def _types(output: Any, schema: Any) -> list[dict[str, Any]]:
    """Return the types of an output, which is taken as columns where the signature does so."""
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature

    if schema is not None and not schema.is_tensor_spec():
        names = schema.input_names() if schema.has_input_names() else None
        if isinstance(output, np.ndarray) and output.ndim > 1 and output.shape[1:] == (len(schema.inputs),):
            output = pd.DataFrame(output, columns=names) if names else pd.Series(output.ravel())
        elif isinstance(output, list | np.ndarray) and not isinstance(output[0], dict):
            output = pd.Series(output if np.ndim(output) == 1 else list(output))
        if isinstance(output, pd.Series) and names:
            output = output.to_frame(names[0] if len(names) == 1 else None)
    outputs = infer_signature(None, output).outputs
    return [dict(entry) for entry in outputs.to_dict()]


def _rows(value: Any) -> int | None:
    """Return the number of rows of a table or array."""
    import numpy as np
    import pandas as pd

    is_rows = isinstance(value, list | pd.DataFrame | pd.Series) or (isinstance(value, np.ndarray) and value.ndim > 0)
    return len(value) if is_rows else None


def _problem(what: str, error: Exception, rows: Any = None) -> str:
    """Return the problem in words; of an error on rows, without what is in them."""
    told = f"{type(error).__name__}: {error}" if rows is None else described(error, rows)
    return f"the model {what}: {told}"[:_MOST_TEXT]
