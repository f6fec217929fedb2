"""Assets of models and schemas: their URIs, and what Airflow makes of them."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys

import pytest
from airflow.sdk import Asset
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.assets import (
    DEFAULT_CONN_ID,
    ModelAssetName,
    create_asset,
    is_model_uri,
    model_asset,
    parse_asset_uri,
    watched_model_asset,
)
from airflow_uc_models.exceptions import InvalidArgumentError, InvalidNameError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.names import ModelName
from airflow_uc_models.openlineage import convert_asset_to_openlineage, dataset_name
from airflow_uc_models.provider_info import get_provider_info

FRAUD = "uc-model://mlflow/prod/ml_team/Fraud"
# What Airflow takes for a connection id, and what a level of a model's name may be.
CONN_IDS = st.from_regex(r"[\w#!()\-.:/\\]{1,30}", fullmatch=True)
LEVELS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="./:"), min_size=1, max_size=12)


def is_static(*parts: str) -> bool:
    return not any(mark in part for part in parts for mark in ("{{", "{%"))


@given(CONN_IDS, LEVELS, LEVELS, LEVELS | st.none())
def test_every_name_has_one_uri_and_comes_back(conn_id, catalog, schema, model) -> None:
    if not is_static(catalog, schema, model or ""):
        return
    name = ".".join(filter(None, (catalog, schema, model)))
    asset = model_asset(name, conn_id)
    assert parse_asset_uri(asset.uri) == parse_asset_uri(asset) == ModelAssetName(conn_id, catalog, schema, model)
    assert asset.uri.isascii()  # MySQL keeps no others
    assert Asset(asset.uri) == asset
    assert parse_asset_uri(asset).model_name == (name if model else None)


@pytest.mark.parametrize(
    ("spelling", "uri"),
    [
        ("UC-Model://mlflow/prod/ml_team/Fraud", FRAUD),
        ("uc-model://mlflow/prod/ml_team/Fraud/", FRAUD),
        ("uc-model://mlflow/prod/ml%5Fteam/%46raud", FRAUD),
        ("uc-model://mlflow/prod/ml_team/fr%c3%a4ud", "uc-model://mlflow/prod/ml_team/fr%C3%A4ud"),
        ("uc-model://mlflow/prod/ml_team/fräud", "uc-model://mlflow/prod/ml_team/fr%C3%A4ud"),
        ("uc-model://mlflow/prod/ml_team/", "uc-model://mlflow/prod/ml_team"),
        ("uc-model://a:b/prod/ml_team", "uc-model://a%3Ab/prod/ml_team"),
    ],
)
def test_airflow_brings_spellings_into_one_form(spelling, uri) -> None:
    assert Asset(uri=spelling, name="any").uri == uri


def test_letter_case_stays() -> None:
    assert model_asset("prod.ml_team.Fraud", "mlflow").uri == FRAUD
    assert Asset(FRAUD) != Asset(FRAUD.lower())


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("uc-model://mlflow/prod", "has 1 level(s) after the connection id"),
        ("uc-model://mlflow", "has 0 level(s) after the connection id"),
        ("uc-model://mlflow/prod/ml_team/fraud/3", "has 4 level(s) after the connection id"),
        ("uc-model:///prod/ml_team/fraud", "is no connection id"),
        ("uc-model://me@mlflow/prod/ml_team/fraud", "is no connection id"),
        ("uc-model://mlflow//ml_team/fraud", "The catalog in model name '.ml_team.fraud' is empty"),
        ("uc-model://mlflow/prod/ml_team/a.b", "periods, white space, slashes"),
        ("uc-model://mlflow/prod/ml_team/a%2Fb", "holds '/'"),
        ("uc-model://mlflow/prod/ml_team/%ff", "not UTF-8"),
        ("uc-model://mlflow/prod/ml_team/fraud?version=3", "write ? as %3F"),
        ("uc-model://mlflow/prod/ml_team/{{ params.model }}", "which Airflow does not render in assets"),
    ],
)
def test_a_wrong_uri_is_told_while_the_dag_is_parsed(uri, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        Asset(uri)
    assert "[" not in str(raised.value)  # `airflow dags list-import-errors` takes it for markup


@pytest.mark.parametrize("uri", ["databricks://host/prod/ml_team/fraud", "prod.ml_team.fraud"])
def test_only_models_are_parsed(uri) -> None:
    assert not is_model_uri(uri)
    with pytest.raises(InvalidNameError, match="is no asset of a model"):
        parse_asset_uri(uri)


def test_a_schema() -> None:
    whole = model_asset("prod.ml_team", "mlflow")
    assert whole.uri == "uc-model://mlflow/prod/ml_team"
    assert model_asset("prod.ml_team.*", "mlflow") == whole
    name = parse_asset_uri(whole)
    assert (name.model_name, name.full_schema) == (None, "prod.ml_team")
    assert name.covers("prod.ml_team.fraud")
    assert not name.covers("prod.other.fraud")


def test_a_model_covers_itself() -> None:
    name = ModelAssetName.of("Prod.ml_team.Fraud", "mlflow")
    assert name.covers("Prod.ml_team.Fraud")
    assert not name.covers("prod.ml_team.fraud")
    assert name.covers("prod.ml_team.fraud", str.lower)
    assert not name.covers("Prod.ml_team.Other")


@pytest.mark.parametrize("name", ["prod", "a.b.c.d", "prod.ml team.fraud", "prod..fraud", ""])
def test_wrong_names(name) -> None:
    with pytest.raises(InvalidNameError):
        model_asset(name)


def test_options_go_to_the_asset() -> None:
    asset = model_asset("prod.ml_team.fraud", name="fraud", group="models", extra={"owner": "ml"})
    assert (asset.name, asset.group, asset.extra) == ("fraud", "models", {"owner": "ml"})
    assert parse_asset_uri(asset).registry_conn_id == DEFAULT_CONN_ID == ModelRegistryHook.default_conn_name


# -- what Airflow reads


def test_airflow_knows_the_scheme(airflow_home) -> None:
    try:
        from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime as ProvidersManager
    except ImportError:  # Airflow 3.1
        from airflow.providers_manager import ProvidersManager

    [entry] = get_provider_info()["asset-uris"]
    manager = ProvidersManager()
    known = (manager.asset_uri_handlers, manager.asset_factories, manager.asset_to_openlineage_converters)
    for key, found in zip(("handler", "factory", "to_openlineage_converter"), known, strict=True):
        assert found["uc-model"] is pkgutil.resolve_name(entry[key])


def test_the_factory() -> None:
    parts = {"registry_conn_id": "mlflow", "catalog": "prod", "schema": "ml_team"}
    assert create_asset(**parts, model="Fraud") == Asset(FRAUD)
    assert create_asset(**parts, extra={"a": 1}) == model_asset("prod.ml_team", "mlflow", extra={"a": 1})


AIRFLOWS = ("provider_info",)  # Airflow 3.1 reads it while it parses


def test_a_dag_file_with_assets_costs_little() -> None:
    code = (
        "import sys; from airflow.sdk import DAG; before = set(sys.modules)\n"
        "from airflow_uc_models.assets import model_asset\n"
        "DAG('d', schedule=[model_asset('prod.ml_team.fraud')])\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = done.stdout.splitlines()[-1].split()
    ours = {name for name in added if name.startswith("airflow_uc_models.")}
    assert ours <= {f"airflow_uc_models.{name}" for name in ("assets", "exceptions", "names", "openlineage", *AIRFLOWS)}
    assert not {name.partition(".")[0] for name in added} & {"httpx", "mlflow", "databricks", "pandas"}


# -- OpenLineage


@pytest.mark.parametrize(
    ("connection", "namespace", "name"),
    [
        (
            {"conn_type": "databricks", "host": "https://adb-1.7.azuredatabricks.net"},
            "databricks",
            "prod.ml_team.fraud",
        ),
        ({"conn_type": "mlflow", "host": "https://adb-1.7.azuredatabricks.net"}, "mlflow", "prod.ml_team.Fraud"),
        (
            {"conn_type": "unity_catalog", "host": "https://adb-1.7.azuredatabricks.net"},
            "unitycatalog",
            "prod.ml_team.Fraud",
        ),
    ],
)
def test_lineage_names_models_by_their_server(monkeypatch, connection, namespace, name) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LINEAGE", json.dumps(connection))
    found = dataset_name(ModelAssetName.of("prod.ml_team.Fraud", "lineage"))
    assert found == (f"{namespace}://adb-1.7.azuredatabricks.net", name)


def test_lineage_with_a_port(monkeypatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_LINEAGE", json.dumps({"conn_type": "mlflow", "host": "http://mlflow", "port": 5000})
    )
    assert dataset_name(ModelAssetName.of("prod.ml_team", "lineage")) == ("mlflow://mlflow:5000", "prod.ml_team")


@pytest.mark.parametrize("connection", [None, {"conn_type": "http", "host": "h"}, {"conn_type": "mlflow"}])
def test_lineage_does_not_need_the_connection(monkeypatch, airflow_home, connection) -> None:
    if connection:
        monkeypatch.setenv("AIRFLOW_CONN_LINEAGE", json.dumps(connection))
    found = dataset_name(ModelAssetName.of("prod.ml_team.fraud", "lineage"))
    assert found == ("uc-model://lineage", "prod.ml_team.fraud")


def test_the_converter_gives_openlineages_dataset(monkeypatch) -> None:
    """The class is a placeholder where OpenLineage is not installed: the converter must not need it then."""
    from airflow.providers.common.compat.openlineage import facet

    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW", json.dumps({"conn_type": "mlflow", "host": "http://mlflow:5000"}))
    assert facet.Dataset is not facet.create_no_op or convert_asset_to_openlineage(Asset(FRAUD), None) is None
    monkeypatch.setattr(facet, "Dataset", lambda **fields: fields)
    expected = {"namespace": "mlflow://mlflow:5000", "name": "prod.ml_team.Fraud"}
    assert convert_asset_to_openlineage(Asset(FRAUD), None) == expected


# -- assets with a watcher


def trigger_of(asset: Asset) -> dict:
    """What Airflow stores of an asset's one watcher; triggers for which it is the same are one."""
    [watcher] = asset.watchers
    path, arguments = watcher.trigger.serialize()
    assert path == "airflow_uc_models.triggers.model_events.ModelEventTrigger"
    return arguments


@pytest.mark.parametrize(
    ("name", "watched"),
    [
        ("prod.ml_team.fraud", "prod.ml_team.fraud"),
        (ModelName("prod", "ml_team", "fraud"), "prod.ml_team.fraud"),
        ("prod.ml_team.*", "prod.ml_team.*"),
        ("prod.ml_team", "prod.ml_team.*"),
    ],
)
def test_a_watched_asset_is_the_models_own(name, watched) -> None:
    asset = watched_model_asset(name, "mlflow", kinds="model_version.failed", poll_interval=5)
    assert asset == model_asset(name, "mlflow", watchers=asset.watchers)
    arguments = trigger_of(asset)
    assert (arguments["model_name"], arguments["registry_conn_id"]) == (watched, "mlflow")
    assert (arguments["kinds"], arguments["poll_interval"]) == (["model_version.failed"], 5.0)


def test_assets_of_different_names_never_share_a_trigger() -> None:
    own, first, second = (watched_model_asset("prod.ml_team.fraud", "mlflow", name=name) for name in ("", "a", "b"))
    assert (own.name, first.name, second.name) == ("uc-model://mlflow/prod/ml_team/fraud", "a", "b")
    assert len({asset.uri for asset in (own, first, second)}) == 3  # Airflow takes one asset for a URI
    assert trigger_of(own) != trigger_of(first) != trigger_of(second) != trigger_of(own)


def test_a_watched_asset_takes_what_assets_take() -> None:
    for name in ("", "fraud"):
        asset = watched_model_asset("prod.ml_team.fraud", name=name, asset_options={"group": "ml", "extra": {"a": 1}})
        assert (asset.group, asset.extra, len(asset.watchers)) == ("ml", {"a": 1}, 1)
        assert trigger_of(asset)["registry_conn_id"] == DEFAULT_CONN_ID


def test_what_cannot_be_watched_is_refused_where_it_is_written() -> None:
    for wrong in ({"kinds": "model_version.moved"}, {"poll_interval": 0}):
        with pytest.raises(InvalidArgumentError):
            watched_model_asset("prod.ml_team.fraud", **wrong)
    with pytest.raises(InvalidNameError):
        watched_model_asset("fraud", name="fraud")
