"""Every error of every operator and sensor, in the worker and in the triggerer, names the connection that was used."""

from __future__ import annotations

import asyncio
import re

import pytest
import tenacity
from support.contexts import context
from support.databricks import connection_json
from support.databricks_tasks import TASK_NAMES, Scene, defined
from support.models import save_model

from airflow_uc_models.compat import AirflowException, AirflowFailException
from airflow_uc_models.conditions import NewRegisteredModel
from airflow_uc_models.exceptions import RegistryUnavailableError, UCModelsError
from airflow_uc_models.operators import CopyModelVersionOperator, RegisterModelOperator
from airflow_uc_models.triggers import ConditionTrigger
from scripts.privileges import ROWS

# It does not talk to a registry.
TASKS = TASK_NAMES - {"MarkModelVersionsHandledOperator"}
BY_TASK = {row.task: row for row in ROWS}
ANSWERS = (401, 403, 404, 500, "unreachable")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("airflow_uc_models.hooks.transport._backoff", tenacity.wait_fixed(0.01))


@pytest.fixture
def refused(workspace, monkeypatch, model, tmp_path):
    """Run a task on a workspace that answers everything alike, or not at all, and return its error."""

    def refused(task, answer, number=0, **options):
        extra = {"max_retry_seconds": 0.05, "timeout": 1}
        monkeypatch.setenv("AIRFLOW_CONN_PROD", connection_json(workspace, extra=extra))
        scene = Scene(workspace, number, BY_TASK[task].case, model, tmp_path)
        if answer == "unreachable":
            monkeypatch.setenv("AIRFLOW_CONN_PROD", connection_json(workspace, port=9, extra=extra))
        else:
            workspace.faults.add(count=None, status=answer)
        made = defined(task, scene, registry_conn_id="prod", **options)
        try:
            made.execute(context(task=made))
        except (UCModelsError, AirflowException) as error:
            return error
        finally:
            workspace.faults.clear()
        raise AssertionError(f"{task} succeeded")

    return refused


def names(conn_id, error):
    """Whether an error names a connection, within a sentence or in one of its own."""
    return re.search(rf"connection:? '{conn_id}'", str(error), re.IGNORECASE) is not None


def test_every_task_is_tried() -> None:
    assert set(BY_TASK) == TASKS


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_task_names_its_connection(refused, answer):
    wrong = {}
    for number, task in enumerate(sorted(TASKS)):
        options = {"timeout": 0, "poll_interval": 0.01} if task.endswith("Sensor") else {}
        error = refused(task, answer, number, **options)
        passes = answer in (500, "unreachable") and not options
        if not isinstance(error, RegistryUnavailableError if passes else AirflowException) or not names("prod", error):
            wrong[task] = repr(error)
    assert not wrong


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_triggerer_names_it_too(workspace, monkeypatch, answer):
    port = 9 if answer == "unreachable" else workspace.port
    extra = {"max_retry_seconds": 0.05, "timeout": 1}
    monkeypatch.setenv("AIRFLOW_CONN_PROD", connection_json(workspace, port=port, extra=extra))
    if port == workspace.port:
        workspace.faults.add(count=None, status=answer)
    condition = NewRegisteredModel(model_name="a.b.c", schema=None).to_json()
    trigger = ConditionTrigger(condition=condition, registry_conn_id="prod", poll_interval=0.01, deadline=0)

    async def event():
        return (await anext(trigger.run())).payload

    assert names("prod", asyncio.run(event())["message"])


def test_of_two_connections_the_right_one_is_named_with_its_role(workspace, connection, proxy, monkeypatch, model):
    monkeypatch.setenv("AIRFLOW_CONN_PROD", connection_json(workspace, token="dapi-not-known"))
    monkeypatch.setenv("AIRFLOW_CONN_DEV", proxy.connection_json())
    name = {"task_id": "task", "model_name": "a.b.c", "registry_conn_id": "dev"}
    copy = {**name, "version": 1, "destination_model_name": "a.b.d", "destination_conn_id": "prod"}
    with pytest.raises(AirflowFailException, match="destination connection 'prod'"):
        CopyModelVersionOperator(**copy).execute(context())
    copy |= {"registry_conn_id": "prod", "destination_conn_id": "dev"}
    with pytest.raises(AirflowFailException, match="source connection 'prod'"):
        CopyModelVersionOperator(**copy).execute(context())
    register = {**name, "model_uri": "runs:/abc/model", "tracking_conn_id": "prod"}
    with pytest.raises(AirflowFailException, match="tracking connection 'prod'"):
        RegisterModelOperator(**register).execute(context())


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_connection_that_is_missing_fails_once_and_says_what_to_do(workspace, model, tmp_path, task):
    scene = Scene(workspace, 0, BY_TASK[task].case, model, tmp_path)
    made = defined(task, scene, registry_conn_id="no_such_connection")
    with pytest.raises(AirflowFailException, match=r"There is no connection 'no_such_connection'\. Create it"):
        made.execute(context(task=made))


def test_a_second_connection_that_is_missing_is_named(connection, model):
    copy = CopyModelVersionOperator(
        task_id="task",
        model_name="a.b.c",
        version=1,
        destination_model_name="a.b.d",
        registry_conn_id=connection,
        destination_conn_id="no_such_connection",
    )
    with pytest.raises(AirflowFailException, match="There is no destination connection 'no_such_connection'"):
        copy.execute(context())


def test_the_triggerer_tells_of_a_connection_that_is_missing() -> None:
    condition = NewRegisteredModel(model_name="a.b.c", schema=None).to_json()
    trigger = ConditionTrigger(condition=condition, registry_conn_id="no_such_connection")

    async def event():
        return (await anext(trigger.run())).payload

    told = asyncio.run(event())
    assert (told["outcome"], "There is no connection 'no_such_connection'" in told["message"]) == ("failed", True)
