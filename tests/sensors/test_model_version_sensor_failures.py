"""How ModelVersionSensor fails, times out and rides out, on a real MLflow server behind a proxy with faults."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from support.registry import make_versions
from support.sensing import MODEL, SEARCH, after_look, set_status

from airflow_uc_models.compat import AirflowFailException, AirflowSensorTimeout

# -- what waiting cannot mend


def test_a_missing_model_fails_at_once(sense, through_proxy, proxy, model_name, mode):
    result = sense(registry_conn_id=through_proxy, retries=3, retry_delay=timedelta(0), **mode)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert [r.path.rsplit("/", 2)[-2:] for r in proxy.requests] == [["registered-models", "get"]]
    (error,) = sense.errors
    assert isinstance(error, AirflowFailException)
    assert model_name in str(error)
    assert "missing_ok=True" in str(error)


@pytest.mark.parametrize("looks", [1, 2])
def test_missing_ok_waits_for_the_model(sense, through_proxy, proxy, mlflow_server, model_name, mode, looks):
    with after_look(proxy, lambda: make_versions(mlflow_server, model_name, 1), path=MODEL, looks=looks):
        result = sense(registry_conn_id=through_proxy, missing_ok=True, **mode)
    assert result.xcom("sensor")["version"] == 1


def test_a_model_deleted_while_it_waits_fails(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 0)
    with after_look(proxy, lambda: client.delete_registered_model(model_name), looks=2):
        result = sense(registry_conn_id=through_proxy, **main_mode)
    assert result.task_state("sensor") == "failed"
    assert "no registered model" in str(sense.errors[0])


def test_a_failed_registration_fails_at_once_and_only_once(sense, mlflow_server, model_name, mode):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "FAILED_REGISTRATION", "the upload broke off")
    assert sense(after_version=0, **mode).xcom("sensor")["version"] == 1  # an older READY one comes first
    failed = sense(retries=2, retry_delay=timedelta(0), **mode)
    assert failed.task_state("sensor") == "failed"
    assert failed.ti("sensor").try_number == 1
    assert f"Version 2 of {model_name} ended in FAILED_REGISTRATION: the upload broke off." in str(sense.errors[0])
    assert failed.xcom("sensor", "model_version_url").endswith(f"{model_name}/versions/2")
    assert sense(**mode).xcom("sensor")["version"] == 3


def test_a_registration_that_fails_while_it_waits(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 1)
    set_status(mlflow_server, model_name, 1, "PENDING_REGISTRATION")
    action = lambda: set_status(mlflow_server, model_name, 1, "FAILED_REGISTRATION", "no signature")  # noqa: E731
    with after_look(proxy, action, looks=2):
        result = sense(registry_conn_id=through_proxy, **main_mode)
    assert result.task_state("sensor") == "failed"
    assert "no signature" in str(sense.errors[0])


def test_a_pending_version_keeps_newer_ones_waiting(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "PENDING_REGISTRATION", age=timedelta(minutes=55))
    with after_look(proxy, lambda: set_status(mlflow_server, model_name, 2, "READY"), looks=2):
        result = sense(registry_conn_id=through_proxy, after_version=1, **main_mode)
    assert result.xcom("sensor")["version"] == 2


def test_an_abandoned_pending_version_is_passed_over(sense, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 3)
    set_status(mlflow_server, model_name, 2, "PENDING_REGISTRATION", age=timedelta(minutes=65))
    assert sense(after_version=1, **main_mode).xcom("sensor")["version"] == 3


@pytest.mark.parametrize(("status", "code", "looks"), [(401, "UNAUTHENTICATED", 2), (403, "PERMISSION_DENIED", 1)])
def test_refused_access_fails_at_once(
    sense, through_proxy, proxy, mlflow_server, model_name, main_mode, status, code, looks
):
    make_versions(mlflow_server, model_name, 0)
    seen = []
    fault = proxy.fail(MODEL, times=None, status=status, body=json.dumps({"error_code": code, "message": "go away"}))
    fault.match = lambda r: r.path.endswith(MODEL) and (seen.append(r) or len(seen) >= looks)
    result = sense(registry_conn_id=through_proxy, retries=2, retry_delay=timedelta(0), **main_mode)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert len(seen) == looks
    assert isinstance(sense.errors[0], AirflowFailException)
    assert "go away" in str(sense.errors[0])


@pytest.mark.parametrize(
    "options",
    [
        {"model_name": "two.levels"},
        {"alias": "latest"},
        {"alias": "v3"},
        {"after_version": -1},
        {"after_version": "newest"},
        {"tags": {"stage": None}},
    ],
    ids=str,
)
def test_bad_parameters_fail_before_any_call(sense, through_proxy, proxy, options):
    result = sense(registry_conn_id=through_proxy, retries=2, retry_delay=timedelta(0), **options)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert proxy.requests == []


def test_empty_templates_count_as_not_given(sense, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)
    result = sense(after_version="{{ none }}", alias="{{ '' }}", tags={})
    assert result.xcom("sensor")["version"] == 2


# -- timeouts and faults


def test_a_timeout_fails_without_retry(sense, mlflow_server, model_name, mode):
    make_versions(mlflow_server, model_name, 1)
    result = sense(after_version=1, timeout=0.3, retries=2, retry_delay=timedelta(0), **mode)
    assert result.task_state("sensor") == "failed"
    assert result.ti("sensor").try_number == 1
    assert [type(e) for e in sense.errors] == [AirflowSensorTimeout]


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("soft_fail", "timeout"),
        ("never_fail", "timeout"),
        ("soft_fail", "missing model"),
        ("never_fail", "bad name"),
        ("soft_fail", "403 while waiting"),
    ],
)
def test_soft_fail_and_never_fail_skip(sense, through_proxy, proxy, mlflow_server, model_name, mode, option, cause):
    options = {"registry_conn_id": through_proxy}
    if cause == "bad name":
        options |= {"model_name": "bad"}
    elif cause != "missing model":
        make_versions(mlflow_server, model_name, 0)
    if cause == "timeout":
        options |= {"timeout": 0.2}
    if cause == "403 while waiting":
        fault = proxy.fail(SEARCH, status=403, body='{"error_code": "PERMISSION_DENIED", "message": "go away"}')
        seen = []
        fault.match = lambda r: r.path.endswith(SEARCH) and (seen.append(r) or len(seen) == 2)
    result = sense(**options, **{option: True}, **mode)
    assert result.task_state("sensor") == "skipped"


@pytest.mark.parametrize(("fault", "times"), [({"status": 503}, 2), ({"reset": True}, 1)], ids=str)
def test_a_registry_that_is_down_is_ridden_out(
    sense, through_proxy, proxy, mlflow_server, model_name, mode, fault, times
):
    make_versions(mlflow_server, model_name, 1)
    played = proxy.fail(MODEL, times=times, **fault)
    result = sense(registry_conn_id=through_proxy, **mode)
    assert result.xcom("sensor")["version"] == 1
    assert played.times == 0


def test_a_registry_that_stays_down_ends_in_a_timeout(sense, through_proxy, proxy, mode):
    proxy.fail(MODEL, times=None, status=503)
    result = sense(registry_conn_id=through_proxy, timeout=0.3, retries=2, retry_delay=timedelta(0), **mode)
    assert result.task_state("sensor") == "failed"
    assert [type(e) for e in sense.errors] == [AirflowSensorTimeout]
