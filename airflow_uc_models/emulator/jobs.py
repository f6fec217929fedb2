"""One-time runs: submit, look, read the output, cancel, below ``/api/2.2/jobs/runs``."""

from __future__ import annotations

from typing import Any

from airflow_uc_models.emulator.errors import invalid
from airflow_uc_models.emulator.routing import Call, present, route
from airflow_uc_models.emulator.runs import Run
from airflow_uc_models.emulator.workspace import Workspace

_ROOT = "/api/2.2/jobs/runs"
_SDK = "databricks-sdk service/jobs.py, JobsAPI"
_KINDS = ("notebook_task", "spark_python_task", "python_wheel_task")


class Jobs:
    """Runs on serverless compute: of one task, a notebook that exits with a value."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route("POST", f"{_ROOT}/submit", source=f"{_SDK}.submit; kb/jobs/jobs-idempotency; dbt-databricks#1009")
    def submit(self, call: Call) -> Any:
        """Begin a run, or return that of the same idempotency token, ended or not."""
        tasks = call.get("tasks") or []
        if len(tasks) != 1:
            raise invalid("Exactly one task is expected in tasks.")
        self._check_environment(call, tasks[0])
        path = (tasks[0].get("notebook_task") or {}).get("notebook_path")
        error = None
        if path is not None and self.workspace.notebooks.find(call.principal, path) is None:
            error = (
                f'Unable to access the notebook "{path}". Either it does not exist, or the identity used to run this '
                f"job, {call.principal.name}, lacks the required permissions."
            )
        return {"run_id": self.workspace.runs.submit(call.principal.name, dict(call.arguments), error).run_id}

    def _check_environment(self, call: Call, task: dict[str, Any]) -> None:
        key, kinds = task.get("environment_key"), [kind for kind in _KINDS if task.get(kind)]
        if len(kinds) != 1 or not task.get("task_key"):
            raise invalid("A task needs a task_key and exactly one kind of work.")
        known = {item.get("environment_key"): item.get("spec") or {} for item in call.get("environments") or []}
        if kinds == ["notebook_task"]:
            if key and not self.workspace.settings.notebook_environments:
                raise invalid(
                    f"A task environment can not be provided for notebook task {task['task_key']}. Please use the "
                    "%pip magic command to install notebook-scoped Python libraries and Python wheel packages"
                )
        elif not key:
            raise invalid(
                f"An environment is required for serverless task {task['task_key']}. Please define one using "
                "`environments` and `environment_key`."
            )
        if key and key not in known:
            raise invalid(f"Environment key {key} of task {task['task_key']} is not defined in environments.")
        if key and not (known[key].get("environment_version") or known[key].get("base_environment")):
            raise invalid("Either environment_version or base_environment needs to be provided.")

    @route("GET", f"{_ROOT}/get", source=f"{_SDK}.get_run")
    def get(self, call: Call) -> Any:
        """Return a run; each look finds it in its next state."""
        run = self.workspace.runs.find(call.principal, call.need("run_id"))
        with self.workspace.runs.lock:
            answer = self._described(run)
            run.advance()
        return answer

    @route("GET", f"{_ROOT}/get-output", source=f"{_SDK}.get_run_output")
    def get_output(self, call: Call) -> Any:
        """Return what the notebook of a task's run exited with, or the task's error."""
        number = call.need("run_id")
        run = self.workspace.runs.find(call.principal, number)
        if int(number) != run.task_run_id:
            raise invalid(
                "Retrieving the output of runs with multiple tasks is not supported. Please retrieve the output of "
                "each individual task run instead."
            )
        output = present(result=run.result, truncated=False if run.result else None)
        answer = {"metadata": self._described(run)["tasks"][0], "notebook_output": output}
        failed = run.is_terminal and run.result_state != "SUCCESS"
        return answer | present(error=run.error if failed else None, error_trace=run.plan.error_trace)

    @route("POST", f"{_ROOT}/cancel", source=f"{_SDK}.cancel_run")
    def cancel(self, call: Call) -> Any:
        """Cancel a run; one that has ended stays as it is."""
        run = self.workspace.runs.find(call.principal, call.need("run_id"), "cancel")
        with self.workspace.runs.lock:
            if not run.is_terminal:
                run.is_cancelled = True
                run.finish()
        return {}

    def _described(self, run: Run) -> dict[str, Any]:
        state = present(
            life_cycle_state=run.life_cycle_state,
            result_state=run.result_state,
            state_message=run.message,
        ) | {"user_cancelled_or_timedout": run.result_state in ("CANCELED", "TIMEDOUT")}
        times = present(start_time=run.created_at, end_time=run.ended_at)
        page = f"{self.workspace.url}/?o={self.workspace.settings.workspace_id}#job/0/run/{run.run_id}"
        task = {**run.task, **times, "run_id": run.task_run_id, "attempt_number": 0, "state": state}
        return {
            "run_id": run.run_id,
            "job_id": 0,
            "creator_user_name": run.owner,
            "run_name": run.spec.get("run_name") or "Untitled",
            "run_type": "SUBMIT_RUN",
            "run_page_url": page,
            "state": state,
            "tasks": [task | {"run_page_url": page}],
            **times,
        }
