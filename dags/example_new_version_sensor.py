"""Start work whenever another team registers a version of a model.

Unity Catalog has no registry webhooks; this Dag takes their place. It is always listening: `@continuous` starts the
next run as soon as one ends, and the sensor waits in the triggerer, without a worker. Each run takes one version, the
oldest that no earlier run of this Dag has handled, so versions that are registered in quick succession, or while
Airflow is down, are all handled, in order.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_uc_models.operators import SetModelVersionTagsOperator
from airflow_uc_models.sensors import ModelVersionSensor

log = logging.getLogger("airflow.task")

# The connection that runs take which name no other: set MODEL_REGISTRY_CONN_ID for a whole deployment.
CONN_ID = os.environ.get("MODEL_REGISTRY_CONN_ID", "mlflow_default")

WATCHED = "{{ params.dev_catalog }}.{{ params.schema }}.{{ params.model }}"

with DAG(
    dag_id="example_new_version_sensor",
    description="Review each new version of a model as soon as it is registered.",
    doc_md=__doc__,
    schedule="@continuous",
    # Without it Airflow 3.3 makes a first run and never a second: both would have the same logical date.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    # A wrong connection must not make a failed run every few seconds for ever.
    max_consecutive_failed_dag_runs=5,
    params={
        "registry_conn_id": Param(CONN_ID, type="string", description="Connection of the model registry."),
        "dev_catalog": Param("dev", type="string", description="Catalog in which new versions are registered."),
        "schema": Param("ml_team", type="string", description="Schema of the model in that catalog."),
        "model": Param("breast_cancer", type="string", description="Name of the model in the schema."),
    },
    default_args={"registry_conn_id": "{{ params.registry_conn_id }}"},
    tags=["airflow-uc-models", "example"],
) as dag:
    # [START wait_for_version]
    arrived = ModelVersionSensor(
        task_id="wait_for_version",
        model_name=WATCHED,
        missing_ok=True,  # the other team may not have begun
        deferrable=True,
        poll_interval=5,
        # A quiet day is no failure: the run is skipped and the next one goes on listening.
        timeout=timedelta(days=1).total_seconds(),
        soft_fail=True,
        retries=3,
        retry_delay=timedelta(seconds=30),
    )
    # [END wait_for_version]

    # [START review]
    @task(retries=2, retry_delay=timedelta(seconds=10))
    def review(version: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look at the version; put your own work here. This one reads what its training run measured."""
        from airflow_uc_models.hooks.model_registry import ModelRegistryHook

        assert params is not None
        hook = ModelRegistryHook(params["registry_conn_id"])
        metrics = hook.run(hook.registry.get_run(version["run_id"])).metrics if version["run_id"] else {}
        log.info("%s has arrived: %s", version["uri"], metrics or "it has no metrics")
        return metrics

    note_review = SetModelVersionTagsOperator(
        task_id="note_review",
        model_name=WATCHED,
        version=arrived.output["version"],
        tags={"reviewed_by": "{{ dag.dag_id }}", "reviewed_in_run": "{{ run_id }}"},
        retries=2,
        retry_delay=timedelta(seconds=10),
    )
    # [END review]

    review(arrived.output) >> note_review
