"""Running a consumer of new versions: a Dag that lists what is pending, works on it and marks what succeeded."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_uc_models.operators.pending import mark_model_versions_handled, pending_model_versions
from support.dag_runs import Result
from support.sensing import Sense

PENDING, MARK = "pending_model_versions", "mark_model_versions_handled"


class Consumer(Sense):
    """Runs the Dag as often as asked; work on what is in ``failing`` fails, what succeeded is in ``handled``."""

    def __init__(self, runner, defaults):
        super().__init__(runner, defaults)
        self.failing = set()
        self.handled = []

    def sensor(self, pre_execute=None, mark=None, **options):
        @task(task_id="work")
        def work(version):
            item = version["name"], version["version"]
            if item in self.failing:
                raise ValueError(f"cannot handle {item}")
            self.handled.append(item)

        pending = pending_model_versions(pre_execute=pre_execute, **{**self.defaults, **options})
        mark_model_versions_handled(pending, work.expand(version=pending), **(mark or {}))

    def took(self, result):
        """The numbers of the versions that a run listed."""
        return [version["version"] for version in result.xcom(PENDING)]

    def mark_again(self, result, **options):
        """Run the marking task of a run once more, as after a clear, with all the run's work succeeded by now."""
        return self._again(result, MARK, options).task_state(MARK)

    def list_again(self, result, **options):
        """Run the listing task of a run once more, as after a clear, and return the numbers that it lists."""
        return self.took(self._again(result, PENDING, options))

    def _again(self, result, task_id, options):
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance, clear_task_instances
        from airflow.sdk.definitions.dag import _run_task
        from airflow.utils.session import create_session

        with DAG(self.runner.dag_id, schedule=None) as dag:
            self.sensor(**options)
        self._show_undated(True)
        with create_session() as session:
            tis = session.query(TaskInstance).filter_by(dag_id=dag.dag_id, run_id=result.dag_run.run_id)
            for ti in tis.filter_by(task_id="work"):  # dag.test() clears earlier runs without a logical date
                ti.state = "success"
            ti = session.get(TaskInstance, result.ti(task_id).id)
            clear_task_instances([ti], session, dag_run_state=False)
            ti = session.get(TaskInstance, result.ti(task_id).id)
            ti.state, ti.try_number = "scheduled", ti.try_number + 1
            session.commit()
            _run_task(ti=ti, task=dag.task_dict[task_id])
            session.expire_all()
            return Result(session.get(DagRun, result.dag_run.id))
