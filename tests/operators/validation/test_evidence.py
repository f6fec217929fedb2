"""What a verdict rests on: metrics, tags and signatures of the candidate, and which version is the champion."""

from __future__ import annotations

import json
import math
import uuid

import pytest
from support.models import add_version
from support.validation import NO_SIGNATURE, tags_of

from airflow_uc_models.policies import MetricRule, PromotionPolicy

# -- metrics


@pytest.mark.parametrize("champion", [None, 0.8])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_an_unknown_or_infinite_metric_refuses(validate, measured, value, champion):
    measured(*[value] if champion is None else [champion, value])
    policy = PromotionPolicy(metrics=[MetricRule("accuracy", max=1e9, min_gain=-1e9)], **NO_SIGNATURE)
    result = validate(1 if champion is None else 2, policy)
    assert result.state == "failed"
    assert [check["passed"] for check in result.xcom("validate")["checks"]] == [False, False]


def test_a_champion_without_the_metric_refuses_a_gain(validate, measured):
    measured(None, 0.9)
    result = validate(2)
    assert result.state == "failed"
    [reason] = result.xcom("validate")["reasons"]
    assert reason.startswith("accuracy of the champion is unknown: not in run ")
    assert reason.endswith("(known: none); there is nothing to compare with")


@pytest.fixture
def bare_models(client, measured, model_name):
    """Logged models without files: bare_models({"accuracy": 0.7}, ...) logs them in one run and registers each."""

    def make(*metrics_of_models, run_metrics):
        experiment = client.create_experiment(f"bare-{uuid.uuid4().hex}")
        run = client.create_run(experiment).info.run_id
        for metrics in metrics_of_models:
            from mlflow.entities import LoggedModelOutput

            model = client.create_logged_model(experiment, name="model", source_run_id=run)
            client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
            for key, value in metrics.items():
                client.log_metric(run, key, value, model_id=model.model_id)
            client.create_model_version(model_name, f"models:/{model.model_id}", run_id=run, model_id=model.model_id)
        for key, value in run_metrics.items():
            client.log_metric(run, key, value, step=9)

    return make


AT_MOST = PromotionPolicy(metrics=[MetricRule("loss", max=0.5)], **NO_SIGNATURE)


def test_the_logged_models_metric_wins_over_its_runs(validate, bare_models):
    bare_models({"loss": 0.3}, run_metrics={"loss": 0.9, "other": 0.1})
    result = validate(1, AT_MOST)
    assert result.xcom("validate")["checks"][0]["candidate"] == 0.3
    of_run = PromotionPolicy(metrics=[MetricRule("other", max=0.5)], **NO_SIGNATURE)
    assert validate(1, of_run).xcom("validate")["checks"][0]["candidate"] == 0.1


def test_a_run_that_logged_several_models_says_nothing_about_one(validate, bare_models):
    bare_models({"loss": 0.3}, {"other": 1}, run_metrics={"loss": 0.1})
    assert validate(1, AT_MOST).xcom("validate")["checks"][0]["candidate"] == 0.3
    result = validate(2, AT_MOST)
    assert result.state == "failed"
    assert "logged several models, so give model_id to log_metric" in result.xcom("validate")["reasons"][0]


def test_the_one_logged_model_of_a_run_is_found_without_being_named(validate, bare_models, client, model_name):
    bare_models({}, run_metrics={})
    run = client.get_run(client.get_model_version(model_name, "1").run_id)
    [output] = run.outputs.model_outputs
    evaluation = client.create_run(run.info.experiment_id).info.run_id
    client.log_metric(evaluation, "loss", 0.2, model_id=output.model_id)
    client.create_model_version(model_name, f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
    assert validate(2, AT_MOST).xcom("validate")["checks"][0]["candidate"] == 0.2


def test_the_logged_model_behind_a_copy_is_found(validate, bare_models, client, model_name):
    bare_models({"loss": 0.3}, {"loss": 0.4}, run_metrics={})
    prod = model_name.replace("dev.", "prod.")
    client.copy_model_version(f"models:/{model_name}/1", prod)
    client.copy_model_version(f"models:/{prod}/1", prod)
    client.set_registered_model_alias(prod, "Champion", "2")
    rule = MetricRule("loss", min_gain=0, higher_is_better=False)
    result = validate(2, PromotionPolicy(metrics=[rule], **NO_SIGNATURE), champion_model_name=prod)
    [check] = result.xcom("validate")["checks"]
    assert (check["candidate"], check["against"], check["passed"]) == (0.4, 0.3, False)


@pytest.mark.parametrize(
    ("of_model", "of_run", "approved"),
    [(math.nan, {}, False), (0.0, {}, True), (0.0, {"loss": 0.4}, False), (math.nan, {"loss": 0.4}, False)],
)
def test_nan_that_a_logged_model_gives_as_zero_refuses(
    validate, bare_models, client, model_name, of_model, of_run, approved
):
    bare_models({"loss": of_model}, run_metrics=of_run)
    model_id = client.get_model_version(model_name, "1").source.removeprefix("models:/")
    [metric] = client.get_logged_model(model_id).metrics
    assert metric.value == 0.0, "MLflow tells NaN from 0 now: registry/facts.py need not doubt zeros any more"
    result = validate(1, AT_MOST)
    assert result.state == ("success" if approved else "failed")


def test_a_version_whose_run_is_on_another_server_refuses_and_says_so(validate, client, model_name, measured):
    client.create_model_version(model_name, "s3://bucket/model", run_id="0" * 32)
    result = validate(1)
    assert result.state == "failed"
    assert f"run {'0' * 32} (which this server does not have)" in result.xcom("validate")["reasons"][0]


def test_a_version_without_any_origin_refuses(validate, client, model_name, measured):
    client.create_model_version(model_name, "s3://bucket/model")
    result = validate(1)
    assert "not in any run or logged model, as the version has none" in result.xcom("validate")["reasons"][0]


# -- tags and signatures


@pytest.mark.parametrize(("tags", "approved"), [({}, False), ({"qa": "no"}, False), ({"qa": "ok"}, True)])
def test_required_tags(validate, measured, tags, approved):
    measured(0.9, tags=tags)
    result = validate(1, PromotionPolicy(required_tags={"qa": "ok"}, **NO_SIGNATURE))
    assert result.xcom("validate")["approved"] is approved
    assert result.state == ("success" if approved else "failed")


@pytest.mark.parametrize(
    ("candidate", "reasons"),
    [
        ("better", []),
        ("unsigned", ["the candidate has no signature", "the candidate has no signature, the champion has one"]),
        ("fewer", ["input 'f3' is dropped"]),
        ("retyped", ["input 'f1' changes from double to string; output 1 changes from tensor<bool, [-1]> to boolean"]),
    ],
)
def test_signatures_of_real_models(validate, mlflow_server, client, models, model_name, candidate, reasons):
    add_version(mlflow_server, model_name, models["plain"])
    add_version(mlflow_server, model_name, models[candidate])
    client.set_registered_model_alias(model_name, "Champion", "1")
    result = validate(2, {"metrics": [{"name": "accuracy", "min_gain": 0.1}]})
    verdict = result.xcom("validate")
    assert result.state == ("failed" if reasons else "success")
    if reasons:
        assert verdict["reasons"] == reasons


def test_files_are_read_only_where_a_signature_is_asked_for(validate, measured):
    measured(0.9)
    assert validate(1).state == "success"
    result = validate(1, PromotionPolicy())
    assert result.state == "failed"
    assert "it is not a model that mlflow wrote" in result.output


# -- which champion


def test_the_champion_of_another_model_and_the_champion_itself(
    validate, mlflow_server, client, models, model_name, connection
):
    prod = model_name.replace("dev.", "prod.")
    add_version(mlflow_server, model_name, models["plain"])
    add_version(mlflow_server, model_name, models["better"])
    client.copy_model_version(f"models:/{model_name}/2", prod)
    client.set_registered_model_alias(prod, "live", "1")
    policy = {"metrics": [{"name": "accuracy", "min_gain": 0.05}], **NO_SIGNATURE}
    options = {"champion_model_name": "{{ params.prod }}", "champion_alias": "live", "params": {"prod": prod}}
    worse = validate(1, policy, **options)
    assert worse.state == "failed"
    assert worse.xcom("validate")["champion"]["name"] == prod
    assert worse.xcom("validate")["checks"][0]["against"] == 0.9
    assert tags_of(client, model_name, 1)["validated_against"] == f"{prod}/1"
    assert tags_of(client, prod, 1) == {}
    # What was promoted may be validated again: it need not be better than itself.
    for candidate in (validate(2, policy, **options), validate(1, policy, model_name=prod, champion_alias="live")):
        assert candidate.state == "success"
        assert "the champion's own model" in candidate.xcom("validate")["reasons"][0]


def test_no_champion_model_yet(validate, measured, client, model_name):
    measured(0.9)
    result = validate(1, champion_model_name=model_name.replace("dev.", "prod."))
    assert result.state == "success"
    assert result.xcom("validate")["champion"] is None
    assert tags_of(client, model_name, 1)["validated_against"] == "none"


def test_an_alias_in_other_letter_case_is_a_slip(validate, measured, client, model_name):
    measured(0.9, 0.1)
    result = validate(
        2, PromotionPolicy(metrics=[MetricRule("accuracy", min_gain=0)], **NO_SIGNATURE), champion_alias="champion"
    )
    assert result.state == "failed"
    assert f"{model_name} has no alias 'champion', but 'Champion'" in result.output
    assert tags_of(client, model_name, 2) == {}


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "PERMISSION_DENIED"), (404, "SCHEMA_DOES_NOT_EXIST"), (404, None), (500, "INTERNAL_ERROR")],
)
def test_only_a_missing_model_means_no_champion(
    validate, measured, client, model_name, proxy, monkeypatch, status, code
):
    measured(0.9)
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json(max_retry_seconds=0.2))
    body = json.dumps({"error_code": code, "message": "no"} if code else {"message": "no"})
    proxy.fail("registered-models/get", status=status, body=body, times=None)
    result = validate(1, registry_conn_id="through", retries=0)
    assert result.state == "failed"
    assert tags_of(client, model_name, 1) == {}
    assert result.xcom("validate") is None
