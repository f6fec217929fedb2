"""After a demo: every example Dag, started as a person would who changes nothing in the form."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import airflow.sdk

from scripts.demo.airflow_api import AirflowApi
from scripts.demo.story import APPROVAL_DAG, APPROVAL_RUN, SENSOR_DAG

RUN = "with_defaults"
APPROVE = "promote_model.approve"
# They wait for a person, the last one by a tag that the person sets.
WAITING = {
    "example_manual_approval": APPROVE,
    "example_manual_approval_deployment_job": "ask",
    "example_manual_approval_by_tag": "wait_for_approval",
}
# What is rolled back must have been promoted; it is the one that asks for something, the reason.
_LAST = "example_rollback"
# Before Airflow 3.3 the two Dags with a run for each version are not there.
RELAYS = hasattr(airflow.sdk, "PartitionedAtRuntime")


def signed_in(output: str) -> AirflowApi:
    """A client of the Airflow of which a demo says where it is."""
    found = re.search(r"Airflow +(http://\S+) +user: (\S+) +password: (\S+)", output)
    assert found, output
    api = AirflowApi(found[1])
    api.sign_in(found[2], found[3])
    return api


def approve(api: AirflowApi, run_id: str) -> str:
    """Approve what a run of the approval's Dag asks, and return the state in which the run ends."""
    path = f"/api/v2/dags/{APPROVAL_DAG}/dagRuns/{run_id}/taskInstances/{APPROVE}/-1/hitlDetails"
    api._answer("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})
    return ended(api, APPROVAL_DAG, run_id)


def run_all_with_defaults(api: AirflowApi) -> dict[str, str]:
    """Start each example Dag, and return how it ends; one that waits for approval is as it should be."""
    assert approve(api, APPROVAL_RUN) == "success"
    dag_ids = api.dag_ids() - {SENSOR_DAG}  # it is always listening, with its defaults
    assert len(dag_ids) == (12 if RELAYS else 10), dag_ids
    for dag_id in sorted(dag_ids):
        api._answer("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})
        if dag_id != _LAST:
            api.trigger(dag_id, RUN, {})
    states = {dag_id: ended(api, dag_id, RUN) for dag_id in sorted(dag_ids - {_LAST, *WAITING})}
    api.trigger(_LAST, RUN, {"reason": "Somebody has to say why."})
    states[_LAST] = ended(api, _LAST, RUN)
    for dag_id, task_id in WAITING.items():
        until(lambda d=dag_id, t=task_id: state_of(api, d, t) in {"deferred", "awaiting_input"}, api, dag_id)
        states[dag_id] = "waiting"
    return states


def state_of(api: AirflowApi, dag_id: str, task_id: str) -> str | None:
    return next((t["state"] for t in api.tasks(dag_id, RUN) if t["task_id"] == task_id), None)


def ended(api: AirflowApi, dag_id: str, run_id: str) -> str:
    until(lambda: api.run_state(dag_id, run_id) in {"success", "failed"}, api, dag_id, run_id)
    return api.run_state(dag_id, run_id)


def until(condition: Callable[[], Any], api: AirflowApi, dag_id: str, run_id: str = RUN) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, (dag_id, api.tasks(dag_id, run_id))
        time.sleep(0.5)


def why(api: AirflowApi, states: dict[str, str]) -> str:
    """The logs of what has failed."""
    lines = [str(states)]
    for dag_id in (d for d, state in states.items() if state == "failed"):
        for task in api.tasks(dag_id, RUN):
            if task["state"] in {"failed", "up_for_retry"}:
                lines += [dag_id, task["task_id"], *api.log(dag_id, RUN, task["task_id"], task["try_number"])[-30:]]
    return "\n".join(lines)
