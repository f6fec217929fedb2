"""What Unity Catalog draws lineage from, in the requests of MLflow's own client; all of it best effort."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from airflow_uc_models.entities import ModelVersion, Run
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.mlflow_rest import MLFLOW_PREFIX, MlflowRestRegistry

T = TypeVar("T")
HEADER = "X-Databricks-Lineage-Identifier"
MODEL_VERSIONS_TAG = "mlflow.modelVersions"
_MOST_TABLES = 10  # as many as MLflow tells


def header_of(run: Run) -> dict[str, str]:
    """Return the header of a create request that names the notebook or job of a run and the tables it read."""
    entities: list[dict[str, Any]] = []
    if notebook := run.tags.get("mlflow.databricks.notebookID"):
        entities.append({"notebook": {"id": notebook}})
    if job := run.tags.get("mlflow.databricks.jobID"):
        job_run = run.tags.get("mlflow.databricks.jobRunID")
        entities.append({"job": {"id": job, **({"job_run_id": job_run} if job_run else {})}})
    if not entities:
        return {}
    tables = [{"table": table} for source in run.dataset_sources if (table := _table(source))]
    info = {"entities": entities, "lineages": [{"source_securables": tables[:_MOST_TABLES]} if tables else {}]}
    return {HEADER: base64.b64encode(json.dumps(info, indent=2).encode()).decode()}


def _table(source: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a table of Unity Catalog that a dataset was read from; None for any other source."""
    name, table_id = source.get("delta_table_name"), source.get("delta_table_id")
    is_table = source.get("is_databricks_uc_table") or source.get("source_type") == "delta_table"
    return {"name": str(name), "table_id": str(table_id)} if is_table and name and table_id else None


def with_headers(call: Call[T], headers: Mapping[str, str]) -> Call[T]:
    """Send the requests of a call with these headers."""
    request = next(call)
    try:
        while True:
            try:
                response = yield replace(request, headers=headers)
            except Exception as error:
                request = call.throw(error)
            else:
                request = call.send(response)
    except StopIteration as stop:
        value: T = stop.value
        return value


def emit_download(registry: MlflowRestRegistry, version: ModelVersion) -> Call[None]:
    """Tell that a version was downloaded."""
    body = {
        "name": version.name,
        "version": str(version.version),
        "model_version_lineage_info": {"direction": "DOWNSTREAM"},
    }
    path = f"{registry.prefix}/model-versions/emit-lineage"
    yield from registry.ask("POST", path, body, f"emit the lineage of {version.uri}", "", lambda _: None)


def tag_logged_model(registry: MlflowRestRegistry, model_id: str, version: ModelVersion) -> Call[None]:
    """Note a version on the logged model that it was made from, unless it is noted there."""
    path = f"{MLFLOW_PREFIX}/logged-models/{model_id}"
    action = f"note {version.uri} on logged model {model_id}"
    tags = yield from registry.ask("GET", path, {}, action, "", _tags)
    noted = json.loads(tags.get(MODEL_VERSIONS_TAG) or "[]")
    mine = {"name": version.name, "version": version.version}
    if any(_key(item) == _key(mine) for item in noted):
        return
    body = {"tags": [{"key": MODEL_VERSIONS_TAG, "value": json.dumps([*noted, mine])}]}
    yield from registry.ask("PATCH", f"{path}/tags", body, action, "", lambda _: None)


def _tags(body: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in body["model"]["info"].get("tags") or []}


def _key(item: Any) -> tuple[str, str]:
    return (str(item.get("name")), str(item.get("version"))) if isinstance(item, dict) else ("", "")
