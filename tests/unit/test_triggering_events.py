"""The event that started a run, whichever way it was started: by Airflow's scheduler, by hand, by another Dag."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, AssetWatcher, BaseOperator, task
from support.asset_runs import Listening, QuietTrigger, fire, run_tasks, told
from support.dag_runs import Result
from support.registry import make_versions

from airflow_uc_models.assets import model_asset
from airflow_uc_models.compat import AirflowFailException, AirflowSkipException
from airflow_uc_models.events import ModelEvent
from airflow_uc_models.operators import SetRegisteredModelAliasOperator
from airflow_uc_models.sensors import ModelVersionSensor
from airflow_uc_models.triggering_events import model_event, model_events

NAME = "prod.ml_team.fraud"
READY, SET = "model_version.ready", "model_version_alias.created"
FIRST = ModelEvent(READY, NAME, 3, created_at=7, key=f"{READY}/{NAME}/3/7")
SECOND = ModelEvent(SET, NAME, 4, alias="Champion", from_version=3, key="second")


class Render(BaseOperator):
    """Returns what a template gives."""

    template_fields = ("text",)

    def __init__(self, *, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text

    def execute(self, context: Any) -> Any:
        return self.text


def by_hand(conf, run_id="manual__1", **fields):
    return {"dag_run": SimpleNamespace(conf=conf, run_id=run_id, **fields), "triggering_asset_events": {}}


def by_assets(*extras, asset=NAME, **run):
    """The context that Airflow's own class makes of asset events, given oldest first and handed over newest first."""
    from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
    from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

    uri = model_asset(asset).uri
    events = [
        AssetEventDagRunReferenceResult.model_validate(
            {
                "asset": {"name": uri, "uri": uri, "extra": {}},
                "extra": extra,
                "source_task_id": None,
                "source_dag_id": None,
                "source_run_id": None,
                "source_map_index": None,
                "source_aliases": [{"name": "also"}],
                "timestamp": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=6 * number),
            }
        )
        for number, extra in enumerate(extras)
    ]
    context = by_hand({}, **run)
    return {**context, "triggering_asset_events": TriggeringAssetEventsAccessor.build(reversed(events))}


def watched(event):
    return {"from_trigger": True, "payload": event.to_json()}


# -- by assets


def test_a_watcher(dag_runner, model_name):
    event = ModelEvent(READY, model_name, 3, created_at=7, key="k")
    asset = model_asset(model_name, watchers=[AssetWatcher(name="new", trigger=QuietTrigger(model_name))])

    def define():
        @task
        def typed(**context):
            assert model_event(context) == model_event() == event
            assert model_events() == [event]

        typed()
        Render(
            task_id="render",
            text="{{ macros.uc_models.model_event().version }} "
            "{{ macros.uc_models.model_events() | map(attribute='uri') | join }}",
        )

    listening = Listening(dag_runner, [asset], define)
    fire(event.to_json(), model_name)
    result = listening.run()
    assert result.state == "success"
    assert result.xcom("render") == f"3 models:/{model_name}/3"


def test_a_template_of_native_objects(dag_runner):
    with DAG(dag_runner.dag_id, schedule=None, render_template_as_native_obj=True) as dag:
        Render(task_id="render", text="{{ macros.uc_models.model_event().version }}")
    dag_runner.sync(dag)
    assert Result(dag.test(run_conf=FIRST.to_json())).xcom("render") == 3


def test_oldest_first_and_each_once():
    third = ModelEvent(READY, NAME, 5, key="third")
    context = by_assets(watched(FIRST), watched(SECOND), watched(FIRST), watched(third))
    assert model_events(context) == [FIRST, SECOND, third]
    assert model_event(context) == FIRST


def test_all_that_one_asset_event_carries():
    context = by_assets({"model_events": [SECOND.to_json(), FIRST.to_json()]}, {}, {"rows": 3}, FIRST.to_json())
    assert model_events(context) == [SECOND, FIRST]


@pytest.mark.parametrize("payload", [None, 3, "text", {}, {"kind": "other", "model_name": NAME}, {"kind": READY}])
def test_what_is_no_event_of_a_model_is_left_out(payload):
    assert model_events(by_assets({"from_trigger": True, "payload": payload})) == []


def test_an_event_of_a_later_release():
    assert model_events(by_assets({"from_trigger": True, "payload": {**FIRST.to_json(), "new": 1}})) == [FIRST]


def test_events_without_a_key_are_told_apart_by_what_they_say():
    said = [{"kind": READY, "model_name": NAME, "version": version} for version in (3, 4, 3)]
    assert [event.version for event in model_events(by_assets({"model_events": said}))] == [3, 4]


# -- a run that is about nothing


def test_no_event_is_a_clear_failure(dag_runner):
    def define():
        @task
        def work(**context):
            model_event(context)

        work()
        Render(task_id="render", text="{{ macros.uc_models.model_event().version }}")

    result = dag_runner.run(define, default_args={"retries": 2, "retry_delay": timedelta(0)})
    assert (result.task_state("work"), result.task_state("render")) == ("failed", "failed")
    assert result.ti("work").try_number == 1
    assert "No model event started this run. Start it by an asset of a model, or by hand with a conf" in result.output


def test_nothing_to_change_is_skipped(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 1).set_registered_model_alias(model_name, "Champion", "1")
    asset = model_asset(model_name, connection)

    def define():
        @task
        def work(**context):
            model_event(context)

        work()
        Render(task_id="render", text="{{ macros.uc_models.model_event().version }}")

    listening = Listening(dag_runner, [asset], define)
    common = {"model_name": model_name, "registry_conn_id": connection, "outlets": [asset]}
    dag_runner.run(lambda: SetRegisteredModelAliasOperator(task_id="set", alias="Champion", version=1, **common))
    result = listening.run()
    assert (result.task_state("work"), result.task_state("render")) == ("skipped", "skipped")


def test_skipped_only_where_a_task_said_so():
    with pytest.raises(AirflowSkipException):
        model_event(by_assets({}, {"model_events": []}))
    with pytest.raises(AirflowFailException):
        model_event(by_assets({}))


# -- by partition


def test_a_partition_is_about_its_version():
    fourth = ModelEvent(READY, NAME, 4, key="fourth")
    context = by_assets({"model_events": [FIRST.to_json(), fourth.to_json()]}, partition_key=f"{NAME}/4")
    assert model_events(context) == [fourth]


def test_a_partition_without_events():
    [event] = model_events(by_assets({}, partition_key=f"{NAME}/4"))
    assert (event.kind, event.uri) == (READY, f"models:/{NAME}/4")
    assert event.key == model_event(by_assets({}, partition_key=f"{NAME}/4", run_id="another")).key


@pytest.mark.parametrize("key", [None, "2026-01-01", f"{NAME}@Champion", f"{NAME}/latest", 3])
def test_other_partitions_say_nothing(key):
    assert model_events(by_assets(watched(FIRST), partition_key=key)) == [FIRST]


def test_partitions_made_by_a_task(dag_runner, model_name):
    partitioned = pytest.importorskip("airflow.sdk.definitions.timetables.assets")
    if not hasattr(partitioned, "PartitionedAssetTimetable"):
        pytest.skip("Airflow has no partitions of assets")
    asset = model_asset(model_name)
    listening = Listening(dag_runner, partitioned.PartitionedAssetTimetable(assets=asset), told)

    def define():
        @task(outlets=[asset])
        def relay(**context):
            if not hasattr(context["outlet_events"][asset], "add_partitions"):
                return False
            context["outlet_events"][asset].add_partitions([f"{model_name}/1", f"{model_name}/2"])
            return True

        relay()

    if not dag_runner.run(define).xcom("relay"):
        pytest.skip("a task cannot name partitions")
    runs = [run_tasks(listening.dag, run_id).xcom("told") for run_id in listening.scheduled()]
    assert sorted(event["version"] for [event] in runs) == [1, 2]


# -- by hand


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({"model_name": NAME, "version": 3}, {"kind": READY, "version": 3}),
        ({"model_name": NAME, "model_version": "3"}, {"kind": READY, "version": 3}),
        ({"model_name": NAME, "version": "", "model_version": "4"}, {"kind": READY, "version": 4}),
        ({"model_uri": f"models:/{NAME}/3"}, {"kind": READY, "version": 3}),
        ({"model_uri": f"models:/{NAME}@Champion"}, {"kind": SET, "alias": "Champion"}),
        (
            {"model_name": NAME, "version": "3", "alias": "Champion", "from_version": "2"},
            {"kind": SET, "version": 3, "alias": "Champion", "from_version": 2},
        ),
        ({"model_name": NAME}, {"kind": "registered_model.created"}),
        ({"model_name": NAME, "kind": "registered_model.deleted"}, {"kind": "registered_model.deleted"}),
        (
            {"model_name": NAME, "version": 3, "kind": "model_version_tag.set", "tag_key": "a", "tag_value": "b"},
            {"kind": "model_version_tag.set", "version": 3, "tag_key": "a", "tag_value": "b"},
        ),
        (
            {
                "entity": "model_version",
                "action": "created",
                "timestamp": "2026-01-01T00:00:00",
                "data": {"name": NAME, "version": "3", "source": "models:/m-1", "run_id": None, "tags": {}},
            },
            {"kind": "model_version.created", "version": 3},
        ),
        (
            {
                "entity": "model_version_alias",
                "action": "created",
                "data": {"name": NAME, "alias": "a", "version": "3"},
            },
            {"kind": SET, "version": 3, "alias": "a"},
        ),
    ],
)
def test_a_conf(conf, expected):
    [event] = model_events(by_hand(conf))
    said = {key: value for key, value in event.to_json().items() if key not in {"key", "uri"}}
    assert said == {"model_name": NAME, **expected}
    assert event == model_event(by_hand(conf))
    assert event.key != model_event(by_hand(conf, "manual__2")).key


def test_a_whole_event_as_conf_keeps_its_key():
    assert model_events(by_hand(FIRST.to_json())) == [FIRST]
    assert model_events(by_hand({"model_events": [FIRST.to_json(), SECOND.to_json()]})) == [FIRST, SECOND]
    assert model_events(by_hand(watched(SECOND))) == [SECOND]


@pytest.mark.parametrize("conf", [None, {}, {"rows": 3}, {"name": NAME}, {"model_name": "", "version": ""}])
def test_a_conf_about_something_else(conf):
    assert model_events(by_hand(conf)) == []


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"model_name": "fraud", "version": 3}, "needs three: catalog.schema.model"),
        ({"model_name": NAME, "version": "latest"}, "whole number from 1"),
        ({"model_name": NAME, "version": 3, "kind": "model.done"}, "Unknown kind of event 'model.done'"),
        ({"model_name": NAME, "kind": READY}, f"names no version of {NAME}"),
        ({"model_uri": "runs:/abc/model"}, "models"),
        ({"model_name": NAME, "alias": "v3"}, "reserved"),
    ],
)
def test_a_wrong_conf_says_so(conf, said):
    with pytest.raises(ValueError, match=said):
        model_events(by_hand(conf))


def test_a_run_by_hand_and_by_another_dag(dag_runner, model_name):
    with DAG(f"{dag_runner.dag_id}_work", schedule=None, is_paused_upon_creation=False) as dag:
        told()
    dag_runner.sync(dag)
    [event] = Result(dag.test(run_conf={"model_name": model_name, "version": 3})).xcom("told")
    assert event["uri"] == f"models:/{model_name}/3"
    conf = {"model_name": "{{ 'dev' }}." + model_name.partition(".")[2], "version": "{{ 2 + 2 }}"}
    result = dag_runner.run(
        lambda: TriggerDagRunOperator(task_id="start", trigger_dag_id=dag.dag_id, conf=conf, trigger_run_id="by_other")
    )
    assert result.state == "success"
    [event] = run_tasks(dag, "by_other").xcom("told")
    assert event["uri"] == f"models:/{model_name}/4"


# -- by a sensor


def test_a_sensor_in_the_same_run(dag_runner, connection, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)

    def define():
        wait = ModelVersionSensor(task_id="wait", model_name=model_name, registry_conn_id=connection)

        @task
        def work(**context):
            return model_event(context, sensor_task_id="wait").to_json()

        text = "{{ macros.uc_models.model_event(sensor_task_id='wait').uri }}"
        wait >> [work(), Render(task_id="render", text=text)]

    result = dag_runner.run(define)
    event = result.xcom("work")
    assert (event["kind"], event["model_name"], event["version"]) == (READY, model_name, 2)
    assert "created_at" not in event  # the version's, which is not the model's
    assert result.xcom("render") == f"models:/{model_name}/2"


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({"name": NAME, "version": 3, "status": "READY", "created_at": 9}, [(READY, 3, None)]),
        ({"name": NAME, "version": 3, "alias": "Champion"}, [(SET, 3, None)]),
        ({"name": NAME, "created_at": 7}, [("registered_model.created", None, 7)]),
        ([{"name": NAME, "version": 3}, {"name": NAME, "version": 4}], [(READY, 3, None), (READY, 4, None)]),
        (FIRST.to_json(), [(READY, 3, 7)]),
    ],
)
def test_what_sensors_leave(left, expected):
    context = {**by_assets(watched(SECOND)), "ti": SimpleNamespace(xcom_pull=lambda task_ids: left)}
    found = model_events(context, sensor_task_id="group.wait")
    assert [(event.kind, event.version, event.created_at) for event in found] == expected


@pytest.mark.parametrize("left", [None, [], {"rows": 3}])
def test_a_sensor_that_left_nothing(left):
    context = {**by_assets(watched(SECOND)), "ti": SimpleNamespace(xcom_pull=lambda task_ids: left)}
    with pytest.raises(AirflowFailException, match="Task 'wait' left no model event"):
        model_event(context, sensor_task_id="wait")


# -- the plugin


def test_airflow_is_told_of_the_plugin():
    [entry] = [e for e in metadata.entry_points(group="airflow.plugins") if e.name == "uc_models"]
    assert entry.load().name == "uc_models"
