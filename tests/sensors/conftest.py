"""What the sensors' tests share.

Each test that takes ``mode`` runs with the worker poking, rescheduled, and deferred to the trigger: they must agree.
"""

from __future__ import annotations

import uuid

import pytest
from support.databricks import connection_json
from support.faulty import faulty_server, faulty_workspace
from support.sensing import MODES, Sense, Site, set_status


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


@pytest.fixture(params=["poke", "deferred"])
def main_mode(request):
    """For what has nothing to do with how the task is started again and again."""
    return MODES[request.param]


@pytest.fixture
def through_proxy(monkeypatch, proxy):
    """The id of a connection that goes through the proxy and leaves retries to the sensor."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_PROXY", proxy.connection_json(max_retry_seconds=0))
    return "mlflow_proxy"


@pytest.fixture
def sense(dag_runner, connection, model_name):
    defaults = {"model_name": model_name, "registry_conn_id": connection, "poll_interval": 0.05, "timeout": 60}
    return Sense(dag_runner, defaults)


@pytest.fixture(params=["mlflow", "databricks"])
def site(request, monkeypatch):
    """An MLflow server, and an emulated workspace."""
    if request.param == "mlflow":
        server = request.getfixturevalue("mlflow_server")
        with faulty_server(server) as faulty:
            monkeypatch.setenv("AIRFLOW_CONN_SITE", faulty.proxy.connection_json(max_retry_seconds=0))
            yield Site(faulty, "site", lambda *change: set_status(server, *change))
        return
    workspace = request.getfixturevalue("workspace")

    def change(name, number, status, message=None):
        version = workspace.workspace.state.models[name].versions[number]
        version.status, version.status_message = status, message

    with faulty_workspace(workspace) as faulty:
        port = int(faulty.proxy.url.rpartition(":")[2])
        extra = {"max_retry_seconds": 0}
        monkeypatch.setenv("AIRFLOW_CONN_SITE", connection_json(workspace, port=port, extra=extra))
        yield Site(faulty, "site", change)


@pytest.fixture
def name():
    """A model in a schema of this test's own."""
    return f"dev.s{uuid.uuid4().hex[:12]}.fraud"


@pytest.fixture
def sense_with(dag_runner, site):
    """Run a Dag of one sensor of a class, on the site."""

    def sense(sensor, **options):
        defaults = {"registry_conn_id": site.conn_id, "poll_interval": 0.05, "timeout": 60}
        return Sense(dag_runner, defaults | options, sensor)

    return sense
