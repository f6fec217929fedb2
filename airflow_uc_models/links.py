"""The extra link from a task to the page of the model version it worked on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.definitions.context import Context
    from airflow.sdk.types import TaskInstanceKey

URL_KEY = "model_version_url"


class ModelVersionLink(BaseOperatorLink):
    """Open the model version in the MLflow UI, or in Catalog Explorer on Databricks."""

    name = "Model version"

    @property
    def xcom_key(self) -> str:
        """Where the address is kept; the UI reads it there, without calling this class."""
        return URL_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address that the task stored, or nothing if it did not get that far."""
        return str(XCom.get_value(key=URL_KEY, ti_key=ti_key) or "")


def store_link(context: Context | dict[str, Any], url: str) -> None:
    """Keep the address for the link; an empty one where the registry has no pages."""
    context["ti"].xcom_push(key=URL_KEY, value=url)
