"""Sensors for model registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_uc_models.lazy import lazy_names

if TYPE_CHECKING:
    from airflow_uc_models.sensors.model_version import ModelVersionSensor

_MODULES = {"ModelVersionSensor": "model_version"}
__all__ = ["ModelVersionSensor"]
__getattr__ = lazy_names(__name__, _MODULES)
