"""What the sensors for tags, aliases and models have in common, on an MLflow server and an emulated workspace."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from support.sensing import MODEL, MODELS, RETRIES, VERSION, Site, after_look, stored_trigger

from airflow_uc_models.compat import AirflowFailException, AirflowSensorTimeout
from airflow_uc_models.conditions import condition_from_json
from airflow_uc_models.sensors import ModelVersionTagSensor, RegisteredModelAliasSensor, RegisteredModelSensor


@dataclass(frozen=True)
class Case:
    """Something to wait for.

    :param options: of the sensor, but for the model's name; ``schema`` is filled in
    :param meet: makes it so
    :param path: what each look asks for
    :param version: the version that comes of it; None where it is a model
    :param versions: how many there are before; None where there is not even the model
    """

    sensor: type
    options: dict[str, Any]
    meet: Callable[[Site, str], None]
    path: str | tuple[str, str]
    version: int | None = None
    versions: int | None = 2

    def prepare(self, site, name):
        if self.versions is not None:
            site.make(name, self.versions)
            site.set_tag(name, 1, "approval", "pending")
            site.set_tag(name, 2, "approval", "Approved")
            site.set_alias(name, "Canary", 1)

    def options_for(self, name):
        if "schema" in self.options:
            return {"schema": name.rpartition(".")[0]}
        return {"model_name": name, **self.options}

    def found(self, site, name):
        """What is there, as it goes to XCom."""
        if self.version is None:
            return site.do("get_registered_model", name).to_xcom()
        return site.do("get_model_version", name, self.version).to_xcom()


def tag(value: str) -> Callable[[Site, str], None]:
    return lambda site, name: site.set_tag(name, 1, "approval", value)


def alias(alias: str, version: int) -> Callable[[Site, str], None]:
    return lambda site, name: site.set_alias(name, alias, version)


APPROVED = {"tag": "approval", "value": "Approved"}
CANARY = {"alias": "Canary"}
CASES = {
    "tag": Case(ModelVersionTagSensor, {"version": 1, **APPROVED}, tag("Approved"), VERSION, 1),
    "any of": Case(ModelVersionTagSensor, {**CANARY, "tag": "approval", "value": ["yes", "ok"]}, tag("ok"), VERSION, 1),
    "tag of an alias": Case(ModelVersionTagSensor, {**CANARY, **APPROVED}, alias("Canary", 2), MODEL, 2),
    "alias": Case(RegisteredModelAliasSensor, {"alias": "Champion"}, alias("Champion", 1), MODEL, 1),
    "alias to": Case(RegisteredModelAliasSensor, {**CANARY, "version": 2}, alias("Canary", 2), MODEL, 2),
    "alias newer": Case(RegisteredModelAliasSensor, {**CANARY, "newer_than": 1}, alias("Canary", 2), MODEL, 2),
    "model": Case(RegisteredModelSensor, {}, lambda site, name: site.make(name), MODEL, versions=None),
    "schema": Case(RegisteredModelSensor, {"schema": None}, lambda site, name: site.make(name), MODELS, versions=None),
}
MAIN = ("tag", "alias", "model", "schema")


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=MAIN)
def main_case(request):
    """For what has nothing to do with the parameters."""
    return CASES[request.param]


@pytest.fixture
def sense_for(sense_with, name):
    return lambda case, **options: sense_with(case.sensor, **case.options_for(name), **options)


def test_it_waits_until_it_is_so(sense_for, site, case, name, mode):
    case.prepare(site, name)
    with after_look(site.proxy, lambda: case.meet(site, name), path=case.path, looks=2):
        result = sense_for(case)(**mode)
    assert result.state == "success"
    assert result.xcom("sensor") == case.found(site, name)
    assert result.xcom("sensor", "name") == name
    assert result.xcom("sensor", "version") == case.version
    assert result.xcom("sensor", "model_version_url").endswith(str(case.version or name.rpartition(".")[2]))


def test_what_is_so_already_takes_one_look(sense_for, site, main_case, name, main_mode):
    case = main_case
    case.prepare(site, name)
    case.meet(site, name)
    result = sense_for(case)(**main_mode)
    assert result.xcom("sensor") == case.found(site, name)
    assert site.looks(case.path) == 1


@pytest.mark.parametrize("site", ["mlflow"], indirect=True)
def test_every_parameter_is_templated(sense_for, site, case, name, main_mode):
    case.prepare(site, name)
    options = {key: f"{{{{ params.{key} }}}}" for key in case.options_for(name)}
    if isinstance(case.options.get("value"), list):
        options["value"] = ["{{ params.value[0] }}", "{{ params.value[1] }}"]
    with after_look(site.proxy, lambda: case.meet(site, name), path=case.path):
        result = sense_for(case)(dag={"params": case.options_for(name)}, **options, **main_mode)
    assert result.xcom("sensor") == case.found(site, name)


@pytest.mark.parametrize("site", ["mlflow"], indirect=True)
def test_the_trigger_gets_the_condition_and_no_secret(sense_for, site, case, name):
    case.prepare(site, name)
    sense_for(case)(deferrable=True, timeout=0.2, missing_ok=True)
    classpath, kwargs = stored_trigger()
    assert classpath == "airflow_uc_models.triggers.condition.ConditionTrigger"
    condition = kwargs["condition"]
    assert condition == json.loads(json.dumps(condition))
    assert condition_from_json(condition).to_json() == condition
    assert condition["missing_ok"]
    names = {"value": "values"}
    for key, value in case.options_for(name).items():
        assert condition[names.get(key, key)] == ([value] if key == "value" and isinstance(value, str) else value)
    assert "token" not in json.dumps(kwargs)


# -- a registry that fails


def test_a_registry_that_is_down_is_ridden_out(sense_for, site, main_case, name, main_mode):
    case = main_case
    case.prepare(site, name)
    case.meet(site, name)
    faults = [
        site.proxy.fail(case.path, status=429, headers={"Retry-After": "0"}),
        site.proxy.fail(case.path, status=500, body="<html>"),
        site.proxy.fail(case.path, status=503),
        site.proxy.fail(case.path, reset=True),
    ]
    result = sense_for(case)(**main_mode)
    assert result.xcom("sensor") == case.found(site, name)
    assert [fault.times for fault in faults] == [0, 0, 0, 0]


def test_a_registry_that_stays_down_ends_in_a_timeout(sense_for, site, main_case, name, main_mode):
    main_case.prepare(site, name)
    site.proxy.fail(main_case.path, times=None, status=503)
    sense = sense_for(main_case, timeout=0.3)
    result = sense(**RETRIES, **main_mode)
    assert (result.task_state("sensor"), result.ti("sensor").try_number) == ("failed", 1)
    assert [type(error) for error in sense.errors] == [AirflowSensorTimeout]


def test_what_never_becomes_so_ends_in_a_timeout(sense_for, site, main_case, name, main_mode):
    main_case.prepare(site, name)
    sense = sense_for(main_case, timeout=0.3)
    result = sense(**RETRIES, **main_mode)
    assert (result.task_state("sensor"), result.ti("sensor").try_number) == ("failed", 1)
    assert [type(error) for error in sense.errors] == [AirflowSensorTimeout]
    assert sense(soft_fail=True, **main_mode).task_state("sensor") == "skipped"


@pytest.mark.parametrize("looks", [1, 3])
def test_a_refusal_fails_at_once(sense_for, site, main_case, name, main_mode, looks):
    main_case.prepare(site, name)
    seen = []
    body = json.dumps({"error_code": "PERMISSION_DENIED", "message": "go away"})
    fault = site.proxy.fail(main_case.path, times=None, status=403, body=body)
    fault.match = lambda r: r.path.endswith(main_case.path) and (seen.append(r) or len(seen) >= looks)
    sense = sense_for(main_case)
    result = sense(**RETRIES, **main_mode)
    assert (result.task_state("sensor"), result.ti("sensor").try_number) == ("failed", 1)
    assert len(seen) == looks
    (error,) = sense.errors
    assert isinstance(error, AirflowFailException)
    assert "go away" in str(error)


@pytest.mark.parametrize("site", ["mlflow"], indirect=True)
@pytest.mark.parametrize(
    ("case", "options", "told"),
    [
        ("tag", {"model_name": "two.levels"}, "three"),
        ("tag", {"version": None}, "either version or alias"),
        ("tag", {"alias": "Champion"}, "not both"),
        ("tag", {"version": "newest"}, "whole number"),
        ("tag", {"alias": "latest", "version": ""}, "reserved"),
        ("tag", {"tag": ""}, "tag key is empty"),
        ("tag", {"tag": "a=b"}, "not allowed"),
        ("tag", {"value": []}, "value is a string or a list of at least one, not []"),
        ("tag", {"value": ["a", None]}, "is None: the template or task"),
        ("tag", {"value": {"a": "b"}}, "value must be text"),
        ("tag", {"failed_value": []}, "failed_value is a string or a list"),
        ("tag", {"failed_value": ["no", "Approved"]}, "both name 'Approved'"),
        ("tag", {"value": "x" * 100_001}, "100001 characters"),
        ("alias", {"alias": "v3"}, "reserved"),
        ("alias", {"alias": ""}, "not allowed"),
        ("alias", {"version": 0}, "whole number from 1"),
        ("alias", {"newer_than": -1}, "newer_than is a whole number from 0"),
        ("alias", {"version": 2, "newer_than": 1}, "exclude each other"),
        ("alias", {"newer_than": 1, "moved": True}, "exclude each other"),
        ("model", {"schema": "dev.ml_team"}, "either model_name or schema"),
        ("model", {"model_name": ""}, "either model_name or schema"),
        ("model", {"model_name": "two.levels"}, "three"),
        ("schema", {"schema": "a.b.c"}, "'catalog.schema'"),
        ("schema", {"schema": "a b.c"}, "white space"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_parameters_fail_before_any_call(sense_for, site, case, options, told):
    sense = sense_for(CASES[case])
    result = sense(**RETRIES, **options)
    assert (result.task_state("sensor"), result.ti("sensor").try_number) == ("failed", 1)
    assert site.proxy.requests == []
    (error,) = sense.errors
    assert told in str(error)
