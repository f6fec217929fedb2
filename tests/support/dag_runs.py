"""Run operators through Airflow's own task runner, with a real metadata database, and read what they left there."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_BUNDLE = "tests-in-memory"


def init_airflow() -> None:
    from airflow.models.dagbundle import DagBundleModel
    from airflow.sdk.execution_time import supervisor
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    # Airflow 3.3 keeps it, too; before, each task gets one of its own, which takes seconds to make.
    supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)
    initdb()
    with create_session() as session:
        session.add(DagBundleModel(name=_BUNDLE))


@dataclass
class Result:
    """A finished Dag run."""

    dag_run: Any
    output: str = ""  # what the run logged, all tasks together

    @property
    def state(self) -> str:
        return str(getattr(self.dag_run.state, "value", self.dag_run.state))

    def ti(self, task_id: str, map_index: int = -1) -> Any:
        return next(
            ti for ti in self.dag_run.get_task_instances() if ti.task_id == task_id and ti.map_index == map_index
        )

    def task_state(self, task_id: str) -> str:
        state = self.ti(task_id).state
        return str(getattr(state, "value", state))

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            row = session.scalars(
                XComModel.get_many(
                    run_id=self.dag_run.run_id,
                    key=key,
                    task_ids=task_id,
                    dag_ids=self.dag_run.dag_id,
                    map_indexes=map_index,
                )
            ).first()
            return None if row is None else XComModel.deserialize_value(row)


class DagRunner:
    """Builds a Dag around what a test defines and runs it."""

    def __init__(self, test_name: str, capfd: Any, caplog: Any) -> None:
        self.capfd = capfd
        self.caplog = caplog
        self.dag_id = re.sub(r"\W+", "_", test_name)[:120] + "_" + uuid.uuid4().hex[:6]

    def run(self, define: Callable[[], Any], *, params: dict[str, Any] | None = None, **dag_options: Any) -> Result:
        """Define tasks inside a Dag, sync it to the database, run it once."""
        from airflow.sdk import DAG

        options: dict[str, Any] = {"default_args": {"retries": 0, "retry_delay": timedelta(0)}, "schedule": None}
        with DAG(self.dag_id, params=params, **{**options, **dag_options}) as dag:
            define()
        self.sync(dag)
        self.capfd.readouterr()
        self.caplog.clear()
        dag_run = dag.test()
        # Airflow's own loggers write to the terminal, those of modules go through the standard library.
        output = "".join([*self.capfd.readouterr(), self.caplog.text])
        print(output)
        return Result(dag_run, output)

    def sync(self, dag: Any) -> None:
        from airflow.dag_processing.collection import update_dag_parsing_results_in_db
        from airflow.sdk.execution_time import supervisor
        from airflow.serialization.serialized_objects import LazyDeserializedDAG
        from airflow.utils.session import create_session

        if supervisor.in_process_api_server.cache_info().currsize:  # it may know another Dag by this name
            supervisor.in_process_api_server().app.state.dag_bag._dags.clear()
        with create_session() as session:
            update_dag_parsing_results_in_db(
                _BUNDLE,
                None,
                [LazyDeserializedDAG.from_dag(dag)],
                {},
                None,
                set(),
                session,
            )
