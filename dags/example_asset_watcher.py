"""Check every new version of every model in a schema, without asking the registry from each Dag.

A watcher in the triggerer polls the schema and makes an asset event for each version that becomes READY; the event
starts the Dag.

An asset event is a wake-up, not a message. Airflow starts one run for a burst of events, and gives it only the first
of them; with `max_active_runs=1`, runs for events that come meanwhile are not made one by one either. So the first
task does not look at the event. It asks the registry which versions this Dag has not handled yet, and lists them all;
the last task marks those whose check succeeded. A version that failed, or that a killed run never reached, is listed
again by the next run. Versions that were made while Airflow was down are found in the same way.

The second form, on Airflow 3.3 and later, makes one Dag run per version: a relay Dag hands each pending version on as
a partition of a second asset, and a Dag that is scheduled on partitions runs once for each. A relay that dies between
its second and its third task hands the same versions on again, so checking twice must do no harm.

Assets cannot read a Dag's params. Which schema is watched is said by environment variables of Airflow's processes:
`MODEL_REGISTRY_CONN_ID`, `MODEL_REGISTRY_SCHEMA` (`catalog.schema`) and `MODEL_REGISTRY_POLL_SECONDS`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import airflow.sdk
from airflow.sdk import DAG, Asset, Param, task

from airflow_uc_models.assets import watched_model_asset
from airflow_uc_models.operators import MarkModelVersionsHandledOperator, PendingModelVersionsOperator
from airflow_uc_models.triggering_events import model_events

CONN_ID = os.environ.get("MODEL_REGISTRY_CONN_ID", "mlflow_default")
SCHEMA = os.environ.get("MODEL_REGISTRY_SCHEMA", "dev.ml_team")
POLL_SECONDS = float(os.environ.get("MODEL_REGISTRY_POLL_SECONDS", "30"))

# [START watcher]
models = watched_model_asset(f"{SCHEMA}.*", CONN_ID, poll_interval=POLL_SECONDS)
# [END watcher]

options: dict[str, Any] = {
    "doc_md": __doc__,
    "catchup": False,
    # It listens as soon as it is unpaused, so somebody should mean it.
    "is_paused_upon_creation": True,
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=10)},
    "tags": ["airflow-uc-models", "example"],
}


def smoke_test(model_name: str, version: int) -> str:
    """Fail if nobody could use the version, else tag it. Put your own checks here; they may run twice."""
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook

    hook = ModelRegistryHook(CONN_ID)
    found = hook.run(hook.registry.get_model_version(model_name, version))
    if not (found.is_ready and found.source):
        raise ValueError(f"{found.uri} cannot be used: {found.status}, made from {found.source or 'nothing'}")
    hook.run(hook.registry.set_model_version_tag(model_name, version, "smoke_test", "passed"))
    return found.uri


# [START drain]
with DAG(
    dag_id="example_asset_watcher",
    description="Check every new version of every model in a schema.",
    schedule=[models],
    max_active_runs=1,  # two runs side by side would list the same versions
    **options,
) as dag:
    # `created_after=...` leaves out what was there before.
    pending = PendingModelVersionsOperator(
        task_id="pending", scope=SCHEMA, asset=models, registry_conn_id=CONN_ID, missing_ok=True
    )

    @task(max_active_tis_per_dagrun=4)
    def check(version: dict[str, Any]) -> str:
        """Check one version."""
        return smoke_test(version["name"], version["version"])

    checked = check.expand(version=pending.output)
    MarkModelVersionsHandledOperator(task_id="mark", pending=pending.output, handled=checked)
# [END drain]


# [START relay]
if hasattr(airflow.sdk, "PartitionedAtRuntime"):  # Airflow 3.3: only from there on can a task add partitions
    from airflow.sdk import PartitionedAssetTimetable
    from airflow.sdk.exceptions import AirflowSkipException

    versions = Asset(f"{SCHEMA}.versions")

    with DAG(
        dag_id="example_asset_watcher_relay",
        description="Start a Dag run of its own for every new version.",
        schedule=[models],
        max_active_runs=1,
        **options,
    ) as relay_dag:
        found = PendingModelVersionsOperator(
            task_id="pending", scope=SCHEMA, asset=models, registry_conn_id=CONN_ID, missing_ok=True
        )

        @task(outlets=[versions])
        def hand_on(listed: list[dict[str, Any]], outlet_events: Any = None) -> None:
            """Add a partition per version; each becomes an event when this task has succeeded, not before."""
            if not listed:
                raise AirflowSkipException("Nothing is pending.")  # success would make an event without a partition
            outlet_events[versions].add_partitions([f"{v['name']}/{v['version']}" for v in listed])

        # A task of its own, because what it writes stays if it fails: versions must not count as handled before.
        MarkModelVersionsHandledOperator(task_id="mark", pending=found.output, handled=hand_on(found.output))

    with DAG(
        dag_id="example_asset_watcher_version",
        description="Check one version.",
        schedule=PartitionedAssetTimetable(assets=versions),
        max_active_runs=4,
        # For runs that are started by hand; the others know their version from their partition.
        params={
            "model_name": Param(f"{SCHEMA}.breast_cancer", type="string", description="Model of the version to check."),
            "version": Param(1, type="integer", minimum=1, description="The version to check."),
        },
        **options,
    ) as version_dag:

        @task
        def check_version(params: dict[str, Any] | None = None) -> str:
            """Check the version that this run was started for."""
            for event in model_events():
                assert event.version is not None
                return smoke_test(event.model_name, event.version)
            assert params is not None  # started by hand
            return smoke_test(params["model_name"], params["version"])

        check_version()
# [END relay]
