"""MLflow's JSON to entities. Numbers may arrive as numbers or strings, and unset fields may be absent or empty."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from airflow_uc_models.entities import READY, LoggedModel, ModelVersion, RegisteredModel, Run

_LOGGED_MODEL = re.compile(r"models:/(m-[0-9A-Za-z]+)")
# The folder of one, where MLflow and Databricks keep its files.
_LOGGED_MODEL_FOLDER = re.compile(r"/(m-[0-9a-f]{32})(?=/|$)")
_LEAST_MILLIS = 10**11  # 1973; what is less counts seconds, or nothing


def drop_unset(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that are set; MLflow's clients leave unset ones out, too."""
    return {key: value for key, value in arguments.items() if value is not None}


def nothing(_: Mapping[str, Any]) -> None:
    """Read an answer that carries nothing."""


def registered_model(body: Mapping[str, Any]) -> RegisteredModel:
    """Read ``{"registered_model": {...}}``."""
    return _registered_model(body["registered_model"])


def registered_models(body: Mapping[str, Any]) -> list[RegisteredModel]:
    """Read one page of models."""
    return [_registered_model(item) for item in body.get("registered_models") or []]


def catalog_model(item: Mapping[str, Any]) -> RegisteredModel:
    """Read a model in the form of Unity Catalog's own API."""
    return RegisteredModel(
        name=f"{item['catalog_name']}.{item['schema_name']}.{item['name']}",
        description=item.get("comment") or None,
        created_at=millis(item.get("created_at")),
        updated_at=millis(item.get("updated_at")),
        owner=item.get("owner") or None,
    )


def catalog_models(body: Mapping[str, Any]) -> list[RegisteredModel]:
    """Read one page of models in that form."""
    return [catalog_model(item) for item in body.get("registered_models") or []]


def with_logged_model(version: ModelVersion) -> ModelVersion:
    """Read the logged model out of the source: an MLflow server does not give it otherwise.

    Elsewhere such a source may name a logged model of another server, which nobody here could look up.
    """
    return version if version.model_id else replace(version, model_id=logged_model_id(version.source))


def run(body: Mapping[str, Any]) -> Run:
    """Read ``{"run": {...}}``."""
    item = body["run"]
    info = item["info"]
    outputs = (item.get("outputs") or {}).get("model_outputs") or []
    return Run(
        run_id=info.get("run_id") or info["run_uuid"],
        artifact_uri=info.get("artifact_uri"),
        status=info.get("status"),
        metrics=_metrics((item.get("data") or {}).get("metrics") or []),
        model_ids=[o["model_id"] for o in sorted(outputs, key=lambda o: int(o.get("step") or 0))],
        started_at=millis(info.get("start_time")),
        tags=_tags((item.get("data") or {}).get("tags")),
        dataset_sources=_dataset_sources((item.get("inputs") or {}).get("dataset_inputs") or []),
        experiment_id=info.get("experiment_id"),
    )


def _dataset_sources(inputs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Read where the input datasets of a run came from; a source that is no JSON object is left out."""
    found = []
    for item in inputs:
        dataset = item.get("dataset") or {}
        try:
            source = json.loads(dataset.get("source") or "")
        except ValueError:
            continue
        if isinstance(source, dict):
            found.append({**source, "source_type": dataset.get("source_type")})
    return found


def logged_model(body: Mapping[str, Any]) -> LoggedModel:
    """Read ``{"model": {...}}``."""
    info = body["model"]["info"]
    data = body["model"].get("data") or {}
    return LoggedModel(
        model_id=info["model_id"],
        name=info.get("name") or "",
        source_run_id=info.get("source_run_id") or None,
        artifact_uri=info.get("artifact_uri"),
        status=(info.get("status") or "").removeprefix("LOGGED_MODEL_") or None,
        metrics=_metrics(data.get("metrics") or []),
        created_at=millis(info.get("creation_timestamp_ms")),
    )


def _registered_model(item: Mapping[str, Any]) -> RegisteredModel:
    return RegisteredModel(
        name=item["name"],
        description=item.get("description") or None,
        aliases={a["alias"]: int(a["version"]) for a in item.get("aliases") or []},
        tags=_tags(item.get("tags")),
        created_at=millis(item.get("creation_timestamp")),
        updated_at=millis(item.get("last_updated_timestamp")),
        owner=item.get("user_id") or None,
        deployment_job_id=item.get("deployment_job_id") or None,
    )


def model_version(body: Mapping[str, Any]) -> ModelVersion:
    """Read ``{"model_version": {...}}``."""
    item = body["model_version"]
    return ModelVersion(
        name=item["name"],
        version=int(item["version"]),
        status=item.get("status") or READY,
        status_message=item.get("status_message") or None,
        aliases=[a if isinstance(a, str) else a["alias"] for a in item.get("aliases") or []],
        tags=_tags(item.get("tags")),
        run_id=item.get("run_id") or None,
        model_id=item.get("model_id") or None,
        source=item.get("source") or None,
        storage_location=item.get("storage_location") or None,
        description=item.get("description") or None,
        created_at=millis(item.get("creation_timestamp")),
        updated_at=millis(item.get("last_updated_timestamp")),
        created_by=item.get("user_id") or None,
    )


def logged_model_id(source: str | None) -> str | None:
    """Return the id of the logged model that a source names."""
    found = _LOGGED_MODEL.fullmatch(source or "")
    return found.group(1) if found else None


def logged_model_id_of_files(uri: str | None) -> str | None:
    """Return the id of the logged model that a source names, or to which a place of files belongs."""
    found = _LOGGED_MODEL_FOLDER.search(uri or "")
    return found.group(1) if found else logged_model_id(uri)


def _tags(items: Iterable[Mapping[str, Any]] | None) -> dict[str, str]:
    return {item["key"]: item.get("value", "") for item in items or []}


def _metrics(items: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the newest value of each metric; JSON writes NaN and infinities as strings."""
    ordered = sorted(items, key=lambda m: (int(m.get("step") or 0), int(m.get("timestamp") or 0)))
    return {m["key"]: float(m["value"]) for m in ordered if m.get("value") is not None}


def millis(value: Any) -> int | None:
    """Read a time in milliseconds since the epoch; None for what is none, so that nobody relies on it."""
    try:
        found = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found > _LEAST_MILLIS else None
