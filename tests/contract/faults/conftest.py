"""Registries that fail on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.faulty import Faulty, faulty_server, faulty_workspace
from support.proxy import Proxy

from airflow_uc_models.hooks import transport
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call


@pytest.fixture(params=["MLflow server", "Databricks"])
def faulty(request) -> Iterator[Faulty]:
    """Each registry that has aliases and tags, behind a proxy that plays faults."""
    if request.param == "MLflow server":
        with faulty_server(request.getfixturevalue("mlflow_server")) as found:
            yield found
    else:
        with faulty_workspace(request.getfixturevalue("workspace")) as found:
            yield found


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    """Try again at once; how long is waited is tested with the transport."""
    monkeypatch.setattr(transport, "_backoff", lambda _: 0.0)


@pytest.fixture
def proxy(faulty) -> Proxy:
    return faulty.proxy


@pytest.fixture
def run(faulty) -> Callable[[Call[Any]], Any]:
    return faulty.run


@pytest.fixture
def registry(faulty) -> Registry:
    return faulty.registry
