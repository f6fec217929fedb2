"""Rows of a table out of a SQL warehouse of Databricks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_uc_models.exceptions import RegistryUnavailableError
from airflow_uc_models.hooks.auth import with_token_login

if TYPE_CHECKING:
    import pyarrow as pa


def sql_hook(databricks_conn_id: str, http_path: str | None, sql_endpoint_name: str | None) -> Any:
    """Return the provider's hook on a warehouse."""
    from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook

    hook = DatabricksSqlHook(databricks_conn_id, http_path=http_path, sql_endpoint_name=sql_endpoint_name)
    hook.__dict__["databricks_conn"] = with_token_login(hook.databricks_conn)
    return hook


def read_table(hook: Any, table: str, limit: int) -> pa.Table:
    """Return the rows of a table, so many at most.

    :param hook: a hook whose ``get_conn`` gives a DB-API connection
    :param table: ``catalog.schema.table``
    """
    import pyarrow as pa

    quoted = ".".join(f"`{part.strip('`').replace('`', '``')}`" for part in table.split("."))
    try:
        connection = hook.get_conn()
        try:
            cursor = connection.cursor()
            cursor.execute(f"SELECT * FROM {quoted} LIMIT {int(limit)}")  # noqa: S608 - the parts are quoted
            if hasattr(cursor, "fetchall_arrow"):
                return cursor.fetchall_arrow()
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        finally:
            connection.close()
    except Exception as error:
        raise RegistryUnavailableError(
            f"Could not read {table} on a SQL warehouse: {error}. It needs SELECT on the table, USE SCHEMA on "
            "its schema, USE CATALOG on its catalog, and CAN USE on the warehouse."
        ).used(f"connection {hook.databricks_conn_id!r}") from error
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
