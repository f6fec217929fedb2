"""Versions to validate, and a Dag with one ValidateModelVersionOperator."""

from __future__ import annotations

import uuid

import pytest
from support.models import log_model
from support.validation import NOT_WORSE

from airflow_uc_models.operators import ValidateModelVersionOperator


@pytest.fixture(scope="session")
def models(mlflow_server):
    """Real models by what is special about them."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    names = [f"f{i}" for i in range(4)]
    retyped = ModelSignature(
        Schema([ColSpec("string" if name == "f1" else "double", name) for name in names]), Schema([ColSpec("boolean")])
    )
    return {
        "plain": log_model(mlflow_server, metrics={"accuracy": 0.8}),
        "better": log_model(mlflow_server, metrics={"accuracy": 0.9}, seed=1),
        "unsigned": log_model(mlflow_server, metrics={"accuracy": 0.9}, with_signature=False),
        "fewer": log_model(mlflow_server, metrics={"accuracy": 0.9}, n_features=3),
        "retyped": log_model(mlflow_server, metrics={"accuracy": 0.9}, signature=retyped),
    }


@pytest.fixture
def client(mlflow_server):
    return mlflow_server.client()


@pytest.fixture
def measured(client, model_name):
    """Make versions that have metrics and no files: measured(0.8, 0.9) makes 1 and 2, the first is Champion."""
    client.create_registered_model(model_name)
    experiment = client.create_experiment(f"measured-{uuid.uuid4().hex}")

    def make(*accuracies, champion=True, name=model_name, tags=None):
        for accuracy in accuracies:
            run = client.create_run(experiment).info.run_id
            if accuracy is not None:
                client.log_metric(run, "accuracy", accuracy)
            client.create_model_version(name, f"runs:/{run}/model", run_id=run, tags=tags)
        if champion and len(accuracies) > 1:
            client.set_registered_model_alias(name, "Champion", "1")

    return make


@pytest.fixture
def validate(dag_runner, connection, model_name):
    """Run one ValidateModelVersionOperator on a version of the test's model."""

    def run(version=1, policy=NOT_WORSE, params=None, **options):
        def define():
            ValidateModelVersionOperator(
                task_id="validate",
                **{
                    "model_name": model_name,
                    "version": version,
                    "policy": policy,
                    "registry_conn_id": connection,
                    "retries": 2,
                }
                | options,
            )

        return dag_runner.run(define, params=params)

    return run
