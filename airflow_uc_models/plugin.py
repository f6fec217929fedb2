"""The Airflow plugin (entry point ``airflow.plugins``): what templates may call without code of their own.

``{{ macros.uc_models.model_event().version }}`` works in every templated field of every operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from airflow.providers.common.compat.sdk import AirflowPlugin
from jinja2 import pass_context

from airflow_uc_models import triggering_events
from airflow_uc_models.events import ModelEvent

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from jinja2.runtime import Context as TemplateContext


@pass_context
def model_event(context: TemplateContext, sensor_task_id: str | None = None) -> ModelEvent:
    """Return the event that started the run, as ``airflow_uc_models.triggering_events.model_event`` does."""
    return triggering_events.model_event(cast("Context", context), sensor_task_id=sensor_task_id)


@pass_context
def model_events(context: TemplateContext, sensor_task_id: str | None = None) -> list[ModelEvent]:
    """Return all events that started the run, as ``airflow_uc_models.triggering_events.model_events`` does."""
    return triggering_events.model_events(cast("Context", context), sensor_task_id=sensor_task_id)


class UCModelsPlugin(AirflowPlugin):
    """Makes the functions known as ``macros.uc_models``."""

    name = "uc_models"
    macros = [model_event, model_events]  # noqa: RUF012 - Airflow's own declaration
