"""Sensors for model registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_uc_models.lazy import lazy_names

if TYPE_CHECKING:
    from airflow_uc_models.sensors.alias import RegisteredModelAliasSensor
    from airflow_uc_models.sensors.model_version import ModelVersionSensor, ModelVersionTagSensor
    from airflow_uc_models.sensors.registered_model import RegisteredModelSensor

_MODULES = {
    "ModelVersionSensor": "model_version",
    "ModelVersionTagSensor": "model_version",
    "RegisteredModelAliasSensor": "alias",
    "RegisteredModelSensor": "registered_model",
}
__all__ = [
    "ModelVersionSensor",
    "ModelVersionTagSensor",
    "RegisteredModelAliasSensor",
    "RegisteredModelSensor",
]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
