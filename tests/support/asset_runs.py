"""Dag runs that assets start: Airflow's scheduler makes them, dag.test() runs their tasks."""

from __future__ import annotations

import uuid
from typing import Any
from unittest import mock

from airflow.sdk import DAG
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from support.dag_runs import DagRunner, Result


class QuietTrigger(BaseEventTrigger):
    """A watcher's trigger that never runs: tests submit its events themselves."""

    def __init__(self, watched: str) -> None:
        super().__init__()
        self.watched = watched

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {"watched": self.watched}

    async def run(self):
        return
        yield


class Listening:
    """A Dag that waits for assets."""

    def __init__(self, runner: DagRunner, schedule: Any, define: Any, **dag_options: Any) -> None:
        with DAG(
            f"listens_{uuid.uuid4().hex}", schedule=schedule, is_paused_upon_creation=False, **dag_options
        ) as self.dag:
            define()
        runner.sync(self.dag)
        assert self.scheduled() == []

    def scheduled(self) -> list[Any]:
        """Let the scheduler make the runs that are due, and return them, oldest first."""
        from airflow.jobs.job import Job
        from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from airflow.utils.sqlalchemy import prohibit_commit

        with create_session() as session:
            before = {run.id for run in session.query(DagRun).filter_by(dag_id=self.dag.dag_id)}
        scheduler = SchedulerJobRunner(Job())
        with create_session() as session, prohibit_commit(session) as guard:
            scheduler._create_dagruns_for_dags(guard, session)
        with create_session() as session:
            runs = session.query(DagRun).filter_by(dag_id=self.dag.dag_id).order_by(DagRun.id)
            return [run.run_id for run in runs if run.id not in before]

    def run(self) -> Result:
        """Run the tasks of the one run that is due."""
        [run_id] = self.scheduled()
        return run_tasks(self.dag, run_id)


def run_tasks(dag: DAG, run_id: str) -> Result:
    """Run the tasks of a run that exists, in place of one that dag.test() would make."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.state import DagRunState

    def take(*, session: Any, dag: Any, **_: Any) -> Any:
        run = session.query(DagRun).filter_by(dag_id=dag.dag_id, run_id=run_id).one()
        run.dag = dag
        run.set_state(DagRunState.RUNNING)
        session.flush()
        return run

    with mock.patch("airflow.models.dagrun.get_or_create_dagrun", take):
        return Result(dag.test())


def fire(payload: Any, watched: str) -> None:
    """Let a watcher's trigger fire, as the triggerer stores it."""
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session

    with create_session() as session:
        triggers = session.query(Trigger).filter_by(classpath=QuietTrigger(watched).serialize()[0])
        [trigger] = [trigger for trigger in triggers if trigger.kwargs["watched"] == watched]
        Trigger.submit_event(trigger.id, TriggerEvent(payload), session=session)


def told() -> Any:
    """A task that returns the events which started its run."""
    from airflow.sdk import task

    from airflow_uc_models.triggering_events import model_events

    @task
    def told(**context: Any) -> list[dict[str, Any]]:
        return [event.to_json() for event in model_events(context)]

    return told()
