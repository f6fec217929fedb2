"""How OpenLineage names models. Needs the openlineage provider only where lineage is collected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_uc_models.assets import ModelAssetName, parse_asset_uri

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

    name = parse_asset_uri(asset)
    return Dataset(namespace=_namespace(name), name=name.model_name or name.full_schema)


def _namespace(name: ModelAssetName) -> str:
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook

    try:
        endpoint = ModelRegistryHook(name.registry_conn_id).endpoint
        return f"{_SCHEMES[endpoint.connection.conn_type or '']}://{urlsplit(endpoint.address).netloc}"
    except Exception:  # lineage must not stand in the way of the work
        return ModelAssetName.of("any.any", name.registry_conn_id).uri.removesuffix("/any/any")
