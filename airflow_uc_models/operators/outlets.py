"""From what a task did to a model to the assets in its outlets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias

from airflow_uc_models.assets import ModelAssetName, is_model_uri, model_asset, parse_asset_uri
from airflow_uc_models.events import ModelEvent
from airflow_uc_models.triggering_events import EXTRA_KEY

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

# An event, the connection of the registry it happened in, and how that registry writes names.
Told = tuple[ModelEvent, str, Callable[[str], str]]


def tells(outlets: Iterable[Any]) -> bool:
    """Whether outlets are there that can carry events of models."""
    return any(isinstance(outlet, AssetAlias) or _name(outlet) is not None for outlet in outlets)


def emit(context: Context, outlets: Iterable[Any], told: Sequence[Told]) -> list[str]:
    """Put events into the asset events of a task; return the URIs of outlets that are of another model.

    An outlet of a model or of its schema carries its events; a list that is empty says that nothing was to be done.
    An asset alias gets the model's asset, and nothing where nothing was done.
    """
    strangers = []
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            _emit_by_alias(context, outlet, told)
        elif name := _name(outlet):
            events = [event for event, conn_id, normalize in told if _is_of(name, event, conn_id, normalize)]
            if told and not events:
                strangers.append(name.uri)
            context["outlet_events"][outlet].extra[EXTRA_KEY] = [event.to_json() for event in events]
    return strangers


def _emit_by_alias(context: Context, alias: AssetAlias, told: Sequence[Told]) -> None:
    by_model: dict[tuple[str, str], list[Any]] = {}
    for event, conn_id, _ in told:
        by_model.setdefault((event.model_name, conn_id), []).append(event.to_json())
    for (model_name, conn_id), events in by_model.items():
        context["outlet_events"][alias].add(model_asset(model_name, conn_id), extra={EXTRA_KEY: events})


def _is_of(name: ModelAssetName, event: ModelEvent, conn_id: str, normalize: Callable[[str], str]) -> bool:
    return name.registry_conn_id == conn_id and name.covers(event.model_name, normalize)


def _name(outlet: Any) -> ModelAssetName | None:
    """Return what an outlet names: an asset, or a reference to one by URI or name; None if it is of no model."""
    uri = getattr(outlet, "uri", None) or getattr(outlet, "name", None)
    return parse_asset_uri(uri) if isinstance(uri, str) and is_model_uri(uri) else None
