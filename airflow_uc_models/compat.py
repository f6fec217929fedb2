"""The few names that differ between Airflow 3.1, 3.2 and 3.3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import BaseHook, Connection
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
    )
else:
    from airflow.providers.common.compat.sdk import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        conf,
    )

if TYPE_CHECKING:
    from airflow.triggers.shared_stream import SharedStreamProducer
else:
    try:
        from airflow.triggers.shared_stream import SharedStreamProducer
    except ImportError:

        class SharedStreamProducer:
            """Before Airflow 3.3 each watcher polls for itself, and nobody makes one of these."""


__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "SharedStreamProducer",
    "conf",
    "get_connection_async",
]


async def get_connection_async(hook: BaseHook, conn_id: str) -> tuple[Connection, dict[str, Any]]:
    """Return a connection and its extra without blocking the event loop.

    Before Airflow 3.3.2 both mask their secrets by a synchronous call to the supervisor, which must not be made on
    the loop; the common-compat provider knows when, from 1.23 on. With an older one a worker thread reads them.
    """
    try:
        from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
    except ImportError:
        from asgiref.sync import sync_to_async

        connection = await sync_to_async(hook.get_connection)(conn_id)
        return connection, await sync_to_async(lambda: connection.extra_dejson)()
    connection = await get_async_connection(conn_id, hook=hook)
    return connection, await get_async_extra_dejson(connection)
