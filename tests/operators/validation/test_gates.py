"""Rules on files, flavors, age and description, on a real MLflow server and on the emulated workspace."""

from __future__ import annotations

import time

import pytest
from support.databricks import connection_json
from support.models import add_version, save_model, tracking
from support.validation import NO_SIGNATURE, artifact_text

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.operators import RegisterModelOperator, ValidateModelVersionOperator
from airflow_uc_models.policies import MetricRule, PromotionPolicy

DAY = 86_400_000
ALL = {
    "require_description": 10,
    "max_size": "1MB",
    "allowed_flavors": ["sklearn"],
    "max_age": "1 day",
}
NONE = {
    "require_description": 100,
    "max_size": 100,
    "allowed_flavors": ["xgboost"],
    "max_age": "0.001 s",
}
DESCRIPTION = "Finds fraud in card payments."


def bytes_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_real_model_passes_and_fails_each_rule(validate, mlflow_server, client, models, model_name, tmp_path):
    add_version(mlflow_server, model_name, models["plain"])
    client.update_model_version(model_name, "1", DESCRIPTION)
    passed = validate(1, ALL)
    assert passed.state == "success", passed.xcom("validate")["reasons"]
    checks = {check["rule"]: check for check in passed.xcom("validate")["checks"]}
    with tracking(mlflow_server) as mlflow:
        mlflow.artifacts.download_artifacts(models["plain"].uri, dst_path=tmp_path)
    (tmp_path / "registered_model_meta").unlink(missing_ok=True)
    assert checks["size <= 1 MB"]["candidate"] == bytes_of(tmp_path) > 1000
    assert checks["flavor sklearn"]["candidate"] == "sklearn"
    failed = validate(1, NONE)
    assert [c["rule"] for c in failed.xcom("validate")["checks"] if not c["passed"]] == [
        "description >= 100 characters",
        "size <= 100 B",
        "flavor xgboost",
        "age <= 0 seconds",
    ]


def test_a_copy_is_as_old_as_its_original(validate, client, model_name):
    client.create_registered_model(model_name)
    run = client.create_run("0", start_time=int(time.time() * 1000) - 40 * DAY).info.run_id
    client.create_model_version(model_name, f"runs:/{run}/model", run_id=run)
    result = validate(1, {"max_age": 30, **NO_SIGNATURE})
    assert result.state == "failed"
    assert "is 40 days old, required <= 30 days" in result.xcom("validate")["reasons"][0]
    assert validate(1, {"max_age": 41, **NO_SIGNATURE}).state == "success"


def test_a_version_without_files_has_no_size(validate, measured):
    measured(0.9)
    result = validate(1, {"max_size": "1GB", **NO_SIGNATURE})
    assert result.state == "failed"
    [reason] = result.xcom("validate")["reasons"]
    assert reason == "the size of the files is unknown: the server does not tell it for each of them"


@pytest.fixture(scope="module")
def workspace(mlflow_server):
    """A workspace with runs and logged models."""
    with Emulator(Settings(tracking_uri=mlflow_server.url)) as running:
        yield running


def test_on_databricks(dag_runner, workspace, models, client, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace))
    folder = save_model(tmp_path / "model")
    saved, logged = "dev.ml_team.saved", "dev.ml_team.logged"

    def define():
        made = RegisterModelOperator(
            task_id="saved", model_name=saved, model_uri=str(folder), description=DESCRIPTION
        ).output["version"]
        options = {"model_name": saved, "version": made, "fail_on_rejection": False}
        ValidateModelVersionOperator(task_id="all", policy=ALL | {"smoke_test": True}, **options)
        ValidateModelVersionOperator(task_id="none", policy=NONE, **options)
        made = RegisterModelOperator(task_id="logged", model_name=logged, model_uri=models["plain"].uri)
        policy = PromotionPolicy(metrics=[MetricRule("accuracy", min=0.7)], max_size="1MB")
        ValidateModelVersionOperator(
            task_id="with_run", policy=policy, model_name=logged, version=made.output["version"]
        )

    result = dag_runner.run(define, default_args={"registry_conn_id": "ws"})
    assert result.state == "success", result.output
    verdict = result.xcom("all")
    # It was saved without an example, so the smoke test alone refuses.
    assert verdict["reasons"] == ["the model has no input example: log it with input_example=..."]
    assert verdict["report"] is None
    sizes = [check["candidate"] for check in verdict["checks"] if check["rule"].startswith("size")]
    assert sizes == [bytes_of(folder)]
    refused = [check["rule"] for check in result.xcom("none")["checks"] if not check["passed"]]
    assert refused == ["description >= 100 characters", "size <= 100 B", "flavor xgboost", "age <= 0 seconds"]
    report = result.xcom("with_run")["report"]
    assert report.startswith(f"runs:/{models['plain'].run_id}/")
    assert f"<title>{logged}/1: approved</title>" in artifact_text(client, report, tmp_path)


@pytest.mark.parametrize("policy", [{"max_age": 0}, {"allowed_flavors": "sklearn"}, {"max_size": "{{ '' }}"}])
def test_rules_that_are_none_fail_before_any_call(validate, proxy, monkeypatch, policy):
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    result = validate(1, policy, registry_conn_id="through")
    assert result.state == "failed"
    assert next(iter(policy)) in result.output
    assert proxy.take() == []
