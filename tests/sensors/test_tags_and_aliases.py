"""ModelVersionTagSensor and RegisteredModelAliasSensor: what is not there, is rejected, or has been handled."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.proxy import Proxy
from support.sensing import MODEL, RETRIES, VERSION, after_look

from airflow_uc_models.sensors import ModelVersionTagSensor, RegisteredModelAliasSensor

FAILED, PENDING = "FAILED_REGISTRATION", "PENDING_REGISTRATION"
DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def approval(sense_with, name):
    return sense_with(ModelVersionTagSensor, model_name=name, tag="approval", value="Approved")


@pytest.fixture
def champion(sense_with, name):
    return sense_with(RegisteredModelAliasSensor, model_name=name, alias="Champion")


def ended(result):
    return result.task_state("sensor"), result.ti("sensor").try_number


# -- what is missing

MISSING = {
    "model": (None, {"version": 1}, "There is no version 1 of "),
    "version": (1, {"version": 2}, "There is no version 2 of "),
    "alias": (2, {"alias": "Canary"}, "with alias 'Canary', or the connection's principal may not see it."),
    "model of an alias": (None, {"alias": "Canary"}, "with alias 'Canary', or "),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_missing_version_has_no_tag(approval, site, name, main_mode, what):
    versions, options, told = MISSING[what]
    if versions is not None:
        site.make(name, versions)
    result = approval(**options, **RETRIES, **main_mode)
    assert ended(result) == ("failed", 1)
    assert told in str(approval.errors[0])
    assert "missing_ok=True" in str(approval.errors[0])
    assert len(site.proxy.take()) == 1


@pytest.mark.parametrize("what", MISSING)
def test_missing_ok_waits_for_the_version(approval, site, name, main_mode, what):
    versions, options, _ = MISSING[what]
    number = options.get("version", 2)
    if versions is not None:
        site.make(name, versions)

    def appear():
        if versions is None:
            site.make(name)
        for _ in range(number - (versions or 0)):
            site.add_version(name)
        site.set_tag(name, number, "approval", "Approved")
        if "alias" in options:
            site.set_alias(name, "Canary", number)

    path = VERSION if "version" in options else MODEL
    with after_look(site.proxy, appear, path=path, looks=2):
        result = approval(missing_ok=True, **options, **main_mode)
    assert result.xcom("sensor")["version"] == number


@pytest.mark.parametrize("options", [{"version": 1}, {"alias": "Canary"}], ids=str)
def test_a_version_deleted_while_it_waits_fails(approval, site, name, main_mode, options):
    site.make(name, 1)
    site.set_alias(name, "Canary", 1)
    with after_look(site.proxy, lambda: site.do("delete_model_version", name, 1), path=VERSION, looks=2):
        result = approval(**options, **main_mode)
    assert result.task_state("sensor") == "failed"
    assert "There is no version" in str(approval.errors[0])


def test_an_alias_that_a_deleted_version_left_behind_leads_nowhere(approval, site, name, main_mode):
    """As on MLflow servers before 3.17."""
    site.make(name, 1)
    site.do("delete_model_version", name, 1)
    model = {"name": name, "aliases": [{"alias": "Canary", "version": "1"}]}
    site.proxy.fail(MODEL, times=99, status=200, body=json.dumps({"registered_model": model}))
    assert approval(alias="Canary", **main_mode).task_state("sensor") == "failed"
    assert "There is no version" in str(approval.errors[0])


def test_a_version_deleted_in_the_midst_of_a_look_is_looked_for_again(approval, site, name):
    site.make(name, 2)
    site.set_alias(name, "Canary", 1)

    def replace():
        site.do("delete_model_version", name, 1)
        site.set_alias(name, "Canary", 2)
        site.set_tag(name, 2, "approval", "Approved")

    with after_look(site.proxy, replace, path=MODEL):
        result = approval(alias="Canary")
    assert result.xcom("sensor")["version"] == 2


def test_an_alias_of_a_missing_model(champion, site, name, main_mode):
    result = champion(**RETRIES, **main_mode)
    assert ended(result) == ("failed", 1)
    assert f"There is no registered model {name}, or " in str(champion.errors[0])

    def appear():
        site.make(name, 1)
        site.set_alias(name, "Champion", 1)

    site.proxy.take()
    with after_look(site.proxy, appear, path=MODEL, looks=2):
        result = champion(missing_ok=True, **main_mode)
    assert result.xcom("sensor")["aliases"] == ["Champion"]


# -- what is not READY, or rejected


@pytest.mark.parametrize("kind", ["tag", "alias"])
def test_the_version_must_be_ready(approval, champion, site, name, main_mode, kind):
    sense, options = (approval, {"version": 1}) if kind == "tag" else (champion, {})
    site.make(name, 1)
    site.set_tag(name, 1, "approval", "Approved")
    site.set_alias(name, "Champion", 1)
    site.set_status(name, 1, PENDING)
    with after_look(site.proxy, lambda: site.set_status(name, 1, "READY"), path=VERSION, looks=2):
        assert sense(**options, **main_mode).xcom("sensor")["status"] == "READY"
    site.set_status(name, 1, PENDING)
    with after_look(site.proxy, lambda: site.set_status(name, 1, FAILED, "no space"), path=VERSION, looks=2):
        result = sense(**options, **RETRIES, **main_mode)
    assert ended(result) == ("failed", 1)
    assert f"Version 1 of {name} ended in {FAILED}: no space." in str(sense.errors[-1])
    assert result.xcom("sensor") is None


@pytest.mark.parametrize("failed_value", ["Rejected", ["no", "Rejected"]], ids=str)
@pytest.mark.parametrize("looks", [0, 2])
def test_a_rejected_version_fails_at_once(approval, site, name, main_mode, failed_value, looks):
    site.make(name, 1)
    site.set_tag(name, 1, "approval", "pending" if looks else "Rejected")
    with after_look(site.proxy, lambda: site.set_tag(name, 1, "approval", "Rejected"), path=VERSION, looks=looks or 1):
        result = approval(version=1, failed_value=failed_value, **RETRIES, **main_mode)
    assert ended(result) == ("failed", 1)
    assert f"Tag 'approval' of version 1 of {name} is 'Rejected'" in str(approval.errors[0])
    assert result.xcom("sensor", "model_version_url").endswith("1")


def test_letter_case_counts(approval, site, name):
    site.make(name, 1)
    site.set_tag(name, 1, "approval", "approved")
    assert approval(version=1, timeout=0.2).task_state("sensor") == "failed"
    assert approval(version=1, value=["approved", "Approved"]).state == "success"


@pytest.mark.parametrize("value", [None, ""])
def test_any_value_and_the_empty_one(approval, site, name, value):
    site.make(name, 1)
    assert approval(version=1, value=value, timeout=0.2).task_state("sensor") == "failed"
    site.set_tag(name, 1, "approval", "")
    assert approval(version=1, value=value).state == "success"


# -- what a registry lacks


@pytest.mark.parametrize("kind", ["tag", "alias"])
def test_where_there_are_no_tags_and_aliases_it_fails_before_any_call(
    dag_runner, open_source, monkeypatch, main_mode, kind
):
    name = open_source.make(open_source.new_name(), ("one",))

    def define():
        common = {"task_id": "sensor", "model_name": name, "registry_conn_id": "watched", **main_mode}
        if kind == "tag":
            ModelVersionTagSensor(version=1, tag="approval", missing_ok=True, **common)
        else:
            RegisteredModelAliasSensor(alias="Champion", missing_ok=True, **common)

    with Proxy(open_source.url) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_WATCHED", open_source.connection_json(proxy.url))
        result = dag_runner.run(define, default_args=RETRIES)
        assert proxy.take() == []
    assert ended(result) == ("failed", 1)
    lacking = {"tag": "tags", "alias": "aliases"}[kind]
    assert f"open-source Unity Catalog server does not support {lacking}." in result.output


# -- moves of an alias


def test_each_run_waits_for_the_next_move(champion, site, name, mode):
    site.make(name, 3)
    with after_look(site.proxy, lambda: site.set_alias(name, "Champion", 2), path=MODEL, looks=2):
        assert champion(moved=True, **mode).xcom("sensor")["version"] == 2  # the first run waits for it to exist
    for number in (3, 1):  # forward, and back
        assert champion(moved=True, timeout=0, soft_fail=True, **mode).task_state("sensor") == "skipped"
        site.proxy.take()
        with after_look(
            site.proxy, lambda number=number: site.set_alias(name, "Champion", number), path=MODEL, looks=2
        ):
            assert champion(moved=True, **mode).xcom("sensor")["version"] == number


def test_the_first_run_takes_where_it_points(champion, site, name, main_mode):
    site.make(name, 1)
    site.set_alias(name, "Champion", 1)
    assert champion(moved=True, **main_mode).xcom("sensor")["version"] == 1


def test_without_moved_a_run_is_not_held_up_but_remembered(champion, site, name):
    site.make(name, 2)
    site.set_alias(name, "Champion", 1)
    assert champion().xcom("sensor")["version"] == champion().xcom("sensor")["version"] == 1
    assert champion(moved=True, timeout=0, soft_fail=True).task_state("sensor") == "skipped"


def test_another_alias_is_no_baseline(champion, site, name):
    site.make(name, 1)
    site.set_alias(name, "Champion", 1)
    site.set_alias(name, "Canary", 1)
    assert champion(moved=True).state == "success"
    assert champion(moved=True, alias="Canary").state == "success"


def test_a_failed_version_counts_as_handled(champion, site, name):
    site.make(name, 2)
    site.set_alias(name, "Champion", 2)
    site.set_status(name, 2, FAILED)
    assert champion(moved=True).task_state("sensor") == "failed"
    site.set_alias(name, "Champion", 1)
    assert champion(moved=True).xcom("sensor")["version"] == 1


@pytest.mark.parametrize("site", ["mlflow"], indirect=True)
def test_the_latest_run_before_this_one_counts(champion, site, name):
    """Runs with and without a logical date: what tells is when they could start, as a version may be older."""
    site.make(name, 4)
    for hours, dated, number in [(0, True, 4), (1, False, 3), (2, True, 2), (3, False, 4), (4, False, 1), (5, True, 3)]:
        moment = DAY + timedelta(hours=hours)
        options = {"logical_date": moment if dated else None, "run_after": moment, "moved": True}
        if hours:  # where the run before left it, it does not move
            waited = champion.at(**options, timeout=0, soft_fail=True)
            assert waited.task_state("sensor") == "skipped"
        site.set_alias(name, "Champion", number)
        assert champion.at(**options).xcom("sensor")["version"] == number


def test_a_run_made_anew_is_compared_with_the_runs_before(champion, site, name):
    site.make(name, 3)
    days = [DAY + timedelta(days=number) for number in range(3)]
    for day, number in zip(days, (1, 2, 3), strict=True):
        site.set_alias(name, "Champion", number)
        assert champion.at(day, moved=True).xcom("sensor")["version"] == number
    # The second one, made anew, finds 3 and goes on from 1.
    assert champion.at(days[1], moved=True).xcom("sensor")["version"] == 3
    site.set_alias(name, "Champion", 1)
    assert champion.at(days[1], moved=True, timeout=0, soft_fail=True).task_state("sensor") == "skipped"
