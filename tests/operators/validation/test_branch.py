"""BranchOnModelValidationOperator on a real MLflow server."""

from __future__ import annotations

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TaskGroup, task_group
from support.validation import NOT_WORSE, tags_of

from airflow_uc_models.operators import BranchOnModelValidationOperator


@pytest.fixture
def branch(dag_runner, connection, model_name):
    """Run a branch with the tasks promote and report, and after promote: done."""

    def run(version, **options):
        def define():
            gate = BranchOnModelValidationOperator(
                task_id="gate",
                **{
                    "model_name": model_name,
                    "version": version,
                    "policy": NOT_WORSE,
                    "registry_conn_id": connection,
                    "follow_if_approved": "promote",
                }
                | options,
            )
            with TaskGroup("group"):
                EmptyOperator(task_id="one") >> EmptyOperator(task_id="two")
            gate >> [
                EmptyOperator(task_id="promote"),
                EmptyOperator(task_id="report"),
                gate.dag.task_group_dict["group"],
            ]
            gate.dag.get_task("promote") >> EmptyOperator(task_id="done")

        return dag_runner.run(define)

    return run


def states(result):
    return {task: result.task_state(task) for task in ("gate", "promote", "report", "done", "group.one")}


ALL_SKIPPED = {"gate": "success", **dict.fromkeys(("promote", "report", "done", "group.one"), "skipped")}


@pytest.mark.parametrize(
    ("version", "options", "followed", "path"),
    [
        (2, {}, ["promote", "done"], ["promote"]),
        (2, {"follow_if_approved": ["promote", "report"]}, ["promote", "report", "done"], ["promote", "report"]),
        (2, {"follow_if_approved": "group", "follow_if_rejected": "promote"}, ["group.one"], ["group"]),
        (3, {}, [], []),
        (3, {"follow_if_rejected": []}, [], []),
        (3, {"follow_if_rejected": "report"}, ["report"], ["report"]),
        (3, {"follow_if_approved": ["promote", "report"], "follow_if_rejected": ["report"]}, ["report"], ["report"]),
        (3, {"follow_if_rejected": "{{ 'rep' }}ort"}, ["report"], ["report"]),
    ],
)
def test_branch(branch, measured, client, model_name, version, options, followed, path):
    measured(0.8, 0.9, 0.7)
    result = branch(version, **options)
    assert states(result) == ALL_SKIPPED | dict.fromkeys(followed, "success")
    assert result.xcom("gate") == path
    verdict = result.xcom("gate", key="verdict")
    assert verdict["approved"] is result.xcom("gate", key="approved") is (version == 2)
    assert verdict["reasons"]
    assert tags_of(client, model_name, version)["validation_status"] == verdict["validation_status"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"follow_if_approved": "typo"}, "follow_if_approved names 'typo', not directly downstream of 'gate'"),
        ({"follow_if_approved": "done"}, "'done', not directly downstream"),
        ({"follow_if_rejected": ["report", "gate"]}, "follow_if_rejected names 'gate'"),
        ({"follow_if_approved": []}, "the verdict is idle"),
        ({"follow_if_rejected": ["promote", "report"]}, "the verdict is idle"),
        ({"policy": {}}, "policy is empty"),
    ],
)
def test_a_branch_that_leads_nowhere_fails_before_any_call(branch, proxy, monkeypatch, options, message):
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    result = branch(1, registry_conn_id="through", **options)
    assert result.task_state("gate") == "failed"
    assert result.task_state("promote") == "upstream_failed"
    assert message in result.output
    assert proxy.take() == []


def test_a_mapped_branch_fails_before_any_call(dag_runner, proxy, monkeypatch, model_name):
    """Airflow would run both branches."""
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())

    def define():
        @task_group
        def each(version):
            gate = BranchOnModelValidationOperator(
                task_id="gate",
                model_name=model_name,
                version=version,
                policy=NOT_WORSE,
                registry_conn_id="through",
                follow_if_approved="each.promote",
            )
            gate >> EmptyOperator(task_id="promote")

        each.expand(version=[1])

    result = dag_runner.run(define)
    assert (result.ti("each.gate", 0).state, result.ti("each.promote", 0).state) == ("failed", "upstream_failed")
    assert "'each.gate' is mapped or in a mapped task group" in result.output
    assert proxy.take() == []


def test_the_operators_are_also_found_beside_the_one_that_only_validates():
    from airflow_uc_models.operators import ShortCircuitOnModelValidationOperator, validation

    assert validation.BranchOnModelValidationOperator is BranchOnModelValidationOperator
    assert validation.ShortCircuitOnModelValidationOperator is ShortCircuitOnModelValidationOperator
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        validation.Nothing  # noqa: B018


def test_what_a_branch_skipped_stays_skipped_when_it_is_cleared():
    """Airflow's scheduler looks up what a parent skipped only if the parent says that it skips."""
    from airflow.sdk import DAG
    from airflow.serialization import serialized_objects

    # DagSerialization since Airflow 3.2
    serialization = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    with DAG("cleared") as dag:
        gate = BranchOnModelValidationOperator(
            task_id="gate", model_name="a.b.c", version=1, policy=NOT_WORSE, follow_if_approved="promote"
        )
        gate >> EmptyOperator(task_id="promote")
    stored = serialization.from_dict(serialization.to_dict(dag))
    assert stored.get_task("gate").inherits_from_skipmixin
