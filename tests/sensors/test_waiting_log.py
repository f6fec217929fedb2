"""What a sensor logs while it waits: why, when it begins and whenever that changes; not at each look."""

from __future__ import annotations

import pytest
from airflow.sdk import Context
from support.sensing import MODES, after_look

from airflow_uc_models.compat import AirflowSensorTimeout
from airflow_uc_models.sensors import ModelVersionTagSensor

PATH = "model-versions/get"


pytestmark = pytest.mark.parametrize("site", ["mlflow"], indirect=True)


@pytest.fixture
def remembers(mode):
    if mode == MODES["reschedule"] and "task_state_store" not in Context.__annotations__:
        pytest.skip("before Airflow 3.3 nothing is kept between looks that are processes, so each says why it waits")


@pytest.fixture
def run(sense_with, site, model_name):
    """Wait for the tag ``ok`` of the only version to be ``yes``; returns the result and what was raised."""
    site.make(model_name, versions=1)
    options = {"model_name": model_name, "version": 1, "tag": "ok", "value": "yes"}

    def run(**more):
        sense = sense_with(ModelVersionTagSensor, **options)
        return sense(**more), sense.errors

    return run


def lines(result, text):
    return [line for line in result.output.splitlines() if text in line]


@pytest.mark.usefixtures("remembers")
def test_a_reason_is_logged_once_and_again_when_it_changes(run, site, model_name, mode):
    with (
        after_look(site.proxy, lambda: site.set_tag(model_name, 1, "ok", "not yet"), path=PATH, looks=4),
        after_look(site.proxy, lambda: site.set_tag(model_name, 1, "ok", "yes"), path=PATH, looks=8),
    ):
        result, _ = run(**mode)
    assert result.state == "success"
    first, second = lines(result, "Waiting. ")
    assert "is not set" in first
    assert "is 'not yet'" in second


@pytest.mark.usefixtures("remembers")
def test_a_registry_that_is_down_is_warned_of_once(run, site, model_name, mode):
    site.set_tag(model_name, 1, "ok", "yes")
    site.proxy.fail(PATH, times=5, status=503)
    result, _ = run(**mode)
    assert result.state == "success"
    (line,) = lines(result, "The wait goes on")
    assert "connection: 'site'" in line.lower()
    assert lines(result, "Waiting. ") == []


def test_a_timeout_says_what_was_waited_for_and_why(run, mode):
    _, (error,) = run(timeout=0.3, **mode)
    assert isinstance(error, AirflowSensorTimeout)
    assert "while waiting for tag 'ok' of" in str(error)
    assert "is not set" in str(error)
