"""Dags that always listen: Airflow's scheduler makes a second run when the first has ended, and not only one."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_uc_models.operators import SetRegisteredModelAliasOperator

ROOT = Path(__file__).parents[2]


def end_of_run(dag, session):
    """Let the scheduler make a run, then end it as a success; return its logical date."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.state import DagRunState
    from sqlalchemy import select

    runs = select(DagRun).where(DagRun.dag_id == dag.dag_id)
    before = len(session.scalars(runs).all())
    SchedulerJobRunner(job=Job())._create_dag_runs([session.get(DagModel, dag.dag_id)], session)
    session.commit()
    made = session.scalars(runs.order_by(DagRun.id)).all()
    if len(made) == before:
        return None
    made[-1].state = DagRunState.SUCCESS
    session.commit()
    return made[-1].logical_date


@pytest.fixture
def two_runs(dag_runner):
    """The logical dates of the first two runs that the scheduler makes."""

    def schedule(dag):
        from airflow.utils.session import create_session

        dag_runner.sync(dag)
        with create_session() as session:
            dates = [end_of_run(dag, session)]
            dag_runner.sync(dag)  # the next parse of the file computes when the next run is due
            return [*dates, end_of_run(dag, session)]

    return schedule


def continuous_dags(load_dags, tmp_path):
    """Every Dag of README, docs/ and dags/ with this schedule."""
    from support.guides import PAGES, blocks

    for number, block in enumerate(block for page in PAGES for block in blocks(page.read_text(), "python")):
        if "DAG(" in block:
            (tmp_path / f"shown_{number}.py").write_text(block)
    bags = [load_dags(tmp_path), load_dags(ROOT / "dags")]
    assert [bag.import_errors for bag in bags] == [{}, {}]
    return [dag for bag in bags for dag in bag.dags.values() if dag.schedule == "@continuous"]


def test_those_that_are_shown_run_again_and_again(load_dags, two_runs, tmp_path):
    dags = continuous_dags(load_dags, tmp_path)
    assert {dag.dag_id for dag in dags} == {"promote", "example_new_version_sensor"}
    for dag in dags:
        first, second = two_runs(dag)
        assert first is not None
        assert second is not None
        assert first < second


@pytest.mark.skipif(version("apache-airflow") < "3.2", reason="Airflow 3.1 runs it again without a start_date, too")
def test_without_a_start_date_there_is_one_run(two_runs, request):
    """The reason for it; should Airflow change that, the advice in the README can go."""
    with DAG(re.sub(r"\W", "_", request.node.name), schedule="@continuous", max_active_runs=1) as dag:
        SetRegisteredModelAliasOperator(task_id="release", model_name="a.b.c", alias="Champion", version=1)
    first, second = two_runs(dag)
    assert first is not None
    assert second is None
