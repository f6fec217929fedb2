"""Two tries of one task at once, on an MLflow server and on an open-source Unity Catalog server.

Those of all operators on Databricks are in test_two_tries.py.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from support.models import add_version, log_model
from support.tries import MLMODEL, Race

from airflow_uc_models.operators import (
    CopyModelVersionOperator,
    CreateRegisteredModelOperator,
    DeleteModelVersionOperator,
    DeleteModelVersionTagsOperator,
    DeleteRegisteredModelAliasOperator,
    DeleteRegisteredModelOperator,
    DeleteRegisteredModelTagsOperator,
    RegisterModelOperator,
    RenameRegisteredModelOperator,
    RollbackRegisteredModelAliasOperator,
    SetModelVersionApprovalTagOperator,
    SetModelVersionTagsOperator,
    SetRegisteredModelAliasOperator,
    SetRegisteredModelTagsOperator,
    UpdateModelVersionOperator,
    UpdateRegisteredModelOperator,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "MLmodel").write_text(MLMODEL)
    return folder


def each_request(race, new_name, folder, problems_of):
    """Hold one try before each of its requests in turn, and gather what is wrong afterwards."""
    wrong = []
    for held in (1, 2):
        for at in itertools.count(1):
            name = new_name()

            def make(name=name):
                return RegisterModelOperator(
                    task_id="task", model_name=name, model_uri=str(folder), registry_conn_id=race.conn_id
                )

            if at == 1 and held == 1:
                assert race.alone(make).error is None
                name = new_name()
            ends = race.run(lambda name=name: make(name), held=held, at=at)
            if ends[1] is None:
                assert at > 5
                break
            problems = list(problems_of(name))
            fine = [end for end in ends if end.error is None]
            if not fine or len({end.value["version"] for end in fine}) > 1:
                problems.append(f"returned {[end.value['version'] for end in fine]}")
            problems += [end.error for end in ends if end.error is not None and "another try" not in end.error]
            if problems:
                wrong.append(f"try {held} held before request {at}: {problems}")
    assert not wrong, "\n".join(wrong)


def test_mlflow(mlflow_server, connection, folder, model_name, tmp_path):
    """A folder becomes a logged model first, and of that, too, there is one."""
    client = mlflow_server.client()
    race = Race(
        mlflow_server.url,
        lambda url: mlflow_server.connection_json().replace(mlflow_server.url, url),
        connection,
        tmp_path,
    )
    numbers = itertools.count(1)

    def problems_of(name):
        versions = client.search_model_versions(f"name='{name}'")
        if [v.status for v in versions] != ["READY"]:
            yield f"there are {versions}"
        experiment = client.get_experiment_by_name(f"airflow_uc_models/{name}")
        logged = [model.model_id for model in client.search_logged_models([experiment.experiment_id])]
        if [f"models:/{model_id}" for model_id in logged] != [v.source for v in versions]:
            yield f"there are the logged models {logged} for {[v.source for v in versions]}"

    each_request(race, lambda: f"{model_name}{next(numbers)}", folder, problems_of)


def test_open_source(open_source, open_source_connection, folder, tmp_path):
    race = Race(open_source.url, open_source.connection_json, open_source_connection, tmp_path)

    def problems_of(name):
        versions = open_source.versions(name)
        if [v["status"] for v in versions] != ["READY"]:
            yield f"there are {versions}"
        for version in versions:
            where = Path(version["storage_location"].removeprefix("file://"))
            files = {file.name: file.read_text() for file in where.rglob("*")}
            if files != {"MLmodel": MLMODEL}:
                yield f"version {version['version']} has the files {sorted(files)}"

    each_request(race, open_source.new_name, folder, problems_of)


# -- what else changes something on an MLflow server

C = {"task_id": "task", "registry_conn_id": "mlflow_test"}
V1 = {"version": 1, **C}
CHAMPION = {"alias": "Champion", **C}
CHANGES = {
    "create": lambda m: CreateRegisteredModelOperator(model_name=f"{m}_new", description="d", tags={"a": "1"}, **C),
    "update": lambda m: UpdateRegisteredModelOperator(model_name=m, description="new", **C),
    "rename": lambda m: RenameRegisteredModelOperator(model_name=m, new_name=f"{m}_new", **C),
    "delete": lambda m: DeleteRegisteredModelOperator(model_name=m, missing_ok=True, **C),
    "update version": lambda m: UpdateModelVersionOperator(model_name=m, description="new", **V1),
    "delete version": lambda m: DeleteModelVersionOperator(model_name=m, **V1),
    "copy": lambda m: CopyModelVersionOperator(model_name=m, destination_model_name=f"{m}_new", **V1),
    "set alias": lambda m: SetRegisteredModelAliasOperator(model_name=m, version=3, **CHAMPION),
    "roll back": lambda m: RollbackRegisteredModelAliasOperator(model_name=m, **CHAMPION),
    "delete alias": lambda m: DeleteRegisteredModelAliasOperator(model_name=m, **CHAMPION),
    "tag": lambda m: SetRegisteredModelTagsOperator(model_name=m, tags={"a": "1", "b": "2"}, **C),
    "delete tags": lambda m: DeleteRegisteredModelTagsOperator(model_name=m, keys=["team"], **C),
    "tag version": lambda m: SetModelVersionTagsOperator(model_name=m, tags={"a": "1", "b": "2"}, **V1),
    "delete tags of a version": lambda m: DeleteModelVersionTagsOperator(model_name=m, keys=["team"], **V1),
    "approve": lambda m: SetModelVersionApprovalTagOperator(model_name=m, tag="approval", **V1),
}


@pytest.fixture(scope="module")
def source(mlflow_server):
    return log_model(mlflow_server)


@pytest.fixture
def new_scene(mlflow_server, model_name, source):
    """Make a model of three versions whose alias has moved from the first to the second; returns its name."""
    client, numbers = mlflow_server.client(), itertools.count(1)

    def make():
        name = f"{model_name}n{next(numbers)}"
        for _ in range(3):
            add_version(mlflow_server, name, source, tags={"team": "x"})
        client.set_registered_model_tag(name, "team", "x")
        client.set_registered_model_tag(name, "airflow_alias_history_Champion", "1 2")
        client.set_registered_model_alias(name, "Champion", "2")
        return name

    return make


def left(client, name):
    """What there is of a model and of one that was made of it, without times and the model's own name."""

    def lasting(tags):
        kept = {key: value.replace(name, "m") for key, value in sorted(tags.items()) if not key.endswith("_at")}
        # by what tries know each other; the history of the alias stays
        marks = "airflow_task_key", "airflow_alias_move_", "airflow_alias_rollback_"
        return {key: value for key, value in kept.items() if not key.startswith(marks)}

    found = []
    for model in client.search_registered_models(f"name LIKE '{name}%'", order_by=["name"]):
        if model.name in {name, f"{name}_new"}:
            versions = client.search_model_versions(f"name='{model.name}'")
            seen = sorted((int(v.version), v.status, v.description or "", str(lasting(v.tags))) for v in versions)
            found.append((model.name != name, model.description, lasting(model.tags), model.aliases, seen))
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_on_mlflow(mlflow_server, connection, new_scene, tmp_path, change):
    """What is left is what one try alone leaves; a try that fails says about what."""
    server, client = mlflow_server, mlflow_server.client()
    race = Race(server.url, lambda url: server.connection_json().replace(server.url, url), connection, tmp_path)
    alone = new_scene()
    assert race.alone(lambda: CHANGES[change](alone)).error is None
    expected, wrong = left(client, alone), []
    for at in itertools.count(1):
        name, held = new_scene(), 1 + at % 2
        ends = race.run(lambda name=name: CHANGES[change](name), held=held, at=at)
        if ends[1] is None:
            break
        errors = [end.error for end in ends if end.error is not None]
        if left(client, name) != expected:
            wrong.append(f"try {held} held before request {at} left {left(client, name)}, not {expected}: {errors}")
        if len(errors) == 2 or not all(name in error for error in errors):
            wrong.append(f"try {held} held before request {at}: {errors}")
    assert not wrong, "\n".join(wrong)
