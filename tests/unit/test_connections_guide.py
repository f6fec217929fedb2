"""Connections that README and docs export are good ones: Airflow reads them, and this package knows their server."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from airflow.sdk import Connection
from support.guides import PAGES, blocks

from airflow_uc_models.hooks.endpoint import endpoint_of

EXPORTS = [
    (page.name, block) for page in PAGES for block in blocks(page.read_text(), "console") if "AIRFLOW_CONN" in block
]


def exported(block: str) -> dict[str, str]:
    """Run a block in a shell and return the connections that it leaves in the environment."""
    filled = re.sub(r"<(workspace|client id|secret)>", "filled", block)
    printed = subprocess.run(
        ["bash", "-ec", f"{filled}\nenv -0"], capture_output=True, check=True, env={"PATH": os.environ["PATH"]}
    ).stdout.decode()
    variables = dict(line.split("=", 1) for line in printed.split("\0") if line)
    return {name: value for name, value in variables.items() if name.startswith("AIRFLOW_CONN_")}


@pytest.mark.parametrize(("page", "block"), EXPORTS, ids=[page for page, _ in EXPORTS])
def test_exported_connections_lead_to_a_server(page, block):
    found = exported(block)
    assert len(found) == block.count("AIRFLOW_CONN_")
    for name, value in found.items():
        connection = Connection.from_json(value, conn_id=name)
        assert endpoint_of(connection, connection.extra_dejson).transport.base_url.startswith("http")


def test_each_kind_of_connection_is_shown():
    kinds = {Connection.from_json(value).conn_type for _, block in EXPORTS for value in exported(block).values()}
    assert kinds == {"databricks", "mlflow", "unity_catalog"}
