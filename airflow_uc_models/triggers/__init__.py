"""Triggers: what deferred sensors wait with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_uc_models.lazy import lazy_names

if TYPE_CHECKING:
    from airflow_uc_models.triggers.condition import ConditionTrigger

_MODULES = {"ConditionTrigger": "condition"}
__all__ = ["ConditionTrigger"]
__getattr__ = lazy_names(__name__, _MODULES)
