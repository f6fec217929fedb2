"""Models with input examples, and rows to measure them on."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.mlflow_server import MlflowServer
from support.models import Logged, tracking

LABEL = "label"
COLUMNS = [f"f{i}" for i in range(4)]


def rows(count: int = 200, seed: int = 7) -> Any:
    """A DataFrame of features, the label f0 > 0.5, and a country; all rows of FR have the same label."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.random((count, len(COLUMNS))), columns=COLUMNS)
    label = (frame["f0"] > 0.5).astype(int)
    return frame.assign(country=np.where((label == 1) & (random.random(count) > 0.5), "FR", "DE"), label=label)


def write_rows(path: Path) -> Path:
    """Write such rows as Parquet."""
    rows().to_parquet(path, index=False)
    return path


def log_example_model(
    server: MlflowServer,
    *,
    flipped: bool = False,
    with_example: bool = True,
    metrics: Mapping[str, float] | None = None,
) -> Logged:
    """Log a classifier of such rows, or one that says the opposite."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    train = rows(seed=1)
    features, label = train[COLUMNS], train[LABEL]
    model = LogisticRegression(C=100).fit(features, 1 - label if flipped else label)
    client = server.client()
    experiment = client.create_experiment(f"trials-{uuid.uuid4().hex}")
    with tracking(server) as mlflow, mlflow.start_run(experiment_id=experiment) as run:
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(features, model.predict(features)),
            input_example=features.head(3) if with_example else None,
            pip_requirements=["scikit-learn"],
        )
    for key, value in (metrics or {}).items():
        client.log_metric(run.info.run_id, key, value, model_id=info.model_id)
    return Logged(info.model_id, run.info.run_id, COLUMNS)
