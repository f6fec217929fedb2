"""The whole story over connections whose secrets are looked for afterwards, with tasks that fail among it."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_uc_models.operators import (
    BranchOnModelValidationOperator,
    CopyModelVersionOperator,
    DownloadModelVersionOperator,
    GetModelVersionOperator,
    RegisterModelOperator,
    RollbackRegisteredModelAliasOperator,
    SetModelVersionTagsOperator,
    SetRegisteredModelAliasOperator,
)
from airflow_uc_models.policies import PromotionPolicy
from airflow_uc_models.sensors import ModelVersionSensor

DEV, PROD, LATE = "dev.secret.model", "prod.secret.model", "dev.secret.late"

with DAG("secrets", schedule=None, params={"uri": "", "folder": ""}):
    made = RegisterModelOperator(
        task_id="register",
        model_name=DEV,
        model_uri="{{ params.uri }}",
        tracking_conn_id="by_password",
        registry_conn_id="by_token",
    )
    judged = BranchOnModelValidationOperator(
        task_id="validate",
        model_name=DEV,
        version=made.output["version"],
        policy=PromotionPolicy(),
        follow_if_approved="copy",
        follow_if_rejected="never",
        registry_conn_id="by_client",
    )
    copied = CopyModelVersionOperator(
        task_id="copy",
        model_name=DEV,
        version=made.output["version"],
        destination_model_name=PROD,
        registry_conn_id="by_token",
        destination_conn_id="by_client",
    )
    never = GetModelVersionOperator(task_id="never", model_name=DEV, version=1, registry_conn_id="by_token")
    alias = SetRegisteredModelAliasOperator(
        task_id="alias",
        model_name=PROD,
        alias="Champion",
        version=copied.output["version"],
        registry_conn_id="by_client",
    )
    tags = SetModelVersionTagsOperator(
        task_id="tags", model_name=PROD, alias="Champion", tags={"by": "{{ dag.dag_id }}"}, registry_conn_id="by_token"
    )
    download = DownloadModelVersionOperator(
        task_id="download",
        model_name=PROD,
        alias="Champion",
        destination="{{ params.folder }}",
        registry_conn_id="by_client",
    )
    judged >> [copied, never]
    alias >> [tags, download]
    for conn_id in ("by_token", "by_client"):
        ModelVersionSensor(
            task_id=f"wait_{conn_id}",
            model_name=LATE,
            missing_ok=True,
            deferrable=True,
            poll_interval=1,
            registry_conn_id=conn_id,
            # A busy scheduler takes a deferral that is over at once for a failure of the executor.
            retries=2,
            retry_delay=timedelta(0),
        )
    for conn_id in ("by_token", "by_client", "by_password", "refused", "dead"):
        GetModelVersionOperator(
            task_id=f"fail_{conn_id}", model_name="no.such.model", version=1, registry_conn_id=conn_id
        )
        RegisterModelOperator(
            task_id=f"fail_register_{conn_id}",
            model_name=DEV,
            model_uri="runs:/0123456789abcdef0123456789abcdef/model",
            registry_conn_id=conn_id,
        )
    RollbackRegisteredModelAliasOperator(
        task_id="fail_rollback", model_name=PROD, alias="Nobody", registry_conn_id="by_client"
    )
