"""Registries that are watched."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databricks import connection_json
from support.leavings import ignore_open_sockets, open_sockets_collected
from support.registries import EMULATED, MLFLOW, OPEN_SOURCE, Subject


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Watchers are killed here, also while they connect; the socket that asyncio then leaves open is none of theirs."""
    ignore_open_sockets(items, Path(__file__).parent)


@pytest.fixture(scope="module", autouse=True)
def _leavings() -> Iterator[None]:
    with open_sockets_collected():
        yield


@pytest.fixture(autouse=True)
def _database(airflow_home):
    """Connections that are in no variable are looked up in the metadata database."""


@pytest.fixture
def on_mlflow(proxy, monkeypatch) -> Subject:
    """An MLflow server, with a schema of the test's own."""
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", proxy.connection_json())
    return Subject("watched", f"dev.s{uuid.uuid4().hex[:8]}", MLFLOW, proxy.take)


@pytest.fixture
def on_databricks(workspace, monkeypatch) -> Subject:
    """An emulated workspace."""
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", connection_json(workspace))
    return Subject("watched", "dev.ml_team", EMULATED, workspace.requests.take)


@pytest.fixture
def on_open_source(open_source, monkeypatch) -> Iterator[Subject]:
    """An open-source Unity Catalog server."""
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", open_source.connection_json())
    yield (found := Subject("watched", open_source.schema, OPEN_SOURCE))
    found.delete_all()


@pytest.fixture(params=["mlflow", "databricks"])
def watched(request) -> Subject:
    """Each registry that has aliases and tags."""
    return request.getfixturevalue(f"on_{request.param}")
