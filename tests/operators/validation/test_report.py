"""The report of a verdict among the artifacts of the version's run, on a real MLflow server."""

from __future__ import annotations

import json

import pytest
from support.validation import NO_SIGNATURE, artifact_text, tags_of

from airflow_uc_models.policies import MetricRule, PromotionPolicy


def reports_of(client, name, version):
    """The files below `validation` of the version's run."""
    run = client.get_model_version(name, str(version)).run_id
    folders = [item.path for item in client.list_artifacts(run, "validation")]
    return [item.path for folder in folders for item in client.list_artifacts(run, folder)]


def test_the_report_is_logged_to_the_run_and_a_retry_writes_it_again(validate, measured, client, model_name, tmp_path):
    measured(0.8, 0.7)
    validate(2)
    verdict = validate(2).xcom("validate")
    folder = f"validation/{model_name}-v2"
    assert reports_of(client, model_name, 2) == [f"{folder}/chart.svg", f"{folder}/report.md"]
    run = client.get_model_version(model_name, "2").run_id
    assert verdict["report"] == f"runs:/{run}/{folder}/report.md"
    assert verdict["metrics"] == {"accuracy": {"candidate": 0.7, "champion": 0.8}}
    text = artifact_text(client, verdict["report"], tmp_path)
    assert text.startswith(f"# {model_name}/2: rejected\n\nChampion: {model_name}/1\n")
    assert "| passed | accuracy \\>= 0.5 | 0.7 | 0.5 |" in text
    assert "| **FAILED** | accuracy gain \\>= 0 | 0.7 | 0.8 |" in text
    assert ">0.7</text>" in artifact_text(client, verdict["report"], tmp_path, "chart.svg")


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
    proxy.fail("report.md", status=403, body=denied, times=None)
    result = validate(1, registry_conn_id="through")
    assert result.state == "failed"
    assert result.ti("validate").try_number == 1
    assert "which log_report=False leaves out" in result.output
    assert tags_of(client, model_name, 1).get("validation_status") == tags
    # nor does it for a task that runs in any case and reads what this one left
    assert result.xcom("validate", key="approved") is (None if tags is None else False)
    assert (result.xcom("validate", key="verdict") is None) == (tags is None)
