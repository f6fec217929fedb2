"""Take the champion back to the version it was before, check it, and write down why.

Start it by hand when the model in production turns out to be wrong. The alias goes back along its own recorded
history: by one step, by several, or to a version that you name. Consumers that load `models:/...@Champion` get the
earlier version from their next load on. What was rolled back from stays where it is, with the reason as a tag.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Param, task

from airflow_uc_models.operators import (
    GetModelVersionOperator,
    RollbackRegisteredModelAliasOperator,
    SetModelVersionTagsOperator,
)

PROD = "{{ params.prod_catalog }}.{{ params.schema }}.{{ params.model }}"

# The connection that runs take which name no other: set MODEL_REGISTRY_CONN_ID for a whole deployment.
CONN_ID = os.environ.get("MODEL_REGISTRY_CONN_ID", "mlflow_default")

with DAG(
    dag_id="example_rollback",
    description="Point the champion alias back to the version it had before.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        # Without a default, so that whoever rolls back says why.
        "reason": Param(
            type="string", minLength=3, description="Why; it becomes a tag of the version that is rolled back."
        ),
        "steps": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            description="How many moves of the alias to take back; by default one.",
        ),
        "to_version": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            description="Instead of steps: an earlier version to go back to.",
        ),
        "registry_conn_id": Param(CONN_ID, type="string", description="Connection of the model registry."),
        "prod_catalog": Param("prod", type="string", description="Catalog whose champion is rolled back."),
        "schema": Param("ml_team", type="string", description="Schema of the model in that catalog."),
        "model": Param("breast_cancer", type="string", description="Name of the model in the schema."),
        "alias": Param("Champion", type="string", description="The alias that consumers load by."),
    },
    default_args={
        "registry_conn_id": "{{ params.registry_conn_id }}",
        # A retry finishes what its earlier try began and takes back nothing more.
        "retries": 3,
        "retry_delay": timedelta(seconds=10),
    },
    tags=["airflow-uc-models", "example"],
) as dag:
    # [START rollback]
    rolled_back = RollbackRegisteredModelAliasOperator(
        task_id="roll_back",
        model_name=PROD,
        alias="{{ params.alias }}",
        steps="{{ params.steps }}",
        to_version="{{ params.to_version }}",
    )
    # Reading by alias is what consumers do.
    now = GetModelVersionOperator(task_id="read_back", model_name=PROD, alias="{{ params.alias }}")

    @task(retries=0)
    def verify(wanted: int, found: int, status: str) -> None:
        """Fail if consumers would not get the version that was rolled back to."""
        if (found, status) != (wanted, "READY"):
            raise RuntimeError(f"Consumers would get version {found} ({status}), not version {wanted}.")

    note_reason = SetModelVersionTagsOperator(
        task_id="note_reason",
        model_name=PROD,
        version=rolled_back.output["previous"],
        tags={"rolled_back_because": "{{ params.reason }}", "rolled_back_in_run": "{{ run_id }}"},
    )
    # [END rollback]

    checked = verify(rolled_back.output["version"], now.output["version"], now.output["status"])
    rolled_back >> now >> checked >> note_reason
