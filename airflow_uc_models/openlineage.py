"""How OpenLineage names models. Needs the openlineage provider only where lineage is collected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_uc_models.assets import SCHEME, ModelAssetName, parse_asset_uri

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.sdk import Asset

_SCHEMES = {"databricks": "databricks", "mlflow": "mlflow", "unity_catalog": "unitycatalog"}


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> Dataset:  # noqa: ARG001 - Airflow's signature
    """Return the OpenLineage dataset of an asset; Airflow calls this for inlets and outlets.

    The namespace is ``databricks://<host>`` as for tables, ``mlflow://<host>:<port>`` or
    ``unitycatalog://<host>:<port>``, and ``uc-model://<connection id>`` where the connection cannot be read. The name
    is ``catalog.schema.model``, or ``catalog.schema`` of a schema.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset

    namespace, name = dataset_name(parse_asset_uri(asset))
    return Dataset(namespace=namespace, name=name)


def dataset_name(name: ModelAssetName) -> tuple[str, str]:
    """Return namespace and name of what an asset names."""
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook

    try:
        endpoint = ModelRegistryHook(name.registry_conn_id).endpoint
        namespace = f"{_SCHEMES[endpoint.connection.conn_type or '']}://{urlsplit(endpoint.address).netloc}"
    except Exception:  # lineage must not stand in the way of the work
        return f"{SCHEME}://{name.registry_conn_id}", name.model_name or name.full_schema
    lower = endpoint.registry.capabilities.lowercase_names
    said = name.model_name or name.full_schema
    return namespace, said.lower() if lower else said
