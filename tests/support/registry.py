"""Versions without a model behind them, for tests that are about the registry alone."""

from __future__ import annotations

from typing import Any

from support.mlflow_server import MlflowServer


def make_versions(server: MlflowServer, name: str, count: int) -> Any:
    """Register a model with ``count`` versions and return an MlflowClient."""
    client = server.client()
    client.create_registered_model(name)
    run_id = client.create_run(client.create_experiment(name)).info.run_id
    for _ in range(count):
        client.create_model_version(name, f"runs:/{run_id}/model", run_id=run_id)
    return client


def versions(client: Any, name: str) -> list[int]:
    """The numbers of a model's versions, ascending."""
    return sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))


def aliases(client: Any, name: str) -> dict[str, int]:
    """Where a model's aliases point."""
    return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}
