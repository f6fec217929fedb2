"""Alias operators on a real MLflow server, through Airflow's task runner."""

from __future__ import annotations

from airflow_uc_models.operators.alias import (
    SetRegisteredModelAliasOperator,
)


def make_versions(server, name, count):
    client = server.client()
    client.create_registered_model(name)
    experiment = client.create_experiment(name)
    run = client.create_run(experiment)
    for _ in range(count):
        client.create_model_version(name, f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
    return client


def test_set_pushes_history(dag_runner, connection, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)

    def define():
        first = SetRegisteredModelAliasOperator(
            task_id="first", model_name=model_name, alias="Champion", version=1, registry_conn_id=connection
        )
        second = SetRegisteredModelAliasOperator(
            task_id="second", model_name=model_name, alias="Champion", version="2", registry_conn_id=connection
        )
        first >> second

    result = dag_runner.run(define)
    assert result.state == "success"
    assert result.xcom("second") == {"name": model_name, "alias": "Champion", "version": 2, "previous": 1}
    model = client.get_registered_model(model_name)
    assert model.aliases == {"Champion": "2"} or model.aliases == {"Champion": 2}
    assert model.tags["airflow_alias_history_Champion"] == "1 2"
