"""Triggers: what deferred sensors wait with, and what asset watchers listen with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_uc_models.lazy import lazy_names

if TYPE_CHECKING:
    from airflow_uc_models.triggers.condition import ConditionTrigger
    from airflow_uc_models.triggers.model_events import ModelEventTrigger

_MODULES = {"ConditionTrigger": "condition", "ModelEventTrigger": "model_events"}
__all__ = ["ConditionTrigger", "ModelEventTrigger"]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
