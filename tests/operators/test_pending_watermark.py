"""Where the watermark lives from run to run: an asset's state store or XCom, and what clears and retries do to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk import Asset
from airflow.sdk.definitions.context import Context
from support.pending import MARK, Consumer
from support.registry import make_versions
from support.sensing import add_version

from airflow_uc_models.operators.watermark_store import watermark_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HAS_STATE_STORE = "asset_state_store" in Context.__annotations__


@pytest.fixture
def consume(dag_runner, connection, model_name):
    return Consumer(dag_runner, {"scope": model_name, "registry_conn_id": connection})


@pytest.fixture
def asset(model_name):
    return Asset(name=model_name, uri=f"x-models://{model_name}")


@pytest.fixture(params=["xcom", "asset"])
def options(request, asset):
    """Both forms; before Airflow 3.3 an asset has no state store, and both are XCom."""
    return {"asset": asset} if request.param == "asset" else {}


def after(minutes):
    return NOW + timedelta(minutes=minutes)


def in_state_store(asset):
    """What the state store of an asset holds, by key."""
    import json

    from airflow.models.asset import AssetModel
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    rows = select(AssetStateStoreModel).join(AssetModel, AssetModel.id == AssetStateStoreModel.asset_id)
    with create_session() as session:
        return {row.key: json.loads(row.value) for row in session.scalars(rows.where(AssetModel.name == asset.name))}


# -- runs with and without a logical date


def test_runs_with_and_without_a_logical_date(consume, mlflow_server, model_name, options):
    client = make_versions(mlflow_server, model_name, 0)
    taken = []
    for minute, dated in enumerate([False, True, True, False, False, True, False]):
        add_version(client, model_name)
        taken.append(consume.took(consume.at(after(minute) if dated else None, run_after=after(minute), **options)))
    assert taken == [[1], [2], [3], [4], [5], [6], [7]]


def test_what_failed_is_taken_up_by_a_run_of_the_other_kind(consume, mlflow_server, model_name, options):
    make_versions(mlflow_server, model_name, 3)
    consume.failing = {(model_name, 1), (model_name, 3)}
    assert consume.took(consume.at(None, run_after=after(0), **options)) == [1, 2, 3]
    consume.failing = {(model_name, 3)}
    assert consume.took(consume.at(after(1), run_after=after(1), **options)) == [1, 3]
    consume.failing.clear()
    assert consume.took(consume.at(None, run_after=after(2), **options)) == [3]
    assert consume.took(consume.at(after(3), run_after=after(3), **options)) == []


# -- clears and retries


@pytest.mark.parametrize("dated", [True, False])
def test_marking_again_does_not_move_the_watermark_back(consume, mlflow_server, model_name, options, dated):
    client = make_versions(mlflow_server, model_name, 0)
    runs = []
    for minute in range(3):
        add_version(client, model_name)
        runs.append(consume.at(after(minute) if dated else None, run_after=after(minute), **options))
    for run in (*runs, runs[0]):
        assert consume.mark_again(run, **options) == "success"
    assert consume.took(consume.at(after(9) if dated else None, run_after=after(9), **options)) == []


def test_a_dated_run_that_is_cleared_does_not_move_it_back(consume, mlflow_server, model_name, options):
    client = make_versions(mlflow_server, model_name, 0)
    for minute in range(3):
        add_version(client, model_name)
        consume.at(after(minute), run_after=after(minute), **options)
    again = consume.at(after(0), run_after=after(0), **options)
    assert consume.took(again) == ([] if options and HAS_STATE_STORE else [1, 2, 3])
    assert consume.took(consume.at(after(9), run_after=after(9), **options)) == []


def test_what_a_cleared_run_handles_counts(consume, mlflow_server, model_name, options):
    """Marking again takes up what succeeded since, also where newer runs have marked meanwhile."""
    client = make_versions(mlflow_server, model_name, 2)
    consume.failing = {(model_name, 1)}
    first = consume.at(after(0), run_after=after(0), **options)
    add_version(client, model_name)
    assert consume.took(consume.at(after(1), run_after=after(1), **options)) == [1, 3]
    assert consume.mark_again(first, **options) == "success"
    assert consume.took(consume.at(after(2), run_after=after(2), **options)) == []


def test_a_mark_that_is_retried(consume, mlflow_server, model_name, options):
    client = make_versions(mlflow_server, model_name, 2)
    tries = []

    def break_once(context, result=None):
        tries.append(context["ti"].try_number)
        if len(tries) == 1:
            raise RuntimeError("the worker dies when it has marked")

    mark = {"retries": 1, "retry_delay": timedelta(0), "post_execute": break_once}
    first = consume(mark=mark, **options)
    assert tries == [1, 2]
    assert first.state == "success"
    add_version(client, model_name)
    assert consume.took(consume(**options)) == [3]
    assert consume.took(consume(**options)) == []
    assert len(consume.handled) == 3


def test_a_mark_that_fails_is_not_retried(consume, mlflow_server, model_name, options):
    make_versions(mlflow_server, model_name, 1)
    consume.failing = {(model_name, 1)}
    result = consume(mark={"retries": 3, "retry_delay": timedelta(0)}, **options)
    assert result.task_state(MARK) == "failed"
    assert result.ti(MARK).try_number == 1


def test_a_run_that_never_marks_leaves_everything_pending(consume, mlflow_server, model_name, options):
    make_versions(mlflow_server, model_name, 2)

    def dies(context):
        raise RuntimeError("the worker dies before it marks")

    assert consume(mark={"pre_execute": dies}, **options).state == "failed"
    assert consume.took(consume(**options)) == [1, 2]


# -- the form that it takes


def test_it_stays_short(consume, mlflow_server, model_name, connection):
    make_versions(mlflow_server, model_name, 12)
    consume.failing = {(model_name, 11)}
    result = consume(consumer="{{ 'validator' }}")
    created = mlflow_server.client().get_registered_model(model_name).creation_timestamp
    key = watermark_key("validator", connection)
    assert result.xcom(MARK, key) == {model_name: {"created_at": created, "versions": "1-10,12"}}


@pytest.mark.skipif(not HAS_STATE_STORE, reason="Airflow before 3.3 has no state store")
def test_the_state_store_holds_it_alone(consume, mlflow_server, model_name, asset, connection):
    make_versions(mlflow_server, model_name, 2)
    result = consume(asset=asset, consumer="validator")
    key = watermark_key("validator", connection)
    created = mlflow_server.client().get_registered_model(model_name).creation_timestamp
    assert in_state_store(asset) == {key: {model_name: {"created_at": created, "versions": "1-2"}}}
    assert result.xcom(MARK, key) is None


@pytest.mark.skipif(not HAS_STATE_STORE, reason="Airflow before 3.3 has no state store")
def test_what_xcom_held_counts_until_the_state_store_holds_something(consume, mlflow_server, model_name, asset):
    """As after an upgrade to Airflow 3.3, and where `asset` is given later."""
    client = make_versions(mlflow_server, model_name, 2)
    assert consume.took(consume()) == [1, 2]
    add_version(client, model_name)
    assert consume.took(consume(asset=asset)) == [3]
    [value] = in_state_store(asset).values()
    assert value[model_name]["versions"] == "1-3"


def test_the_asset_joins_other_inlets(consume, mlflow_server, model_name, asset):
    make_versions(mlflow_server, model_name, 1)
    assert consume.took(consume(asset=asset, inlets=Asset(f"{model_name}-other"))) == [1]
    assert consume.took(consume(asset=asset, inlets=[asset])) == []
