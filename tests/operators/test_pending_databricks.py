"""Pending versions in Unity Catalog, on Databricks and on the open-source server."""

from __future__ import annotations

import pytest
from support.databricks import connection_json
from support.pending import MARK, PENDING, Consumer

NAME = "dev.ml_team.fraud"


@pytest.fixture
def consume(dag_runner, databricks, workspace):
    workspace.add_schema("dev.ml_team")
    return Consumer(dag_runner, {"scope": NAME, "registry_conn_id": databricks})


@pytest.fixture
def make(workspace):
    """Make a model with a version for each status."""
    space = workspace.workspace

    def made(name, *statuses, tags=()):
        if name not in space.state.models:
            space.catalog.create_model(space.admin, name)
        for status in statuses:
            version = space.catalog.create_version(
                space.admin, name, source="dbfs:/x", tags=[{"key": key, "value": value} for key, value in tags]
            )
            version.status = status

    return made


def set_status(workspace, number, status):
    workspace.workspace.state.models[NAME].versions[number].status = status


def test_late_and_failed_versions(consume, make, workspace):
    make(NAME, "READY", "PENDING_REGISTRATION", "FAILED_REGISTRATION", "READY")
    assert consume.took(consume()) == [1, 4]
    set_status(workspace, 2, "READY")
    make(NAME, "READY")
    assert consume.took(consume()) == [2, 5]
    assert consume.took(consume()) == []


def test_a_schema_in_upper_case(consume, make):
    for name in (NAME, "dev.ml_team.churn", "dev.ml_team_2.other"):
        make(name, "READY")
    result = consume(scope="DEV.ML_TEAM.*")
    assert sorted(version["name"] for version in result.xcom(PENDING)) == ["dev.ml_team.churn", NAME]
    assert result.state == "success"


def test_tags_and_aliases_are_read(consume, make, workspace):
    make(NAME, "READY", tags=[("team", "other")])
    make(NAME, "READY", "READY", tags=[("team", "fraud")])
    workspace.workspace.catalog.set_alias(workspace.workspace.admin, NAME, "Champion", 3)
    first = consume(tags={"team": "fraud"})
    assert consume.took(first) == [2, 3]
    assert [version["aliases"] for version in first.xcom(PENDING)] == [[], ["Champion"]]
    second = consume()
    assert consume.took(second) == [1]
    assert second.xcom(PENDING)[0]["tags"] == {"team": "other"}


def test_a_model_that_is_made_again_begins_anew(consume, make, workspace):
    make(NAME, "READY", "READY")
    consume.failing = {(NAME, 2)}
    assert consume.took(consume()) == [1, 2]
    workspace.workspace.catalog.delete_model(workspace.workspace.admin, NAME, force=True)
    consume.failing.clear()
    make(NAME, "READY")
    assert consume.took(consume()) == [1]


@pytest.mark.parametrize(
    ("scope", "message"),
    [(NAME, f"EXECUTE on {NAME}"), ("dev.ml_team", "or the connection's principal may see none")],
)
def test_without_the_privilege(consume, make, workspace, monkeypatch, scope, message):
    make(NAME, "READY")
    user = workspace.add_principal("someone")
    for grant in [("USE CATALOG", "dev"), ("USE SCHEMA", "dev.ml_team")]:
        workspace.grant(user, *grant)
    monkeypatch.setenv("AIRFLOW_CONN_SOMEONE", connection_json(workspace, user.token))
    result = consume(registry_conn_id="someone", scope=scope, retries=2)
    assert result.task_state(PENDING) == "failed"
    assert result.ti(PENDING).try_number == 1
    assert message in result.output
    assert result.task_state(MARK) == "failed"


def test_what_may_not_be_seen_is_left_out_of_a_schema(consume, make, workspace, monkeypatch):
    make(NAME, "READY")
    make("dev.ml_team.secret", "READY")
    user = workspace.add_principal("someone")
    for grant in [("USE CATALOG", "dev"), ("USE SCHEMA", "dev.ml_team"), ("EXECUTE", NAME)]:
        workspace.grant(user, *grant)
    monkeypatch.setenv("AIRFLOW_CONN_SOMEONE", connection_json(workspace, user.token))
    result = consume(registry_conn_id="someone", scope="dev.ml_team")
    assert [version["name"] for version in result.xcom(PENDING)] == [NAME]


@pytest.mark.parametrize("whole_schema", [True, False])
def test_open_source_server(dag_runner, open_source, open_source_connection, whole_schema):
    name = open_source.make(open_source.new_name(), (None, None))
    late = open_source.add(name, ready=False)["version"]
    open_source.add(name)
    scope = f"{open_source.schema}.*" if whole_schema else name
    consume = Consumer(dag_runner, {"scope": scope, "registry_conn_id": open_source_connection})

    def took(result):
        return [version["version"] for version in result.xcom(PENDING) if version["name"] == name]

    assert took(consume()) == [1, 2, 4]
    open_source.call("PATCH", f"/models/{name}/versions/{late}/finalize", {"full_name": name, "version": late})
    assert took(consume()) == [3]
    assert took(consume()) == []


def test_open_source_server_has_no_tags(dag_runner, open_source, open_source_connection):
    name = open_source.make(open_source.new_name(), (None,))
    result = Consumer(dag_runner, {"scope": name, "registry_conn_id": open_source_connection})(tags={"a": "b"})
    assert result.task_state(PENDING) == "failed"
    assert "does not support tags" in result.output
