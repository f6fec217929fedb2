"""The Dags of the example that asks for approvals, and one that promotes many models; their versions are in MLflow."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_uc_models.operators import ApproveModelVersionOperator
from airflow_uc_models.operators.promotion import promote_model

EXAMPLE = Path(__file__).parents[3] / "dags" / "example_manual_approval.py"
exec(compile(EXAMPLE.read_text(), __file__, "exec"), {"__name__": __name__})  # Airflow takes them for this file's

POLICY = {
    "metrics": [{"name": "accuracy", "min": 0.5}],
    "require_signature": False,
    "compatible_signature": False,
}
ON = {"registry_conn_id": "watched"}

with DAG("approval_in_time", schedule=None, default_args=ON, params={"name": ""}):
    # Longer than the up to five seconds in which Airflow 3.3.2 may not know yet that asking has ended.
    ApproveModelVersionOperator(task_id="ask", model_name="{{ params.name }}", version=1, response_timeout=10)

with DAG("promote_many", schedule=None, default_args={**ON, "retry_delay": timedelta(0)}, params={"models": []}):

    @task
    def list_models(params=None):
        return params["models"]

    promote_model.partial(policy=POLICY).expand_kwargs(list_models())
