"""The privileges that each verb asks for, in words for error messages and docs.

Sources: Unity Catalog, docs.databricks.com "Manage model lifecycle in Unity Catalog" and the databricks-sdk
docstrings of RegisteredModelsAPI and ModelVersionsAPI; MLflow, ``mlflow/server/auth`` (basic-auth app); the
open-source Unity Catalog server with authorization on, seen by running it.
"""

from __future__ import annotations

from airflow_uc_models.names import ModelName

_READ = "EXECUTE on {model}"
_OWN = "MANAGE on {model} or its ownership"
_TAG = "APPLY TAG on {model}, MANAGE on {model} or its ownership"

# verb -> (Unity Catalog on Databricks, MLflow server with basic auth)
NEEDS: dict[str, tuple[str, str]] = {
    "create_registered_model": ("CREATE MODEL on {schema}", "permission to create registered models"),
    "get_registered_model": (_READ, "READ on {model}"),
    "update_registered_model": (_OWN, "EDIT on {model}"),
    "rename_registered_model": (f"{_OWN}, CREATE MODEL on {{schema}}", "EDIT on {model}"),
    "delete_registered_model": (_OWN, "MANAGE on {model}"),
    "set_registered_model_tag": (_TAG, "EDIT on {model}"),
    "delete_registered_model_tag": (_TAG, "EDIT on {model}"),
    "create_model_version": (
        "CREATE MODEL VERSION on {model} and APPLY TAG on {model} for its tags (or its ownership)",
        "EDIT on {model}",
    ),
    "finalize_model_version": ("CREATE MODEL VERSION on {model} or its ownership", "EDIT on {model}"),
    "get_model_version": (_READ, "READ on {model}"),
    "get_model_version_by_alias": (_READ, "READ on {model}"),
    "get_model_version_download_uri": (_READ, "READ on {model}"),
    "search_model_versions": (_READ, "READ on {model}"),
    "update_model_version": (_OWN, "EDIT on {model}"),
    "delete_model_version": (_OWN, "MANAGE on {model}"),
    "set_model_version_tag": (_TAG, "EDIT on {model}"),
    "delete_model_version_tag": (_TAG, "MANAGE on {model}"),
    "set_registered_model_alias": (_OWN, "EDIT on {model}"),
    "delete_registered_model_alias": (_OWN, "MANAGE on {model}"),
}


def needs(verb: str, name: str, *, unity_catalog: bool) -> str:
    """Say what ``verb`` on the model ``name`` needs, with the securables by name."""
    model = ModelName.parse(name)
    own, mlflow = NEEDS[verb]
    if not unity_catalog:
        return mlflow.format(model=model)
    text = own.format(model=model, schema=model.full_schema)
    return f"{text}, USE SCHEMA on {model.full_schema} and USE CATALOG on {model.catalog}"


# Verbs of the open-source server that ask for something else than the ownership of the model.
_OPEN_SOURCE: dict[str, str] = {
    "create_registered_model": "CREATE MODEL on {schema}",
    "get_registered_model": _READ,
    "get_model_version": _READ,
    "get_model_version_download_uri": _READ,
    "search_model_versions": _READ,
}


def open_source_needs(verb: str, name: str) -> str:
    """Say what ``verb`` on the model ``name`` needs on an open-source Unity Catalog server."""
    model = ModelName.parse(name)
    text = _OPEN_SOURCE.get(verb, "ownership of {model}").format(model=model, schema=model.full_schema)
    return f"{text}, USE SCHEMA on {model.full_schema} and USE CATALOG on {model.catalog}"
