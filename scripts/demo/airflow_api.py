"""What the demo asks of Airflow's REST API."""

from __future__ import annotations

from typing import Any

import httpx
import tenacity

from scripts.demo.errors import DemoError


class AirflowApi:
    """A signed-in client of one Airflow.

    A request that gets no answer, or that Airflow could not work on just now, is repeated: on a busy machine that
    happens. All that is asked here may be asked twice; a run is known by its id.

    :param url: address of the API server
    :param patience: seconds after which an error is not repeated any more
    """

    def __init__(self, url: str, *, patience: float = 180.0) -> None:
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._patience = patience

    def sign_in(self, user: str, password: str) -> None:
        """Get a token for the calls that follow."""
        token = self._answer("POST", "/auth/token", json={"username": user, "password": password})["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def get(self, path: str, **request: Any) -> Any:
        """Return what Airflow answers to a question that has no method of its own here."""
        return self._answer("GET", path, **request)

    def dag_ids(self) -> set[str]:
        """Return the Dags that Airflow has loaded."""
        return {dag["dag_id"] for dag in self._answer("GET", "/api/v2/dags")["dags"]}

    def import_errors(self) -> list[str]:
        """Return the errors of Dag files that could not be loaded."""
        return [e["stack_trace"] for e in self._answer("GET", "/api/v2/importErrors")["import_errors"]]

    def trigger(self, dag_id: str, run_id: str, params: dict[str, Any]) -> None:
        """Start a run of a Dag."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": params}
        path = f"/api/v2/dags/{dag_id}/dagRuns"
        try:
            self._answer("POST", path, json=body)
        except _ConflictError:
            # An earlier try has started it; only its answer was lost.
            self.run_state(dag_id, run_id)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self._answer("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def run_ids(self, dag_id: str) -> list[str]:
        """Return the runs of a Dag, newest first."""
        query = {"order_by": "-run_after", "limit": 20}
        return [
            r["dag_run_id"] for r in self._answer("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=query)["dag_runs"]
        ]

    def has_run(self, dag_id: str, run_id: str) -> bool:
        """Return whether there is such a run."""
        return run_id in self.run_ids(dag_id)

    def waits_for_approval(self, dag_id: str, run_id: str) -> bool:
        """Return whether a run has asked a person and has no answer yet."""
        asked = self._answer("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/hitlDetails")["hitl_details"]
        return any(not detail["response_received"] for detail in asked)

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        found: list[dict[str, Any]] = self._answer("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")[
            "task_instances"
        ]
        return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        """Return what a task left under a key; None if it left nothing."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        try:
            return self._answer("GET", path, params={"deserialize": False, "stringify": False})["value"]
        except _NotFoundError:
            return None

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> list[str]:
        """Return a task's log, a line per event and per line of a traceback."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        answer = self._answer("GET", path, params={"full_content": True}, headers={"Accept": "application/json"})
        return [line for event in answer["content"] for line in _lines(event)]

    def _answer(self, method: str, path: str, **request: Any) -> Any:
        repeated = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PassingError),
            wait=tenacity.wait_exponential(multiplier=0.2, max=2.0),
            stop=tenacity.stop_after_delay(self._patience),
            reraise=True,
        )
        return repeated(self._ask, method, path, **request)

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            answer = self._client.request(method, path, **request)
        except httpx.TransportError as error:
            raise _PassingError(f"Airflow did not answer {method} {path}: {error!r}") from error
        if answer.is_error:
            error_class = _ERRORS.get(answer.status_code, DemoError)
            raise error_class(f"Airflow answered {method} {path} with {answer.status_code}: {answer.text[:500]}")
        return answer.json()


class _PassingError(DemoError):
    """A later try may get an answer. Airflow answers 500 when its database is locked or a connection to it is lost."""


class _NotFoundError(DemoError):
    """There is no such thing."""


class _ConflictError(DemoError):
    """There is such a thing already."""


_ERRORS = {
    httpx.codes.NOT_FOUND: _NotFoundError,
    httpx.codes.CONFLICT: _ConflictError,
    **dict.fromkeys((429, 500, 502, 503, 504), _PassingError),
}


def _lines(event: dict[str, Any] | str) -> list[str]:
    if isinstance(event, str):
        return event.splitlines()
    lines = str(event.get("event", "")).splitlines()
    for error in event.get("error_detail") or []:
        lines.append(f"{error.get('exc_type')}: {error.get('exc_value')}")
    return lines
