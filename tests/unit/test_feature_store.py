"""Which models need the feature store, read from their MLmodel file."""

from __future__ import annotations

import pytest

from airflow_uc_models.engines.feature_store import is_feature_store_model, refuse_feature_store
from airflow_uc_models.exceptions import UnsupportedOperationError


def mlmodel(loader: str) -> dict:
    return {"flavors": {"python_function": {"loader_module": loader}}}


@pytest.mark.parametrize("loader", ["databricks.feature_store.mlflow_model", "databricks.ml_features.mlflow_model"])
def test_a_feature_store_model_is_refused_with_the_engine_to_use(loader) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"prod\.ml\.fraud.*engine='spark'.*engine='databricks'"):
        refuse_feature_store(mlmodel(loader), "models:/prod.ml.fraud/3", "spark")


@pytest.mark.parametrize("other", [mlmodel("mlflow.sklearn"), {"flavors": {"spark": {}}}, {}, {"flavors": None}])
def test_other_models_pass(other) -> None:
    assert not is_feature_store_model(other)
    refuse_feature_store(other, "models:/prod.ml.fraud/3", "local")
