"""The registries that the contract is tested on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.databricks import connection_json
from support.models import save_model
from support.open_source import OpenSourceServer, flavour
from support.proxy import Proxy
from support.registries import (
    EMULATED,
    LIVE,
    LIVE_CONNECTION,
    LIVE_SCHEMA,
    MLFLOW,
    MODES,
    OPEN_SOURCE,
    OPEN_SOURCE_URI,
    Subject,
    kinds,
)

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.hooks import model_files


@pytest.fixture(scope="session")
def emulated_open_source(request, tmp_path_factory) -> Iterator[OpenSourceServer]:
    """The emulator's open-source flavour, also where there is a real server."""
    if OPEN_SOURCE_URI not in os.environ:
        yield request.getfixturevalue("open_source")
    else:
        with flavour(tmp_path_factory.mktemp("emulated-unity-catalog")) as server:
            yield server


@pytest.fixture(scope="session")
def tracking_workspace(mlflow_server) -> Iterator[Emulator]:
    """A workspace with runs and logged models: an MLflow server's."""
    with Emulator(Settings(tracking_uri=mlflow_server.url)) as running:
        yield running


@pytest.fixture(params=kinds())
def kind(request) -> str:
    return str(request.param)


@pytest.fixture(params=MODES)
def tested(kind, request, monkeypatch) -> Iterator[Subject]:
    """Each registry, asked as tasks do and as triggers do."""
    with tested_registry(kind, request, monkeypatch) as found:
        found.mode = request.param
        yield found


@contextmanager
def tested_registry(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    """Start what a kind of registry needs."""
    if kind == "MLflow server":
        proxy = request.getfixturevalue("proxy")
        monkeypatch.setenv("AIRFLOW_CONN_TESTED", proxy.connection_json())
        yield Subject("tested", "dev.tests", MLFLOW, proxy.take)
    elif kind == "Databricks":
        workspace = request.getfixturevalue("tracking_workspace")
        workspace.reset()
        monkeypatch.setenv("AIRFLOW_CONN_TESTED", connection_json(workspace))
        yield Subject("tested", "dev.tests", EMULATED, workspace.requests.take)
    elif kind == "live workspace":
        live = Subject(live_connection(monkeypatch), os.environ[LIVE_SCHEMA], LIVE, upload=uploader(request))
        yield live
        live.delete_all()
    else:
        fixture = "emulated_open_source" if kind == "open-source" else "open_source"
        server: OpenSourceServer = request.getfixturevalue(fixture)
        with Proxy(server.url) as proxy:
            monkeypatch.setenv("AIRFLOW_CONN_TESTED", server.connection_json(proxy.url))
            yield Subject("tested", server.schema, OPEN_SOURCE, proxy.take)


def live_connection(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of the connection that the environment names, or gives as a URI or in JSON."""
    given = os.environ[LIVE_CONNECTION]
    if "://" not in given and not given.startswith("{"):
        return given
    monkeypatch.setenv("AIRFLOW_CONN_UC_MODELS_LIVE", given)
    return "uc_models_live"


def uploader(request: pytest.FixtureRequest):
    folder = request.getfixturevalue("tiny_model")
    return lambda hook, version: model_files.upload(hook, version, folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a model with a signature."""
    return save_model(tmp_path_factory.mktemp("tiny") / "model")
