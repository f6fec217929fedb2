"""The report of a verdict among the artifacts of the version's run, on a real MLflow server."""

from __future__ import annotations

import json
from datetime import datetime
from types import SimpleNamespace

import pytest
from support.contexts import context
from support.validation import NO_SIGNATURE, artifact_text, tags_of

from airflow_uc_models.operators import ValidateModelVersionOperator
from airflow_uc_models.policies import MetricRule, PromotionPolicy


def reports_of(client, name, version):
    """The files below `validation` of the version's run."""
    run = client.get_model_version(name, str(version)).run_id
    folders = [item.path for item in client.list_artifacts(run, "validation")]
    return [item.path for folder in folders for item in client.list_artifacts(run, folder)]


def test_each_verdict_has_a_report_of_its_own(validate, measured, client, model_name, tmp_path, mlflow_server):
    measured(0.8, 0.7)
    reports = [validate(2).xcom("validate")["report"] for _ in range(2)]
    run = client.get_model_version(model_name, "2").run_id
    assert reports_of(client, model_name, 2) == sorted(uri.removeprefix(f"runs:/{run}/") for uri in reports)
    assert len(set(reports)) == 2
    text = artifact_text(client, reports[0], tmp_path)
    assert f"<title>{model_name}/2: rejected</title>" in text
    assert "accuracy 0.7, champion 0.8: gain -0.1, required &gt;= 0" in text
    assert ">0.7</text>" in text
    assert f"{mlflow_server.url}/#/models/{model_name}/versions/1" in text


def test_retries_share_a_report_and_a_cleared_task_gets_another(
    client, measured, model_name, mlflow_server, connection
):
    measured(0.8)
    policy = PromotionPolicy(metrics=[MetricRule("accuracy", min=0.5)], **NO_SIGNATURE)

    def report(**try_):
        task = ValidateModelVersionOperator(
            task_id="task", model_name=model_name, version=1, policy=policy, registry_conn_id=connection
        )
        made = context(task, try_number=try_["try_number"], dag_run=SimpleNamespace(run_after=datetime(2026, 1, 2)))
        made["ti"].max_tries = try_["max_tries"]
        return task.execute(made)["report"]

    first, retry = (report(try_number=number, max_tries=2) for number in (1, 2))
    assert first == retry
    assert "/20260102T000000Z-" in first
    assert report(try_number=3, max_tries=4) != first


def test_the_champions_metrics_are_shown_though_no_rule_compares_them(validate, measured):
    measured(0.8, 0.7)
    verdict = validate(2, PromotionPolicy(metrics=[MetricRule("accuracy", min=0.5)], **NO_SIGNATURE)).xcom("validate")
    assert verdict["metrics"] == {"accuracy": {"candidate": 0.7, "champion": 0.8}}


def test_no_report_where_none_is_wanted(validate, measured, client, model_name):
    measured(0.9)
    result = validate(1, log_report=False)
    assert result.state == "success"
    assert result.xcom("validate")["report"] is None
    assert reports_of(client, model_name, 1) == []


@pytest.mark.parametrize("run_id", [None, "0" * 32])
def test_a_version_without_a_run_is_judged_all_the_same(validate, measured, client, model_name, run_id):
    client.create_model_version(model_name, "s3://bucket/model", run_id=run_id, tags={"qa": "ok"})
    result = validate(1, PromotionPolicy(required_tags=["qa"], **NO_SIGNATURE))
    assert result.state == "success"
    assert result.xcom("validate")["report"] is None
    assert f"{model_name}/1 has no run on this server: its report is not logged" in result.output


@pytest.mark.parametrize(("accuracy", "tags"), [(0.9, None), (0.4, "rejected")])
def test_a_report_that_cannot_be_logged_approves_nothing(
    validate, measured, client, model_name, proxy, monkeypatch, accuracy, tags
):
    measured(accuracy)
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    denied = json.dumps({"error_code": "PERMISSION_DENIED", "message": "no"})
    proxy.fail(".html", status=403, body=denied, times=None)
    result = validate(1, registry_conn_id="through")
    assert result.state == "failed"
    assert result.ti("validate").try_number == 1
    assert "which log_report=False leaves out" in result.output
    assert tags_of(client, model_name, 1).get("validation_status") == tags
    # nor does it for a task that runs in any case and reads what this one left
    assert result.xcom("validate", key="approved") is (None if tags is None else False)
    assert (result.xcom("validate", key="verdict") is None) == (tags is None)
