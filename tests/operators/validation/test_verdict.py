"""ValidateModelVersionOperator on a real MLflow server: the verdict, and what cannot be judged."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import Param, task
from support.models import add_version
from support.validation import NO_SIGNATURE, NOT_WORSE, tags_of

from airflow_uc_models.operators import ValidateModelVersionOperator
from airflow_uc_models.policies import MetricRule, PromotionPolicy


def test_the_first_candidate_is_judged_by_thresholds(validate, client, mlflow_server, models, model_name):
    add_version(mlflow_server, model_name, models["plain"])
    policy = PromotionPolicy(metrics=[MetricRule("accuracy", min=0.7, min_gain=0.05)])
    result = validate("1", policy)
    assert result.state == "success"
    verdict = result.xcom("validate")
    assert verdict == result.xcom("validate", key="verdict")
    assert {key: verdict[key] for key in ("approved", "validation_status", "name", "version", "champion")} == {
        "approved": True,
        "validation_status": "approved",
        "name": model_name,
        "version": 1,
        "champion": None,
    }
    assert [(check["rule"], check["passed"]) for check in verdict["checks"]] == [
        ("accuracy >= 0.7", True),
        ("accuracy gain >= 0.05", True),
        ("signature", True),
        ("signature compatible", True),
    ]
    assert verdict["checks"][0] == {
        "rule": "accuracy >= 0.7",
        "passed": True,
        "reason": "accuracy 0.8, required >= 0.7",
        "candidate": 0.8,
        "against": 0.7,
        "champion": None,
        "required": ">= 0.7",
        "gain": None,
    }
    assert tags_of(client, model_name, 1) == {
        "validation_status": "approved",
        "validation_reasons": "; ".join(verdict["reasons"]),
        "validated_against": "none",
    }
    assert result.xcom("validate", key="model_version_url").endswith(f"{model_name}/versions/1")
    assert "passed  accuracy gain >= 0.05  accuracy 0.8, no champion yet" in result.output
    assert "thresholds alone decide" in result.output


def test_the_first_candidate_below_the_threshold_is_rejected(validate, client, measured, model_name):
    measured(0.4)
    result = validate()
    assert result.state == "failed"
    assert tags_of(client, model_name, 1)["validation_status"] == "rejected"


@pytest.mark.parametrize(("accuracy", "approved"), [(0.9, True), (0.8, True), (0.79, False)])
def test_against_the_champion(validate, client, measured, model_name, accuracy, approved):
    measured(0.8, accuracy)
    result = validate(2)
    status = "approved" if approved else "rejected"
    assert result.state == ("success" if approved else "failed")
    verdict = result.xcom("validate")
    assert (verdict["approved"], verdict["validation_status"]) == (approved, status)
    assert (verdict["champion"]["name"], verdict["champion"]["version"]) == (model_name, 1)
    assert verdict["checks"][1]["candidate"] == accuracy
    assert verdict["checks"][1]["against"] == 0.8
    assert tags_of(client, model_name, 2)["validation_status"] == status
    assert tags_of(client, model_name, 2)["validated_against"] == f"{model_name}/1"
    assert tags_of(client, model_name, 1) == {}


def test_a_rejection_fails_at_once_after_verdict_and_tags_are_written(validate, client, measured, model_name):
    measured(0.8, 0.7)
    result = validate(2)
    reason = "accuracy 0.7, champion 0.8: gain -0.1, required >= 0"
    assert result.task_state("validate") == "failed"
    assert result.ti("validate").try_number == 1
    assert result.xcom("validate")["reasons"] == [reason]
    assert result.xcom("validate") == result.xcom("validate", key="verdict")
    assert result.xcom("validate", key="approved") is False
    assert tags_of(client, model_name, 2)["validation_reasons"] == reason
    assert f"{model_name}/2 is rejected: {reason}" in result.output
    assert "FAILED  accuracy gain >= 0" in result.output


def test_a_rejection_need_not_fail_the_task(validate, client, measured, model_name):
    measured(0.8, 0.7)
    result = validate(2, fail_on_rejection=False)
    assert result.state == "success"
    assert result.xcom("validate")["approved"] is False
    assert tags_of(client, model_name, 2)["validation_status"] == "rejected"
    # only False lets it pass
    assert validate(2, fail_on_rejection=None).state == "failed"


def test_again_is_the_same_as_once_and_a_new_verdict_replaces_the_old(validate, client, measured, model_name):
    measured(0.8, 0.85)
    first = validate(2).xcom("validate")
    once = tags_of(client, model_name, 2)
    second = validate(2).xcom("validate")
    of_each = {"champion": None, "report": None}
    assert {**second, **of_each} == {**first, **of_each}
    assert tags_of(client, model_name, 2) == once
    validate(2, PromotionPolicy(metrics=[MetricRule("accuracy", min=0.9)], **NO_SIGNATURE))
    assert tags_of(client, model_name, 2) == {
        "validation_status": "rejected",
        "validation_reasons": "accuracy 0.85, required >= 0.9",
        "validated_against": f"{model_name}/1",
    }


def test_long_reasons_are_trimmed_to_what_a_tag_holds_everywhere(validate, client, measured, model_name):
    measured(0.4)
    policy = PromotionPolicy(metrics=[MetricRule(f"metric_{i}", min=1) for i in range(40)], **NO_SIGNATURE)
    verdict = validate(1, policy).xcom("validate")
    assert len(verdict["reasons"]) == 40
    reasons = tags_of(client, model_name, 1)["validation_reasons"]
    assert len(reasons) == 1000
    assert reasons.endswith("...")
    assert "; ".join(verdict["reasons"]).startswith(reasons[:-3])


# -- what cannot be judged


def test_a_missing_candidate_fails(validate, measured):
    measured(0.9)
    result = validate(7)
    assert result.state == "failed"
    assert result.ti("validate").try_number == 1
    assert "7" in result.output
    assert result.xcom("validate", key="verdict") is None


@pytest.mark.parametrize(
    ("status", "message"),
    [("PENDING_REGISTRATION", "only READY versions are validated"), ("FAILED_REGISTRATION", "its registration failed")],
)
def test_a_candidate_that_is_not_ready_fails(validate, measured, model_name, proxy, monkeypatch, status, message):
    measured(0.9)
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    answer = {"model_version": {"name": model_name, "version": "1", "status": status}}
    proxy.fail("model-versions/get", status=200, body=json.dumps(answer), times=None)
    result = validate(1, registry_conn_id="through")
    assert result.state == "failed"
    assert message in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": {}}, "policy is empty"),
        ({"policy": {"metrics": [{"name": "accuracy", "minimum": 1}]}}, "Unknown key 'minimum' in metrics[0]"),
        ({"policy": "{{ params.policy }}", "params": {"policy": {"metrics": []}}}, "not JSON"),
        ({"version": "latest"}, "use an alias"),
        ({"model_name": "two.levels"}, "needs three"),
        ({"champion_model_name": ""}, "needs three"),
        ({"champion_alias": "latest"}, "reserved"),
    ],
)
def test_user_errors_fail_before_any_call(validate, proxy, monkeypatch, options, message):
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    result = validate(**{"version": 1, **options}, registry_conn_id="through")
    assert result.state == "failed"
    assert result.ti("validate").try_number == 1
    assert message in result.output
    assert proxy.take() == []


def test_a_champions_model_that_comes_to_none_is_not_the_candidates_own(dag_runner, connection, measured, model_name):
    measured(0.9)

    def define():
        @task
        def pick():
            return None

        ValidateModelVersionOperator(
            task_id="validate",
            model_name=model_name,
            version=1,
            policy=NOT_WORSE,
            champion_model_name=pick(),
            registry_conn_id=connection,
            retries=2,
        )

    result = dag_runner.run(define)
    assert (result.task_state("validate"), result.ti("validate").try_number) == ("failed", 1)
    assert "champion_model_name is None" in result.output


def test_a_policy_as_a_template(validate, measured):
    measured(0.8)
    params = {
        "floor": Param(0.9, type="number"),
        "policy": {"metrics": [{"name": "accuracy", "min": 0.9}], **NO_SIGNATURE},
    }
    in_dict = {"metrics": [{"name": "accuracy", "min": "{{ params.floor }}"}], **NO_SIGNATURE}
    for policy in (in_dict, "{{ params.policy | tojson }}"):
        result = validate("{{ 1 }}", policy, params=params)
        assert result.state == "failed"
        assert result.xcom("validate")["reasons"] == ["accuracy 0.8, required >= 0.9"]


def test_approved_is_the_last_thing_written(validate, measured, client, model_name, proxy, monkeypatch):
    measured(0.9)
    monkeypatch.setenv("AIRFLOW_CONN_THROUGH", proxy.connection_json())
    denied = json.dumps({"error_code": "PERMISSION_DENIED", "message": "no"})
    proxy.fail("set-tag", status=403, body=denied, times=1)
    assert validate(1, registry_conn_id="through").state == "failed"
    assert tags_of(client, model_name, 1) == {}
    proxy.take()
    assert validate(1, registry_conn_id="through").state == "success"
    assert validate(1, {"metrics": [{"name": "accuracy", "min": 1}], **NO_SIGNATURE}, registry_conn_id="through")
    written = [(r.body["key"], r.body["value"]) for r in proxy.take() if r.path.endswith("set-tag")]
    assert written[2] == ("validation_status", "approved")
    assert written[3] == ("validation_status", "rejected")


def test_one_task_per_version(dag_runner, connection, measured, model_name):
    measured(0.8, 0.9, 0.7)

    def define():
        ValidateModelVersionOperator.partial(
            task_id="each", model_name=model_name, policy=NOT_WORSE, registry_conn_id=connection
        ).expand(version=[2, 3])

    result = dag_runner.run(define)
    assert [result.ti("each", i).state for i in range(2)] == ["success", "failed"]
    assert [result.xcom("each", map_index=i)["approved"] for i in range(2)] == [True, False]
