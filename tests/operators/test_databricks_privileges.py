"""Every operator and sensor with exactly the privileges of docs/privileges.md, and without each of them."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import timedelta

import pandas as pd
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from support.approvals import answering
from support.databricks import DOWNLOADS, connection_json
from support.databricks_tasks import TASK_NAMES, Scene, make
from support.models import save_model

from scripts.privileges import PAGE, ROWS, page

# These read the model after the change, which docs/privileges.md tells.
READ_BACK = {
    (f"{task}Operator", "EXECUTE")
    for task in ("UpdateRegisteredModel", "RenameRegisteredModel", "SetRegisteredModelTags")
}
SOME = {"model": "a.b.c", "schema": "a.b", "destination": "d.e.f", "destination schema": "d.e"}
RETRIES = {"retries": 2, "retry_delay": timedelta(0)}
GROUPS = {
    "models": [row for row in ROWS if row.task.endswith(("RegisteredModelOperator", "RegisteredModelsOperator"))],
    "aliases and tags": [row for row in ROWS if "Alias" in row.task or "Tags" in row.task],
    "files": [row for row in ROWS if row.task.startswith(("RegisterModel", "Copy", "Download", "Batch"))],
}
GROUPS["versions"] = [row for row in ROWS if not any(row in group for group in GROUPS.values())]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model")


class Stage:
    """Principals, connections and scenes for one Dag."""

    def __init__(self, workspace, monkeypatch, model, scratch):
        self.workspace, self.monkeypatch, self.model, self.scratch = workspace, monkeypatch, model, scratch
        self.errors = {}
        pd.DataFrame([[0.1] * 4], columns=[f"f{i}" for i in range(4)]).to_parquet(scratch / "in.parquet")

    def scene(self, number, case=""):
        return Scene(self.workspace, number, case, self.model, self.scratch)

    def connect(self, conn_id, grants):
        """Make a principal with these privileges and a connection to the workspace with its token."""
        user = self.workspace.add_principal(conn_id)
        for privilege, securable in grants:
            self.workspace.grant(user, privilege, securable)
        self.monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection_json(self.workspace, user.token))
        return conn_id

    def task(self, row, scene, conn_id, **options):
        options = {"task_id": conn_id, "registry_conn_id": conn_id, **options}
        made = make(row.task, scene, self.errors, **options)
        if row.task.startswith("Branch"):
            made >> EmptyOperator(task_id=f"after_{conn_id}")
            made.follow_if_approved = f"after_{conn_id}"
        return made


@pytest.fixture
def stage(workspace, monkeypatch, model, tmp_path):
    return Stage(workspace, monkeypatch, model, tmp_path)


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `python -m scripts.privileges`"


def test_the_table_has_every_task():
    without_registry = {"MarkModelVersionsHandledOperator"}
    assert {row.task for row in ROWS} == TASK_NAMES - without_registry


@pytest.mark.parametrize("group", GROUPS)
def test_without_one_privilege_a_task_fails_once_and_says_which(dag_runner, stage, group):
    tasks = {}
    for number, row in enumerate(row for row in GROUPS[group] if not row.filters):
        for i in range(len(row.on(SOME))):
            scene = stage.scene(number * 10 + i, row.case)
            grants = row.on(scene.names)
            conn_id = stage.connect(f"t{scene.number}", grants[:i] + grants[i + 1 :])
            tasks[conn_id] = (row, scene, *grants[i], scene.snapshot())

    def define():
        for conn_id, (row, scene, *_) in tasks.items():
            stage.task(row, scene, conn_id)

    result = dag_runner.run(define, default_args=RETRIES)
    wrong = {}
    for task_id, (row, scene, privilege, securable, before) in tasks.items():
        text = str(stage.errors.get(task_id))
        fine = result.task_state(task_id) == "failed" and result.ti(task_id).try_number == 1
        if not fine or "PERMISSION_DENIED" not in text or f"{privilege} on {securable}" not in text:
            wrong[f"{row.task} ({row.case}) without {privilege} on {securable}"] = text
        elif scene.snapshot() != before and (row.task, privilege) not in READ_BACK:
            wrong[f"{row.task} ({row.case}) without {privilege} on {securable}"] = "left a trace"
    assert not wrong


def test_with_exactly_these_privileges_each_task_succeeds(dag_runner, stage):
    tasks = defaultdict(list)

    def define():
        for number, row in enumerate(ROWS):
            scene = stage.scene(number, row.case)
            task = stage.task(row, scene, stage.connect(f"t{number}", row.on(scene.names)))
            tasks[task.task_id].append(row)

    with answering("Approve"):
        result = dag_runner.run(define)
    assert {task_id: result.task_state(task_id) for task_id in tasks} == dict.fromkeys(tasks, "success"), stage.errors
    search = next(f"t{number}" for number, row in enumerate(ROWS) if row.filters)
    assert [model["name"] for model in result.xcom(search)] == [f"dev.ml_team.m{search[1:]}"]


def rows(task, case=""):
    return next(row for row in ROWS if (row.task, row.case) == (task, case))


def test_a_copy_with_two_connections_needs_each_side_of_its_own_principal(dag_runner, stage):
    row = rows("CopyModelVersionOperator", "another version")
    fine, source, destination = (stage.scene(number) for number in (1, 2, 3))
    sides = {}
    for scene in (fine, source, destination):
        grants = row.on(scene.names)
        for side, catalog in (("from", "dev"), ("to", "prod")):
            sides[side, scene.number] = f"{side}_{scene.number}"
            mine = [(privilege, on) for privilege, on in grants if on.startswith(catalog)]
            stage.connect(f"{side}_{scene.number}", mine)
    stage.workspace.revoke("from_2", "EXECUTE", source.names["model"])
    stage.workspace.revoke("to_3", "CREATE MODEL VERSION", destination.names["destination"])

    def define():
        for number, scene in ((1, fine), (2, source), (3, destination)):
            stage.task(row, scene, f"from_{number}", destination_conn_id=f"to_{number}")

    result = dag_runner.run(define, default_args=RETRIES)
    assert result.task_state("from_1") == "success"
    assert result.ti("from_2").try_number == result.ti("from_3").try_number == 1
    assert "It needs EXECUTE on dev.ml_team.m2" in str(stage.errors["from_2"])
    assert "CREATE MODEL VERSION on prod.ml_team.m3" in str(stage.errors["from_3"])


def revoke_when(stage, user, privilege, securable, **fault):
    """Take a privilege away when the first such request has come in, before it is let go on."""
    go_on = threading.Event()
    played = stage.workspace.faults.add(hold=go_on, **fault)

    def act():
        if played.seen.wait(60):
            stage.workspace.revoke(user, privilege, securable)
        go_on.set()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_sensor_that_is_deferred_fails_when_its_privilege_is_revoked(dag_runner, stage):
    row, scene = rows("ModelVersionSensor"), stage.scene(1)
    stage.connect("sensor", row.on(scene.names))
    # the answer is held: that look still finds nothing, the next one is the trigger's
    thread = revoke_when(stage, "sensor", "USE SCHEMA", "dev.ml_team", path="model-versions/search", when="after")
    result = dag_runner.run(
        lambda: stage.task(row, scene, "sensor", deferrable=True, poll_interval=0.1, after_version=2, **RETRIES)
    )
    thread.join()
    assert "deferred" in result.output.lower()
    assert (result.task_state("sensor"), result.ti("sensor").try_number) == ("failed", 1)
    assert "USE SCHEMA on dev.ml_team" in str(stage.errors["sensor"])


@pytest.mark.parametrize(
    ("task", "case", "privilege", "path"),
    [
        ("RegisterModelOperator", "another version", "CREATE MODEL VERSION", "fs/files/.*model.pkl"),
        ("DownloadModelVersionOperator", "", "EXECUTE", DOWNLOADS),
    ],
)
def test_a_privilege_revoked_in_the_middle_of_a_transfer(dag_runner, stage, task, case, privilege, path):
    row, scene = rows(task, case), stage.scene(1, case)
    name, conn_id = scene.names["model"], stage.connect("user", row.on(scene.names))
    thread = revoke_when(stage, "user", privilege, name, path=path)
    result = dag_runner.run(lambda: stage.task(row, scene, conn_id, **RETRIES))
    thread.join()
    assert (result.task_state("user"), result.ti("user").try_number) == ("failed", 1)
    assert f"{privilege} on {name}" in str(stage.errors["user"])
    if task.startswith("Register"):  # who may not delete it leaves it, and says so
        assert f"models:/{name}/3 was left behind incomplete" in result.output
        assert [v.status for v in stage.workspace.workspace.state.models[name].versions.values()] == [
            "READY", "READY", "PENDING_REGISTRATION",
        ]  # fmt: skip
    else:
        assert not (stage.scratch / "down1").exists()
