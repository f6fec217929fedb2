"""databricks-sdk on the credentials of an Airflow connection. The only file that imports databricks.sdk."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_uc_models.exceptions import ConnectionConfigError, RegistryUnavailableError
from airflow_uc_models.hooks.auth import USER_AGENT, DatabricksAuth
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.hooks.mlflow_session import as_registry_error, is_refused

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient


def workspace_client(endpoint: Endpoint) -> WorkspaceClient:
    """Return a client that asks for its headers before each request, so tokens are renewed in long work.

    A request whose token is refused all the same is sent once more with another one. The client takes no credentials
    from the environment, and leaves none there or on disk.
    """
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config, credentials_strategy

    auth, given = workspace_auth(endpoint), threading.local()

    def headers() -> dict[str, str]:
        found = auth.headers()
        given.authorization = found["Authorization"]
        return found

    @credentials_strategy("airflow", [])  # type: ignore[untyped-decorator]
    def from_connection(_: Config) -> Callable[[], dict[str, str]]:
        return headers

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
    client = WorkspaceClient(config=config)
    _send_refused_again(client, lambda: auth.renew(given.authorization), endpoint.address)
    return client


def _send_refused_again(client: WorkspaceClient, renew: Callable[[], bool], address: str) -> None:
    """Let a client send a request whose token was refused once more; it knows no way to be told to.

    :param renew: gets another token; False if there is none
    """
    from databricks.sdk.errors.base import DatabricksError

    send = client.api_client.do  # through which all its services go

    def do(*args: Any, **kwargs: Any) -> Any:
        data: Any = kwargs.get("data")
        start = data.tell() if hasattr(data, "tell") else None
        try:
            return send(*args, **kwargs)
        except DatabricksError as error:
            if not (is_refused(error) and renew()):
                raise
        except (TypeError, AttributeError, ValueError) as error:  # it takes an error's body for what it is not
            raise RegistryUnavailableError(
                f"The workspace at {address} gave an answer that databricks-sdk cannot read: {error}."
            ) from None
        if start is not None:
            data.seek(start)
        return send(*args, **kwargs)

    client.api_client.do = do  # type: ignore[method-assign]


def workspace_auth(endpoint: Endpoint) -> DatabricksAuth:
    """Return the credentials of a Databricks connection."""
    if not isinstance(endpoint.transport.auth, DatabricksAuth):
        raise ConnectionConfigError(
            f"Connection {endpoint.conn_id!r} is not of type 'databricks': it reaches the "
            f"{endpoint.registry.capabilities.label} at {endpoint.address}, and this works in a Databricks workspace "
            "only. Score with the engine 'local', or 'spark' on a Spark of your own; or copy the model to Unity "
            "Catalog on Databricks with CopyModelVersionOperator, and give a connection to that."
        )
    return endpoint.transport.auth


def put_notebook(endpoint: Endpoint, name: str, source: str, folder: str | None = None) -> str:
    """Write a Python notebook, over one of that name, and return its path.

    :param source: the code, cells apart by ``# COMMAND ----------``
    :param folder: below /Workspace; by default one in the home folder of the connection's principal
    """
    from databricks.sdk.service.workspace import ImportFormat, Language

    client = workspace_client(endpoint)
    with workspace_errors(
        "import the notebook that scores",
        endpoint,
        "CAN EDIT on its folder; engine_options may name another notebook_folder",
    ):
        if folder is None:
            folder = f"/Users/{client.current_user.me().user_name}/.airflow_uc_models"
        client.workspace.mkdirs(folder)
        path = f"{folder.rstrip('/')}/{name}"
        content = base64.b64encode(f"# Databricks notebook source\n{source}".encode()).decode()
        client.workspace.import_(
            path, content=content, format=ImportFormat.SOURCE, language=Language.PYTHON, overwrite=True
        )
    return path


def served_versions(endpoint: Endpoint, name: str) -> list[tuple[str, str]]:
    """Return the models that a serving endpoint answers with, and their versions."""
    client = workspace_client(endpoint)
    with workspace_errors(f"look at the serving endpoint {name}", endpoint, f"CAN VIEW on the endpoint {name}"):
        found = client.serving_endpoints.get(name)
    config, ready = found.config, found.state.ready if found.state else None
    if ready is not None and ready.value != "READY":
        error = RegistryUnavailableError(f"The serving endpoint {name} is not ready ({ready.value}).")
        raise error.used(endpoint.connection_label)
    routes = (config and config.traffic_config and config.traffic_config.routes) or []
    idle = {route.served_entity_name or route.served_model_name for route in routes if not route.traffic_percentage}
    entities = [entity for entity in (config and config.served_entities) or [] if entity.name not in idle]
    return [(str(entity.entity_name).lower(), str(entity.entity_version)) for entity in entities]


def table_columns(endpoint: Endpoint, name: str) -> dict[str, str]:
    """Return the columns of a table in Unity Catalog and their SQL types; NotFoundError if it does not exist."""
    client = workspace_client(endpoint)
    with workspace_errors(f"look at the table {name}", endpoint, f"SELECT on {name}"):
        columns = client.tables.get(name).columns or []
    return {str(column.name): str(column.type_text) for column in columns}


def statement_rows(endpoint: Endpoint, statement_id: str) -> list[list[str]]:
    """Return the first rows of a statement's result, as text."""
    client = workspace_client(endpoint)
    with workspace_errors(f"read the result of statement {statement_id}", endpoint):
        result = client.statement_execution.get_statement(statement_id).result
    return (result and result.data_array) or []


@contextmanager
def workspace_errors(action: str, endpoint: Endpoint, needs: str = "") -> Generator[None, None, None]:
    """Turn what databricks-sdk raises into this package's errors."""
    try:
        yield
    except OSError as error:  # its errors, those of requests, and timeouts
        raise as_registry_error(error, action, endpoint, needs) from None
