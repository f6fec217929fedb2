"""Models that look up their features themselves, as databricks-feature-engineering logs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_uc_models.exceptions import UnsupportedOperationError

_LOADERS = ("databricks.feature_store.mlflow_model", "databricks.ml_features.mlflow_model")


def is_feature_store_model(mlmodel: Mapping[str, Any]) -> bool:
    """Whether a model was logged with ``FeatureEngineeringClient.log_model`` or the older ``FeatureStoreClient``.

    :param mlmodel: the model's MLmodel file
    """
    pyfunc = (mlmodel.get("flavors") or {}).get("python_function") or {}
    return pyfunc.get("loader_module") in _LOADERS


def refuse_feature_store(mlmodel: Mapping[str, Any], label: str, engine: str) -> None:
    """Raise UnsupportedOperationError if the model needs the feature store, which this engine does not reach.

    :param mlmodel: the model's MLmodel file
    :param label: how messages name the model
    :param engine: the engine's name
    """
    if is_feature_store_model(mlmodel):
        raise UnsupportedOperationError(
            f"{label} was logged with the Databricks feature store and looks its features up there, which engine="
            f"{engine!r} cannot. Score it with engine='databricks', which uses FeatureEngineeringClient.score_batch."
        )
