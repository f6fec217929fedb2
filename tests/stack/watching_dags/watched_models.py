"""Watchers of every model that the test registers, and a Dag that they start."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetAny, AssetWatcher, task

from airflow_uc_models.assets import model_asset
from airflow_uc_models.triggering_events import model_events
from airflow_uc_models.triggers import ModelEventTrigger


def watched(name: str, kinds: str) -> Asset:
    trigger = ModelEventTrigger(
        model_name=name, kinds=kinds, registry_conn_id="workspace", poll_interval=2, replay=True
    )
    return model_asset(name, "workspace", watchers=[AssetWatcher(name="watcher", trigger=trigger)])


models = [
    watched(f"dev.ml_team.m{number}", "model_version.ready") for number in range(int(os.environ["WATCHED_MODELS"]))
]

with DAG("watched_models", schedule=AssetAny(*models), max_active_runs=1):

    @task(retries=5, retry_delay=timedelta(seconds=2))
    def check() -> list[str]:
        """Every version that started this run exists: asking for one that does not fails."""
        from airflow_uc_models.hooks.model_registry import ModelRegistryHook

        hook = ModelRegistryHook("workspace")
        events = model_events()
        assert events
        return [hook.run(hook.registry.get_model_version(e.model_name, e.version or 0)).uri for e in events]

    check()
