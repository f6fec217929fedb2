"""Every version is taken up once: list what is pending, work on it, mark what succeeded."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from airflow.sdk import chain, task, task_group
from support.pending import MARK, PENDING, Consumer
from support.registry import make_versions
from support.sensing import add_version, set_status

from airflow_uc_models.compat import AirflowSkipException
from airflow_uc_models.operators.pending import (
    MarkModelVersionsHandledOperator,
    PendingModelVersionsOperator,
    handle_model_versions,
    mark_model_versions_handled,
    pending_model_versions,
)


@pytest.fixture
def consume(dag_runner, connection, model_name):
    return Consumer(dag_runner, {"scope": model_name, "registry_conn_id": connection})


def listed(result, task_id=PENDING):
    return [(version["name"], version["version"]) for version in result.xcom(task_id)]


@pytest.mark.parametrize("scope", ["{schema}", "{schema}.*"])
def test_a_burst_of_versions_of_several_models(consume, mlflow_server, scope):
    schema = f"dev.s{uuid.uuid4().hex[:12]}"
    names = [f"{schema}.{model}" for model in "abc"]
    counts = dict(zip(names, (20, 5, 25) if scope == "{schema}" else (2, 1, 3), strict=True))
    clients = {name: make_versions(mlflow_server, name, count) for name, count in counts.items()}
    make_versions(mlflow_server, f"{schema}2.other", 1)
    everything = {(name, number) for name, count in counts.items() for number in range(1, count + 1)}
    consume.failing = {(names[0], 2), (names[2], 1), (names[2], 3)}

    first = consume(scope=scope.format(schema=schema))
    assert first.state == "failed"
    assert first.task_state(MARK) == "failed"
    assert len(listed(first)) == len(everything)
    assert set(listed(first)) == everything
    created = [version["created_at"] for version in first.xcom(PENDING)]
    assert created == sorted(created)
    assert f"3 of {len(everything)} versions were not handled; they stay pending: {names[0]}/2, " in first.output

    add_version(clients[names[1]], names[1])
    again, consume.failing = consume.failing, set()
    second = consume(scope=scope.format(schema=schema))
    assert second.state == "success"
    new = (names[1], counts[names[1]] + 1)
    assert set(listed(second)) == {*again, new}
    assert second.xcom(MARK) == [f"models:/{name}/{number}" for name, number in listed(second)]
    assert sorted(consume.handled) == sorted([*everything, new])
    assert listed(consume(scope=scope.format(schema=schema))) == []


def test_what_is_listed_is_whole(consume, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    client.set_registered_model_alias(model_name, "Champion", 2)
    client.set_model_version_tag(model_name, "2", "team", "fraud")
    version = consume().xcom(PENDING)[1]
    assert version["uri"] == f"models:/{model_name}/2"
    assert (version["aliases"], version["tags"]) == (["Champion"], {"team": "fraud"})


def test_a_version_that_is_ready_late_is_found_although_newer_ones_were_handled(consume, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "PENDING_REGISTRATION")
    first = consume()
    assert consume.took(first) == [1, 3]
    assert f"; not READY yet: {model_name}/2, on connection " in first.output
    assert consume.took(consume()) == []
    set_status(mlflow_server, model_name, 2, "READY")
    assert consume.took(consume()) == [2]
    assert consume.took(consume()) == []


def test_failed_registrations_are_told_and_left_out(consume, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "FAILED_REGISTRATION")
    first = consume()
    assert first.state == "success"
    assert consume.took(first) == [1, 3]
    assert f"1 versions failed to register: {model_name}/2" in first.output


def test_nothing_pending(consume, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 0)
    result = consume()
    assert result.state == "success"
    assert result.task_state("work") == "skipped"
    assert result.task_state(MARK) == "success"
    assert result.xcom(MARK) == []


def test_limit_takes_the_oldest(consume, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 5)
    first = consume(limit="{{ 2 }}")
    assert consume.took(first) == [1, 2]
    assert "3 more versions are pending" in first.output
    second = consume(limit=3)
    assert consume.took(second) == [3, 4, 5]
    assert "more versions are pending" not in second.output


def test_never_more_than_airflow_can_map(consume, mlflow_server, model_name, monkeypatch):
    make_versions(mlflow_server, model_name, 5)
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
    first = consume()
    assert first.state == "success"
    assert consume.took(first) == [1, 2]
    assert consume.took(consume(limit=5)) == [3, 4]


def test_created_after_leaves_history_out(consume, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 1, "READY", age=timedelta(days=3))
    set_status(mlflow_server, model_name, 2, "READY", age=timedelta(days=1))
    after = "{{ (dag_run.run_after - macros.timedelta(days=2)).isoformat() }}"
    assert consume.took(consume(created_after=after)) == [2, 3]
    assert consume.took(consume(created_after=after)) == []
    assert consume.took(consume()) == [1]


def test_tags(consume, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 3)
    client.set_model_version_tag(model_name, "3", "team", "fraud")
    assert consume.took(consume(tags={"team": "{{ 'fraud' }}"})) == [3]
    client.set_model_version_tag(model_name, "1", "team", "fraud")
    assert consume.took(consume(tags={"team": "fraud"})) == [1]


def test_what_is_handled_is_not_listed_from_the_server(consume, mlflow_server, model_name, monkeypatch, proxy):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_TEST", proxy.connection_json())
    client = make_versions(mlflow_server, model_name, 4)
    set_status(mlflow_server, model_name, 2, "FAILED_REGISTRATION")
    client.delete_model_version(model_name, "3")
    set_status(mlflow_server, model_name, 4, "READY", age=timedelta(days=2))
    assert consume.took(consume()) == [4, 1]
    proxy.requests.clear()
    add_version(client, model_name)
    assert consume.took(consume()) == [5]
    searches = [dict(r.query)["filter"] for r in proxy.requests if r.path.endswith("model-versions/search")]
    assert searches == [f"name='{model_name}' and version_number > 4"]


def test_a_gap_may_be_a_version_that_the_server_shows_late(consume, mlflow_server, model_name, monkeypatch, proxy):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_TEST", proxy.connection_json())
    client = make_versions(mlflow_server, model_name, 3)
    client.delete_model_version(model_name, "2")
    assert consume.took(consume()) == [1, 3]
    proxy.requests.clear()
    assert consume.took(consume()) == []
    searches = [dict(r.query)["filter"] for r in proxy.requests if r.path.endswith("model-versions/search")]
    assert searches == [f"name='{model_name}' and version_number > 1"]


def test_a_model_that_is_made_again_begins_anew(consume, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    assert consume.took(consume()) == [1, 2]
    client.delete_registered_model(model_name)
    make_again(mlflow_server, model_name)
    assert consume.took(consume()) == [1]
    assert consume.took(consume()) == []


def make_again(server, name):
    client = server.client()
    client.create_registered_model(name)
    add_version(client, name)


def test_consumers_have_watermarks_of_their_own(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)

    def define():
        for group, options in (("a", {}), ("b", {"limit": 1})):
            handle_model_versions(
                task(task_id="work")(lambda version: version["version"]),
                model_name,
                group_id=group,
                registry_conn_id=connection,
                **options,
            )

    def took(result):
        return [[v["version"] for v in result.xcom(f"{group}.{PENDING}")] for group in "ab"]

    first = dag_runner.run(define)
    assert first.state == "success"
    assert took(first) == [[1, 2], [1]]
    assert took(dag_runner.run(define)) == [[], [2]]


def test_work_in_a_mapped_task_group(dag_runner, connection, mlflow_server, model_name):
    """A version whose first step fails is not handled, though its last one did not fail itself."""
    make_versions(mlflow_server, model_name, 3)

    def define():
        @task
        def first(version):
            assert version["version"] != 2
            return version["version"]

        @task
        def last(number):
            return None if number == 1 else number

        @task_group
        def work(version):
            return last(first(version))

        @task_group
        def outer():
            pending = pending_model_versions(model_name, registry_conn_id=connection)
            mark_model_versions_handled(pending, work.expand(version=pending))

        outer()

    result = dag_runner.run(define)
    assert result.state == "failed"
    assert f"1 of 3 versions were not handled; they stay pending: {model_name}/2" in result.output
    assert listed(dag_runner.run(define), f"outer.{PENDING}") == [(model_name, 2)]


@pytest.mark.parametrize("skipped_ok", [False, True])
def test_skipped_work(dag_runner, connection, mlflow_server, model_name, skipped_ok):
    make_versions(mlflow_server, model_name, 2)

    def define():
        @task
        def work(version):
            if version["version"] == 2:
                raise AirflowSkipException

        pending = pending_model_versions(model_name, registry_conn_id=connection)
        mark_model_versions_handled(pending, work.expand(version=pending), skipped_ok=skipped_ok)

    assert dag_runner.run(define).state == ("success" if skipped_ok else "failed")
    assert listed(dag_runner.run(define)) == ([] if skipped_ok else [(model_name, 2)])


def test_several_tasks_must_all_succeed(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 3)

    def define():
        pending = pending_model_versions(model_name, registry_conn_id=connection)
        works = [task(task_id=f"not_{bad}")(failing_on(bad)).expand(version=pending) for bad in (1, 3)]
        mark_model_versions_handled(pending, works)

    dag_runner.run(define)
    assert [number for _, number in listed(dag_runner.run(define))] == [1, 3]


def failing_on(bad):
    def work(version):
        assert version["version"] != bad

    return work


@pytest.mark.parametrize("fails", [True, False])
def test_without_handled_all_or_nothing(dag_runner, connection, mlflow_server, model_name, fails):
    make_versions(mlflow_server, model_name, 2)

    def define():
        @task
        def work(versions):
            assert not (fails and versions)

        pending = PendingModelVersionsOperator(task_id="pending", scope=model_name, registry_conn_id=connection)
        chain(work(pending.output), MarkModelVersionsHandledOperator(task_id="mark", pending=pending.output))

    first = dag_runner.run(define)
    assert first.task_state("mark") == ("upstream_failed" if fails else "success")
    assert len(listed(dag_runner.run(define), "pending")) == (2 if fails else 0)


def test_work_that_is_not_mapped_handles_all_or_nothing(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)

    def define(fails):
        @task
        def work(versions):
            assert not fails

        pending = pending_model_versions(model_name, registry_conn_id=connection)
        mark_model_versions_handled(pending, work(pending))

    first = dag_runner.run(lambda: define(True))
    assert first.task_state(MARK) == "failed"
    assert "2 of 2 versions were not handled" in first.output
    assert len(listed(dag_runner.run(lambda: define(False)))) == 2
    assert listed(dag_runner.run(lambda: define(False))) == []
