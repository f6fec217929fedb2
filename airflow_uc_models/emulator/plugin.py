"""A pytest plugin: the fixture ``uc_workspace``, a Databricks workspace on this machine, empty for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_uc_models.emulator.server import Emulator


@pytest.fixture(scope="session")
def uc_workspace_server() -> Iterator[Emulator]:
    """Start the workspace that `uc_workspace` hands out; override it for other `Settings`."""
    from airflow_uc_models.emulator.server import Emulator

    with Emulator() as running:
        yield running


@pytest.fixture
def uc_workspace(uc_workspace_server: Emulator) -> Iterator[Emulator]:
    """Hand out an empty Databricks workspace, started once per session and emptied after each test.

    ``uc_workspace.env()`` is the environment variable that makes it the Airflow connection ``databricks_default``.
    """
    yield uc_workspace_server
    uc_workspace_server.reset()
