"""Two tries of one registration at once, on an MLflow server and on an open-source Unity Catalog server."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from support.tries import MLMODEL, Race

from airflow_uc_models.operators import RegisterModelOperator


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
