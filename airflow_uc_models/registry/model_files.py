"""What Databricks tells about the files of a model version: which way they go, and credentials for it."""

from __future__ import annotations

from typing import Any

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.registry.answers import expect_object, unreadable
from airflow_uc_models.registry.call import Call, Request
from airflow_uc_models.registry.mlflow_rest import UNITY_CATALOG, UNITY_CATALOG_PREFIX
from airflow_uc_models.registry.privileges import needs


def files_api_enabled() -> Call[bool]:
    """Return whether the workspace wants model files through its Files API (``/Models/...``)."""
    path = f"{UNITY_CATALOG_PREFIX}/registered-models:is-databricks-sdk-models-artifact-repository-enabled"
    request = Request("GET", path, action="ask how model files are transferred")
    body = expect_object((yield request), request, UNITY_CATALOG.label)
    return bool(body.get("is_databricks_sdk_models_artifact_repository_enabled"))


def temporary_credentials(version: ModelVersion, *, write: bool) -> Call[dict[str, Any]]:
    """Return credentials for the storage of a version, as the workspace gives them."""
    verb = "create_model_version" if write else "get_model_version"
    request = Request(
        "POST",
        f"{UNITY_CATALOG_PREFIX}/model-versions/generate-temporary-credentials",
        json={
            "name": version.name,
            "version": str(version.version),
            "operation": f"MODEL_VERSION_OPERATION_READ{'_WRITE' if write else ''}",
        },
        action=f"get credentials for the files of model version {version.name}/{version.version}",
        needs=needs(verb, version.name, unity_catalog=True),
    )
    response = yield request
    credentials = expect_object(response, request, UNITY_CATALOG.label).get("credentials")
    if not isinstance(credentials, dict):
        raise unreadable(response, request, UNITY_CATALOG.label, KeyError("credentials"))
    return credentials
