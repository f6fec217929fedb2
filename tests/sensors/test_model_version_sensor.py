"""What ModelVersionSensor finds and takes along, on a real MLflow server, through Airflow's task runner."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from support.registry import make_versions
from support.sensing import MODEL, MODES, SEARCH, add_version, after_look, stored_trigger

from airflow_uc_models.compat import AirflowException
from airflow_uc_models.sensors import ModelVersionSensor


@pytest.mark.parametrize("looks", [1, 3])
def test_a_version_that_appears_while_it_waits(sense, through_proxy, proxy, mlflow_server, model_name, mode, looks):
    client = make_versions(mlflow_server, model_name, 0)
    action = lambda: add_version(client, model_name, tags={"team": "risk"}, description="new")  # noqa: E731
    with after_look(proxy, action, looks=looks):
        result = sense(registry_conn_id=through_proxy, **mode)
    assert result.state == "success"
    found = result.xcom("sensor")
    assert (found["name"], found["version"], found["status"]) == (model_name, 1, "READY")
    assert (found["tags"], found["description"], found["aliases"]) == ({"team": "risk"}, "new", [])
    assert found["uri"] == f"models:/{model_name}/1"
    assert result.xcom("sensor", "model_version_url") == f"{proxy.url}/#/models/{model_name}/versions/1"


def test_xcom_is_the_whole_version_in_every_mode(sense, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 1)
    client.set_registered_model_alias(model_name, "Champion", "1")
    found = [sense.at(datetime(2026, 1, 1, tzinfo=UTC), **options).xcom("sensor") for options in MODES.values()]
    assert found[0]["aliases"] == ["Champion"]
    assert found[0] == found[1] == found[2]


def test_deferred_and_met_later_gives_the_same_xcom(sense, through_proxy, proxy, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 0)
    with after_look(proxy, lambda: add_version(client, model_name)):
        deferred = sense(registry_conn_id=through_proxy, deferrable=True)
    poked = sense(after_version=0)
    assert deferred.xcom("sensor") == poked.xcom("sensor") is not None


@pytest.mark.parametrize(("after", "expected"), [(0, 1), ("0", 1), (1, 2), ("{{ params.after }}", 3)])
def test_after_version_takes_the_oldest_newer_one(sense, mlflow_server, model_name, after, expected):
    make_versions(mlflow_server, model_name, 3)
    result = sense(after_version=after, dag={"params": {"after": 2}})
    assert result.xcom("sensor")["version"] == expected


def test_after_version_waits_for_a_newer_one(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 2)
    with after_look(proxy, lambda: add_version(client, model_name), looks=2):
        result = sense(after_version=2, registry_conn_id=through_proxy, **main_mode)
    assert result.xcom("sensor")["version"] == 3
    # A wait on a model with a long history does not read it again and again.
    first = next(r for r in proxy.requests if r.path.endswith(SEARCH))
    assert ("filter", f"name='{model_name}' and version_number > 2") in first.query


def test_tags_filter(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 2)
    client.set_model_version_tag(model_name, "1", "stage", "raw")
    with after_look(proxy, lambda: client.set_model_version_tag(model_name, "1", "stage", "done"), looks=2):
        result = sense(tags={"stage": "{{ 'done' }}"}, registry_conn_id=through_proxy, **main_mode)
    assert result.xcom("sensor")["version"] == 1
    assert result.xcom("sensor")["tags"] == {"stage": "done"}


def test_alias_filter(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    client = make_versions(mlflow_server, model_name, 3)
    client.set_registered_model_alias(model_name, "Candidate", "1")
    action = lambda: client.set_registered_model_alias(model_name, "Candidate", "2")  # noqa: E731
    with after_look(proxy, action, path=MODEL, looks=2):
        result = sense(alias="Candidate", after_version=1, registry_conn_id=through_proxy, **main_mode)
    assert result.xcom("sensor")["version"] == 2
    assert result.xcom("sensor")["aliases"] == ["Candidate"]


def test_alias_and_tags_must_both_hold(sense, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    client.set_model_version_tag(model_name, "1", "ok", "1")
    client.set_registered_model_alias(model_name, "Candidate", "2")
    result = sense(alias="Candidate", tags={"ok": 1}, timeout=0)
    assert result.state == "failed"
    client.set_model_version_tag(model_name, "2", "ok", "1")
    assert sense(alias="Candidate", tags={"ok": 1}).xcom("sensor")["version"] == 2


def test_the_trigger_gets_every_option_and_no_secret(sense, monkeypatch, proxy, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)
    value = json.loads(proxy.connection_json()) | {"login": "ann", "password": "hunter2-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_PROXY", json.dumps(value))
    before = time.time()
    sense(
        registry_conn_id="mlflow_proxy",
        deferrable=True,
        after_version=2,
        tags={"stage": "done"},
        alias="Candidate",
        missing_ok=True,
        timeout=0.5,
        exponential_backoff=True,
        max_wait=0.2,
    )
    assert all(r.headers["authorization"].startswith("Basic ") for r in proxy.requests)
    classpath, kwargs = stored_trigger()
    assert classpath == "airflow_uc_models.triggers.condition.ConditionTrigger"
    deadline, reason = kwargs.pop("deadline"), kwargs.pop("reason")
    assert before + 0.5 < deadline < before + 30
    assert "There is no such version yet" in reason
    assert kwargs == {
        "condition": {
            "kind": "new_model_version",
            "model_name": model_name,
            "after_version": 2,
            "tags": {"stage": "done"},
            "alias": "Candidate",
            "missing_ok": True,
        },
        "registry_conn_id": "mlflow_proxy",
        "poll_interval": 0.05,
        "max_poll_interval": 0.2,
    }
    assert "secret" not in json.dumps(kwargs)


def test_the_link_leads_to_the_model_while_it_waits(sense, through_proxy, proxy, mlflow_server, model_name, main_mode):
    make_versions(mlflow_server, model_name, 0)
    result = sense(registry_conn_id=through_proxy, timeout=0.2, **main_mode)
    assert result.xcom("sensor", "model_version_url") == f"{proxy.url}/#/models/{model_name}"


def test_poll_interval_is_poke_interval():
    common = {"task_id": "sensor", "model_name": "a.b.c"}
    assert ModelVersionSensor(**common).poll_interval == 60
    assert ModelVersionSensor(poll_interval=5, **common).poke_interval == 5
    assert ModelVersionSensor(poll_interval=timedelta(minutes=2), **common).poll_interval == 120
    assert ModelVersionSensor(poke_interval=7, **common).poll_interval == 7
    assert ModelVersionSensor(default_args={"poke_interval": 8}, **common).poll_interval == 8
    assert ModelVersionSensor(default_args={"poll_interval": 9}, **common).poll_interval == 9
    assert ModelVersionSensor(poll_interval=5, default_args={"poke_interval": 8}, **common).poll_interval == 5
    with pytest.raises((ValueError, AirflowException), match="poke_interval"):
        ModelVersionSensor(poll_interval=-1, **common)


@pytest.mark.parametrize("value", [True, False])
def test_deferrable_defaults_to_the_configuration(monkeypatch, value):
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", str(value))
    common = {"task_id": "sensor", "model_name": "a.b.c"}
    assert ModelVersionSensor(**common).deferrable is value
    assert ModelVersionSensor(deferrable=not value, **common).deferrable is not value
