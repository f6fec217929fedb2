"""How the demo's Airflow and MLflow are set up: nothing of the caller's own set-up reaches them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import MutableMapping
from configparser import RawConfigParser
from pathlib import Path

from scripts.demo.home import Home, write_private
from scripts.demo.ports import Ports

DAGS = Path(__file__).resolve().parents[2] / "dags"
REGISTRIES = ("mlflow", "databricks")
USER = "admin"
_FOREIGN = ("AIRFLOW", "_AIRFLOW", "MLFLOW", "_MLFLOW", "DATABRICKS", "PYTHONPATH", "PYTHONHOME", "GUNICORN", "UVICORN")
_FOREIGN += ("PG", "PYTHONDONTWRITEBYTECODE")  # of PostgreSQL's clients; and without bytecode all starts take longer
_LOOPBACK = "127.0.0.1,localhost"


def forget_callers_settings(environment: MutableMapping[str, str]) -> None:
    """Remove settings of other Airflows, MLflows and workspaces, and keep proxies away from loopback addresses."""
    for name in [name for name in environment if name.startswith(_FOREIGN)]:
        del environment[name]
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, (environment.get(name), _LOOPBACK)))
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath)))
    environment.update({"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONUNBUFFERED": "1"})


def airflow_environment(home: Home, ports: Ports) -> dict[str, str]:
    """Return the variables that make a command talk to the demo's Airflow."""
    connections: dict[str, dict[str, str]] = {
        "mlflow_default": {"conn_type": "mlflow", "host": f"http://127.0.0.1:{ports.mlflow}"},
        "model_webhook": {"conn_type": "http", "host": f"http://127.0.0.1:{ports.receiver}"},
    }
    if home.registry == "databricks":
        address = f"http://127.0.0.1:{ports.workspace}"
        connections["databricks_default"] = {
            "conn_type": "databricks",
            "host": address,
            "password": home.secret("workspace-token"),
        }
    return {
        "AIRFLOW_HOME": str(home.airflow),
        **{f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(value) for conn_id, value in connections.items()},
        "MODEL_REGISTRY_CONN_ID": f"{home.registry}_default",
        # Airflow shows all that mlflow logs as errors, because it comes by way of stderr.
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }


def write_airflow_config(home: Home, ports: Ports, database_url: str) -> None:
    """Write airflow.cfg and the password of the one user."""
    address = f"http://127.0.0.1:{ports.airflow}"
    passwords = home.airflow / "passwords.json"
    write_private(passwords, json.dumps({USER: home.secret("password")[:16]}))
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": DAGS,
            "load_examples": False,
            # What takes long here takes long because the machine is busy: no reason to give up.
            "dagbag_import_timeout": 300,
            # The button in the forms of connections.
            "test_connection": "Enabled",
            # The Dags of the story shall run when they are asked to; the sensor's listens from the start.
            "dags_are_paused_at_creation": False,
            "executor": "LocalExecutor",
            "parallelism": 4,
            "fernet_key": _fernet_key(home.secret("fernet")),
            "execution_api_server_url": f"{address}/execution/",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": passwords,
        },
        "database": {"sql_alchemy_conn": database_url},
        "api": {
            "host": "127.0.0.1",
            "port": ports.airflow,
            "base_url": address,
            "workers": 1,
            "secret_key": home.secret("api"),
        },
        "api_auth": {"jwt_secret": home.secret("jwt")},
        "logging": {
            "base_log_folder": home.airflow / "logs",
            "worker_log_server_port": ports.worker_logs,
            "trigger_log_server_port": ports.trigger_logs,
        },
        # One user on one machine: look for work more often than a big installation would.
        "scheduler": {"scheduler_idle_sleep_time": 0.2, "scheduler_health_check_threshold": 120},
        "triggerer": {"triggerer_health_check_threshold": 120},
        "workers": {"execution_api_timeout": 60},
        "dag_processor": {
            "dag_bundle_storage_path": home.airflow / "bundles",
            "parsing_processes": 1,
            "refresh_interval": 30,
            "dag_file_processor_timeout": 600,
            "health_check_threshold": 120,
        },
        "usage_data_collection": {"enabled": False},
    }
    config = RawConfigParser()
    config.read_dict({name: {k: str(v).replace("%", "%%") for k, v in s.items()} for name, s in options.items()})
    with (home.airflow / "airflow.cfg").open("w") as file:
        os.fchmod(file.fileno(), 0o600)
        config.write(file)


def _fernet_key(secret: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode()
