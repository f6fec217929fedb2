"""What Airflow reads about this provider (entry point ``apache_airflow_provider``). Imports nothing heavy."""

from __future__ import annotations

from typing import Any

PACKAGE_NAME = "airflow-uc-models"

MLFLOW_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema"],
    "relabeling": {"host": "Server address", "login": "User name"},
    "placeholders": {
        "host": "http://mlflow.example.com:5000",
        "login": "only for servers started with --app-name basic-auth",
    },
}
MLFLOW_CONN_FIELDS: dict[str, Any] = {
    "token": {
        "label": "Token",
        "description": "Bearer token, where the server stands behind an authenticating proxy; leave user name empty.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "verify": {
        "label": "TLS verification",
        "description": "true, false, or the path of a CA bundle on the workers.",
        "schema": {"type": ["string", "null"], "default": "true"},
    },
    "web_url": {
        "label": "Web address",
        "description": "Where browsers reach the MLflow UI, if not at the server address.",
        "schema": {"type": ["string", "null"]},
    },
}
UNITY_CATALOG_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "login"],
    "relabeling": {"host": "Server address", "password": "Token"},
    "placeholders": {
        "host": "http://unity-catalog.example.com:8080",
        "password": "only for servers with server.authorization=enable",
    },
}
UNITY_CATALOG_CONN_FIELDS: dict[str, Any] = {
    "verify": MLFLOW_CONN_FIELDS["verify"],
    "web_url": {
        "label": "Web address",
        "description": "Where browsers reach the Unity Catalog UI; without it tasks have no link to a model's page.",
        "schema": {"type": ["string", "null"]},
    },
}
CONNECTION_TYPES: list[dict[str, Any]] = [
    {
        "connection-type": "mlflow",
        "hook-class-name": "airflow_uc_models.hooks.model_registry.MlflowHook",
        "hook-name": "MLflow",
        "ui-field-behaviour": MLFLOW_FIELD_BEHAVIOUR,
        "conn-fields": MLFLOW_CONN_FIELDS,
    },
    {
        "connection-type": "unity_catalog",
        "hook-class-name": "airflow_uc_models.hooks.model_registry.UnityCatalogHook",
        "hook-name": "Unity Catalog (open source)",
        "ui-field-behaviour": UNITY_CATALOG_FIELD_BEHAVIOUR,
        "conn-fields": UNITY_CATALOG_CONN_FIELDS,
    },
]


CONFIG: dict[str, Any] = {
    "uc_models": {
        "description": "Models in Unity Catalog and MLflow registries.",
        "options": {
            "environments_folder": {
                "description": "Where workers keep the environments that they build of what models pin. Workers may "
                "share it. By default airflow-uc-models/environments in the user's cache folder.",
                "version_added": None,
                "type": "string",
                "example": "/var/cache/airflow-uc-models",
                "default": None,
            },
            "environments_max_gb": {
                "description": "How much these environments may take; those not used for the longest time go first.",
                "version_added": None,
                "type": "float",
                "example": None,
                "default": "10",
            },
        },
    }
}


OPERATORS = (
    "alias",
    "approval",
    "inference",
    "model_version",
    "pending",
    "registered_model",
    "tag",
    "validation",
    "validation_branch",
)
SENSORS = ("alias", "model_version", "registered_model")
TRIGGERS = ("condition", "model_events")


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in the form of ``airflow/provider_info.schema.json``."""
    return {
        "package-name": PACKAGE_NAME,
        "name": "Models in Unity Catalog",
        "description": "Run models of Unity Catalog and MLflow registries: register, validate, promote, roll back, "
        "wait for versions, and score in batches.",
        "integrations": [
            {
                "integration-name": "Models in Unity Catalog",
                "external-doc-url": "https://docs.databricks.com/machine-learning/manage-model-lifecycle/",
                "tags": ["service"],
            },
            {
                "integration-name": "MLflow Model Registry",
                "external-doc-url": "https://mlflow.org/docs/latest/ml/model-registry/",
                "tags": ["software"],
            },
        ],
        "hooks": _modules("hooks", "model_registry"),
        "operators": _modules("operators", *OPERATORS),
        "sensors": _modules("sensors", *SENSORS),
        "triggers": _modules("triggers", *TRIGGERS),
        "connection-types": CONNECTION_TYPES,
        "asset-uris": [
            {
                "schemes": ["uc-model"],
                "handler": "airflow_uc_models.assets.sanitize_uri",
                "factory": "airflow_uc_models.assets.create_asset",
                "to_openlineage_converter": "airflow_uc_models.openlineage.convert_asset_to_openlineage",
            }
        ],
        "config": CONFIG,
        "extra-links": ["airflow_uc_models.links.ModelVersionLink"],
    }


def _modules(package: str, *nouns: str) -> list[dict[str, Any]]:
    modules = [f"airflow_uc_models.{package}.{noun}" for noun in nouns]
    return [{"integration-name": "Models in Unity Catalog", "python-modules": modules}]
