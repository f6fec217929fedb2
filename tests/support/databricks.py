"""Connections to the emulated workspace."""

from __future__ import annotations

import json
from typing import Any

import pytest
from databricks.sdk.config import Config

from airflow_uc_models.emulator import Emulator

# Older releases of databricks-sdk send and fetch each file whole, through the workspace, unless told to do otherwise.
IN_PARTS = hasattr(Config, "disable_experimental_files_api_client")
in_parts = pytest.mark.skipif(not IN_PARTS, reason="this release of databricks-sdk sends a file in one piece")
DOWNLOADS = "fs/create-download-url" if IN_PARTS else "fs/files/.*model.pkl"


def connection_json(workspace: Emulator, token: str | None = None, **fields: Any) -> str:
    """Return a `databricks` connection in JSON: with the admin's token, or as the fields say."""
    connection = {
        "conn_type": "databricks",
        "host": "127.0.0.1",
        "schema": "http",
        "port": workspace.port,
        "password": token or workspace.token,
        **fields,
    }
    return json.dumps({key: value for key, value in connection.items() if value is not None})
