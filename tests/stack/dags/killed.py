"""Dags whose workers the tests kill."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_uc_models.operators import CopyModelVersionOperator, RegisterModelOperator

RETRY = {"retries": 2, "retry_delay": timedelta(seconds=1), "registry_conn_id": "watched"}

with DAG("killed_register", schedule=None, default_args=RETRY, params={"name": "", "uri": ""}):
    RegisterModelOperator(task_id="work", model_name="{{ params.name }}", model_uri="{{ params.uri }}")

with DAG("killed_copy", schedule=None, default_args=RETRY, params={"name": "", "uri": ""}):
    CopyModelVersionOperator(task_id="work", model_uri="{{ params.uri }}", destination_model_name="{{ params.name }}")
