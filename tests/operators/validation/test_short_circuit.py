"""ShortCircuitOnModelValidationOperator on a real MLflow server."""

from __future__ import annotations

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import task_group
from support.validation import NOT_WORSE, tags_of

from airflow_uc_models.operators import ShortCircuitOnModelValidationOperator


@pytest.fixture
def gate(dag_runner, connection, model_name):
    """Run gate >> promote >> notify, where notify would run whatever became of promote, and a teardown."""

    def run(version, **options):
        def define():
            first = ShortCircuitOnModelValidationOperator(
                task_id="gate",
                model_name=model_name,
                version=version,
                policy=NOT_WORSE,
                registry_conn_id=connection,
                **options,
            )
            set_up = EmptyOperator(task_id="set_up")
            promote = EmptyOperator(task_id="promote")
            notify = EmptyOperator(task_id="notify", trigger_rule="all_done")
            clean = EmptyOperator(task_id="clean").as_teardown(setups=set_up)
            set_up >> first >> promote >> notify >> clean

        return dag_runner.run(define)

    return run


@pytest.mark.parametrize(
    ("version", "options", "states"),
    [
        (2, {}, ["success", "success", "success"]),
        (3, {}, ["skipped", "skipped", "success"]),
        (3, {"ignore_downstream_trigger_rules": False}, ["skipped", "success", "success"]),
    ],
)
def test_a_rejection_skips_what_is_downstream(gate, measured, client, model_name, version, options, states):
    measured(0.8, 0.9, 0.7)
    result = gate(version, **options)
    assert result.task_state("gate") == "success"
    assert [result.task_state(task) for task in ("promote", "notify", "clean")] == states
    approved = version == 2
    verdict = result.xcom("gate")
    assert verdict == result.xcom("gate", key="verdict")
    assert verdict["approved"] is result.xcom("gate", key="approved") is approved
    assert tags_of(client, model_name, version)["validation_status"] == verdict["validation_status"]


def test_of_many_a_rejected_one_does_not_pass(dag_runner, connection, measured, model_name):
    """Airflow itself skips nothing downstream of one of many."""
    measured(0.8, 0.9, 0.7)
    common = {"model_name": model_name, "policy": NOT_WORSE, "registry_conn_id": connection}

    def define():
        @task_group
        def each(version):
            gate = ShortCircuitOnModelValidationOperator(task_id="gate", version=version, **common)
            gate >> EmptyOperator(task_id="promote")

        each.expand(version=[2, 3])
        all_of_them = ShortCircuitOnModelValidationOperator.partial(task_id="gate", **common).expand(version=[2, 3])
        all_of_them >> EmptyOperator(task_id="promote")

    result = dag_runner.run(define)
    found = [str(result.ti(f"each.{step}", index).state) for index in (0, 1) for step in ("gate", "promote")]
    assert (result.state, found) == ("success", ["success", "success", "skipped", "skipped"])
    assert (result.ti("gate", 1).state, result.task_state("promote")) == ("skipped", "skipped")
    assert result.xcom("each.gate", map_index=1)["approved"] is False


def test_airflow_knows_that_it_skips():
    assert ShortCircuitOnModelValidationOperator.inherits_from_skipmixin
