"""A context for calling an operator without Airflow's task runner."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any


def context(task: Any = None, try_number: int = 1, **more: Any) -> dict[str, Any]:
    """Return what operators and sensors read of a context; what is pushed to XCom can be pulled again."""
    xcom: dict[str, Any] = {}
    ti = SimpleNamespace(
        dag_id="dag",
        run_id="run",
        task=task,
        task_id="task" if task is None else task.task_id,
        map_index=-1,
        try_number=try_number,
        max_tries=0,
        xcom_push=lambda key, value: xcom.update({key: value}),
        xcom_pull=lambda key="return_value", **_: xcom.get(key),
    )
    dag_run = SimpleNamespace(run_id="run", run_after=datetime.now(UTC), logical_date=datetime.now(UTC))
    return {"ti": ti, "dag_run": dag_run, "run_id": "run", "task": task, "xcom": xcom, **more}
