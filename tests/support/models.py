"""Real scikit-learn models on a real MLflow server, for tests that are about the models themselves."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.mlflow_server import MlflowServer


@dataclass(frozen=True)
class Logged:
    """A logged model.

    :param columns: what the model wants as input, all float64
    """

    model_id: str
    run_id: str
    columns: list[str]

    @property
    def uri(self) -> str:
        return f"models:/{self.model_id}"


@contextmanager
def tracking(server: MlflowServer) -> Generator[Any, None, None]:
    """mlflow on this server inside the block, and as it was after it."""
    from airflow_uc_models.hooks.mlflow_session import _globals_restored, mlflow_variables_set

    with mlflow_variables_set({}), _globals_restored():
        import mlflow

        mlflow.set_tracking_uri(server.url)
        mlflow.set_registry_uri(server.url)
        yield mlflow


def save_model(folder: Path, *, with_signature: bool = True, seed: int = 0) -> Path:
    """Train a small classifier on columns f0 to f3 and save it into a folder."""
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame(np.random.default_rng(seed).random((40, 4)), columns=[f"f{i}" for i in range(4)])
    model = LogisticRegression().fit(frame, frame["f0"] > 0.5)
    signature = infer_signature(frame, model.predict(frame)) if with_signature else None
    mlflow.sklearn.save_model(
        model, folder, signature=signature, serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
    )
    return folder


def log_model(
    server: MlflowServer,
    *,
    metrics: Mapping[str, float] | None = None,
    with_signature: bool = True,
    signature: Any = None,
    n_features: int = 4,
    name: str = "model",
    seed: int = 0,
) -> Logged:
    """Train a small classifier on n_features columns f0, f1 ... and log it in a run of its own.

    :param metrics: logged for the model, hence on its run, too
    :param signature: instead of the one inferred from the training data
    """
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    columns = [f"f{i}" for i in range(n_features)]
    frame = pd.DataFrame(np.random.default_rng(seed).random((40, n_features)), columns=columns)
    model = LogisticRegression().fit(frame, frame["f0"] > 0.5)
    if with_signature and signature is None:
        signature = infer_signature(frame, model.predict(frame))
    client = server.client()
    experiment = client.create_experiment(f"test-{uuid.uuid4().hex}")
    with tracking(server) as mlflow, mlflow.start_run(experiment_id=experiment) as run:
        # Given requirements spare mlflow the seconds it takes to infer them.
        info = mlflow.sklearn.log_model(model, name=name, signature=signature, pip_requirements=["scikit-learn"])
    for key, value in (metrics or {}).items():
        client.log_metric(run.info.run_id, key, value, model_id=info.model_id)
    return Logged(info.model_id, run.info.run_id, columns)


def add_version(server: MlflowServer, model_name: str, source: Logged, tags: Mapping[str, str] | None = None) -> int:
    """Make a version out of a logged model, registering the model where it is missing, and return its number."""
    from mlflow.exceptions import MlflowException

    client = server.client()
    try:
        client.get_registered_model(model_name)
    except MlflowException:
        client.create_registered_model(model_name)
    made = client.create_model_version(
        model_name, source.uri, run_id=source.run_id, model_id=source.model_id, tags=dict(tags or {})
    )
    return int(made.version)


def add_pyfunc(server: MlflowServer, model_name: str, model: Any, signature: Any) -> None:
    """Make version 1 of a new model out of a PythonModel."""
    client = server.client()
    with tracking(server) as mlflow, mlflow.start_run(experiment_id=client.create_experiment(model_name)) as run:
        info = mlflow.pyfunc.log_model(
            name="model", python_model=model, signature=signature, pip_requirements=["mlflow"]
        )
    client.create_registered_model(model_name)
    client.create_model_version(model_name, f"models:/{info.model_id}", run_id=run.info.run_id, model_id=info.model_id)
