"""databricks-sdk on the credentials of an Airflow connection. The only file that imports databricks.sdk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_uc_models.exceptions import ConnectionConfigError
from airflow_uc_models.hooks.auth import USER_AGENT, DatabricksAuth
from airflow_uc_models.hooks.endpoint import Endpoint

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient


def workspace_client(endpoint: Endpoint) -> WorkspaceClient:
    """Return a client that asks for its headers before each request, so tokens are renewed in long work.

    It takes no credentials from the environment, and leaves none there or on disk.
    """
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config, credentials_strategy

    auth = workspace_auth(endpoint)

    @credentials_strategy("airflow", [])  # type: ignore[untyped-decorator]
    def from_connection(_: Config) -> Callable[[], dict[str, str]]:
        return auth.headers

    transport = endpoint.transport
    config = Config(
        host=endpoint.address,
        # Named, so that whatever else the environment configures is not taken for a second kind.
        auth_type="airflow",
        credentials_strategy=from_connection,
        product=USER_AGENT,
        product_version="0",
        http_timeout_seconds=max(1, round(2 * transport.timeout)),
        retry_timeout_seconds=max(1, round(transport.max_retry_seconds)),
        skip_verify=transport.verify is False and endpoint.address.startswith("https"),
    )
    return WorkspaceClient(config=config)


def workspace_auth(endpoint: Endpoint) -> DatabricksAuth:
    """Return the credentials of a Databricks connection."""
    if not isinstance(endpoint.transport.auth, DatabricksAuth):
        raise ConnectionConfigError(f"Connection {endpoint.conn_id!r} is not of type 'databricks'.")
    return endpoint.transport.auth
