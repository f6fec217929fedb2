"""What the sensors' tests share.

Each test that takes ``mode`` runs with the worker poking, rescheduled, and deferred to the trigger: they must agree.
"""

from __future__ import annotations

import pytest
from support.sensing import MODES, Sense


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
