"""Let people approve a model version before it becomes champion: in the Airflow UI, or by a tag on the version.

Three Dags, of which a team takes the one that fits:

* `example_manual_approval` asks in Airflow. It validates the version, shows model, metrics, verdict and links under
  "Required Actions", and promotes from `dev` to `prod` once somebody approves. Who did, and when, become tags.
* `example_manual_approval_by_tag` waits for the tag that the approval task of a Databricks deployment job looks for,
  whoever sets it and wherever, and promotes then.
* `example_manual_approval_deployment_job` asks in Airflow and sets that tag, so that a deployment job goes on.

A rejection fails the run, and so does no answer in time. Nothing was moved then: the champion stays.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param

from airflow_uc_models.operators import ApproveModelVersionOperator, SetModelVersionApprovalTagOperator
from airflow_uc_models.operators.promotion import promote_model
from airflow_uc_models.policies import MetricRule, PromotionPolicy
from airflow_uc_models.sensors import ModelVersionTagSensor

# The connection that runs take which name no other: set MODEL_REGISTRY_CONN_ID for a whole deployment.
CONN_ID = os.environ.get("MODEL_REGISTRY_CONN_ID", "mlflow_default")

DEV = "{{ params.dev_catalog }}.{{ params.schema }}.{{ params.model }}"
VERSION = "{{ params.version }}"
# The approval task of the deployment job; its name begins with "approval".
APPROVAL_TASK = "approval_check"

# [START policy]
POLICY = PromotionPolicy(metrics=[MetricRule("roc_auc", min=0.8, min_gain=0.0)])
# [END policy]

PLACES = {
    "registry_conn_id": Param(CONN_ID, type="string", description="Connection of the model registry."),
    "dev_catalog": Param("dev", type="string", description="Catalog of the version to approve."),
    "schema": Param("ml_team", type="string", description="Schema of the model in each catalog."),
    "model": Param("breast_cancer", type="string", description="Name of the model in the schema."),
}
PROD = {"prod_catalog": Param("prod", type="string", description="Catalog to which the version is promoted.")}
NEWEST = {
    "version": Param(
        None, type=["null", "integer"], minimum=1, description="The version to approve; by default the newest."
    )
}
ONE = {"version": Param(1, type="integer", minimum=1, description="The version to approve.")}

OPTIONS: dict[str, Any] = {
    "doc_md": __doc__,
    "schedule": None,
    "catchup": False,
    "default_args": {
        "registry_conn_id": "{{ params.registry_conn_id }}",
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
    },
    "tags": ["airflow-uc-models", "example"],
}

# [START ask]
with DAG(
    dag_id="example_manual_approval",
    description="Validate, ask for an approval in the Airflow UI, promote.",
    params={**PLACES, **PROD, **NEWEST},
    **OPTIONS,
):
    promote_model(
        model_name=DEV,
        version=VERSION,
        destination_catalog="{{ params.prod_catalog }}",
        policy=POLICY,
        # No answer within two days is a rejection.
        approval={"response_timeout": timedelta(days=2)},
    )
# [END ask]

# [START wait]
with DAG(
    dag_id="example_manual_approval_by_tag",
    description="Wait until the version is approved by its tag, validate, promote.",
    params={**PLACES, **PROD, **ONE},
    **OPTIONS,
):
    approved = ModelVersionTagSensor(
        task_id="wait_for_approval",
        model_name=DEV,
        version=VERSION,
        tag=APPROVAL_TASK,
        value=["Approved", "approved"],
        failed_value=["Rejected", "rejected"],
        timeout=timedelta(days=2),
        deferrable=True,
    )
    approved >> promote_model(
        model_name=DEV,
        version=VERSION,
        destination_catalog="{{ params.prod_catalog }}",
        policy=POLICY,
    )
# [END wait]

# [START hand_on]
with DAG(
    dag_id="example_manual_approval_deployment_job",
    description="Ask for an approval in the Airflow UI, and give it to a Databricks deployment job.",
    params={**PLACES, **ONE},
    **OPTIONS,
):
    asked = ApproveModelVersionOperator(
        task_id="ask", model_name=DEV, version=VERSION, response_timeout=timedelta(days=2)
    )
    asked >> SetModelVersionApprovalTagOperator(
        task_id="approve_deployment_job", model_name=DEV, version=VERSION, tag=APPROVAL_TASK
    )
# [END hand_on]
