"""One-time runs and SQL statements of a Databricks workspace, through the official provider's hook and triggers."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any

from airflow_uc_models.compat import AirflowException
from airflow_uc_models.exceptions import PredictionError, RegistryUnavailableError, UCModelsError
from airflow_uc_models.hooks.auth import USER_AGENT, with_token_login
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.hooks.workspace import workspace_auth
from airflow_uc_models.registry.answers import error_of
from airflow_uc_models.registry.call import Request, Response

if TYPE_CHECKING:
    from airflow.providers.databricks.hooks.databricks import DatabricksHook, RunState, SQLStatementState
    from airflow.triggers.base import BaseTrigger

# A minute in all.
_RETRY_LIMIT, _RETRY_DELAY = 7, 1


class WorkspaceJobs:
    """Starts work in a workspace, waits for it and stops it.

    :param endpoint: of a connection of type ``databricks``; ConnectionConfigError for others
    :param poll_interval: seconds between two looks
    """

    def __init__(self, endpoint: Endpoint, poll_interval: float) -> None:
        workspace_auth(endpoint)
        self._endpoint = endpoint
        self._poll_interval = poll_interval
        self._woken = Event()

    @cached_property
    def _hook(self) -> DatabricksHook:
        from airflow.providers.databricks.hooks.databricks import DatabricksHook

        timeout = max(1, round(self._endpoint.transport.timeout))
        hook = DatabricksHook(
            self._endpoint.conn_id, timeout_seconds=timeout, retry_limit=_RETRY_LIMIT, retry_delay=_RETRY_DELAY
        )
        # The provider's own asks Airflow for the metadata of all providers.
        hook.__dict__["user_agent_header"] = {"user-agent": USER_AGENT}
        hook.__dict__["databricks_conn"] = with_token_login(hook.databricks_conn)
        return hook

    # -- runs

    def submit_run(self, spec: dict[str, Any]) -> int:
        """Begin a run and return its id; repeated by itself, so ``spec`` has an idempotency token."""
        with self._errors("submit a run", "access to serverless compute"):
            return int(self._hook.submit_run(spec))

    def run(self, run_id: int) -> dict[str, Any]:
        """Return a run as the workspace describes it."""
        with self._errors(f"look at run {run_id}", "CAN VIEW on the run"):
            found: dict[str, Any] = self._hook.get_run(run_id)
        return found

    def run_output(self, task_run_id: int) -> dict[str, Any]:
        """Return the output of a task of a run."""
        with self._errors(f"read the output of run {task_run_id}", "CAN VIEW on the run"):
            found: dict[str, Any] = self._hook.get_run_output(task_run_id)
        return found

    def wait_for_run(self, run_id: int) -> dict[str, Any]:
        """Return the run when it has ended, well or not."""
        while not self.state_of(found := self.run(run_id)).is_terminal:
            self._pause()
        return found

    def run_trigger(self, run_id: int, run_page_url: str) -> BaseTrigger:
        """Return the trigger that tells of the run's end."""
        from airflow_uc_models.hooks.workspace_triggers import RunTrigger

        return RunTrigger(
            run_id,
            self._endpoint.conn_id,
            polling_period_seconds=self._poll_interval,  # type: ignore[arg-type]  # it sleeps so long
            run_page_url=run_page_url,
            retry_limit=_RETRY_LIMIT,
            retry_delay=_RETRY_DELAY,
        )

    def cancel_run(self, run_id: int) -> None:
        """Ask for the end of a run, and stop waiting for the next look at it."""
        self._woken.set()
        with self._errors(f"cancel run {run_id}", "CAN MANAGE RUN on the run"):
            self._hook.cancel_run(run_id)

    @staticmethod
    def state_of(run: Mapping[str, Any]) -> RunState:
        """Return the state of a run."""
        from airflow.providers.databricks.hooks.databricks import RunState

        return RunState(**run["state"])

    # -- statements

    def send_statement(self, warehouse_id: str, statement: str) -> str:
        """Begin a SQL statement and return its id."""
        spec = {"warehouse_id": warehouse_id, "statement": statement, "wait_timeout": "0s"}
        with self._errors(f"send a statement to SQL warehouse {warehouse_id}", f"CAN USE on warehouse {warehouse_id}"):
            return str(self._hook.post_sql_statement(spec))

    def wait_for_statement(self, statement_id: str, deadline: float = float("inf")) -> SQLStatementState:
        """Return the state of a statement when it has ended, well or not; it is cancelled at the deadline.

        :param deadline: seconds since 1970
        """
        while True:
            with self._errors(f"look at statement {statement_id}"):
                state = self._hook.get_sql_statement_state(statement_id)
            if state.is_terminal:
                return state
            if time.time() > deadline:
                self.cancel_statement(statement_id)
                raise PredictionError(f"Statement {statement_id} took too long; it was cancelled.")
            self._pause()

    @staticmethod
    def statement_state(told: str) -> SQLStatementState:
        """Return the state that the trigger's event tells."""
        from airflow.providers.databricks.hooks.databricks import SQLStatementState

        return SQLStatementState.from_json(told)

    def statement_trigger(self, statement_id: str, end_time: float) -> BaseTrigger:
        """Return the trigger that tells of a statement's end, or cancels it at a time."""
        from airflow_uc_models.hooks.workspace_triggers import StatementTrigger

        return StatementTrigger(
            statement_id,
            self._endpoint.conn_id,
            end_time,
            polling_period_seconds=self._poll_interval,  # type: ignore[arg-type]  # it sleeps so long
            retry_limit=_RETRY_LIMIT,
            retry_delay=_RETRY_DELAY,
        )

    def cancel_statement(self, statement_id: str) -> None:
        """Ask for the end of a statement, and stop waiting for the next look at it."""
        self._woken.set()
        with self._errors(f"cancel statement {statement_id}"):
            self._hook.cancel_sql_statement(statement_id)

    def _pause(self) -> None:
        self._woken.wait(self._poll_interval)
        self._woken.clear()

    @contextmanager
    def _errors(self, action: str, needs: str = "") -> Generator[None, None, None]:
        """Turn what the provider raises into this package's errors."""
        try:
            yield
        except (AirflowException, OSError) as error:  # the exceptions of requests are OSErrors
            raise _error_of(error, action, needs, self._endpoint).used(self._endpoint.connection_label) from None


def _error_of(error: Exception, action: str, needs: str, endpoint: Endpoint) -> UCModelsError:
    """Read status and answer out of the provider's message: it hands on nothing else."""
    found = re.fullmatch(r"Response: (.*), Status Code: (\d{3})", str(error), re.DOTALL)
    label = f"workspace at {endpoint.address}"
    if not found:
        return RegistryUnavailableError(f"Could not {action}: the {label} gave no usable answer: {str(error)[:1000]}")
    request = Request("POST", "", action=action, needs=needs)
    response = Response(int(found[2]), found[1], connection=endpoint.connection_label)
    return error_of(response, request, label)
