"""What evaluate() asks a real MLflow server, also as a registry that can do less."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from support.registry import make_versions

from airflow_uc_models.conditions import (
    AliasedModelVersion,
    Condition,
    Met,
    NewModelVersion,
    NewRegisteredModel,
    TaggedModelVersion,
    Waiting,
)
from airflow_uc_models.exceptions import UnsupportedOperationError
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry import watch
from airflow_uc_models.registry.mlflow_rest import MLFLOW_SERVER, MlflowRestRegistry
from airflow_uc_models.registry.watch import Looked, evaluate

RICH = MlflowRestRegistry()
# Unity Catalog's search: no tags in its answers, no order, no filter but the name.
POOR = MlflowRestRegistry(capabilities=replace(MLFLOW_SERVER, tag_search=False, version_order=False))
BARE = MlflowRestRegistry(capabilities=replace(MLFLOW_SERVER, aliases=False, tags=None))


@pytest.fixture
def look(proxy):
    """Evaluate a condition and return the outcome with the calls it took."""

    def run(condition, registry=RICH, looked=None):
        proxy.take()
        outcome = Transport(proxy.url, max_retry_seconds=0).run(evaluate(registry, condition, looked))
        return outcome, [r.path.split("/mlflow/")[1] for r in proxy.take()]

    return run


MODEL, SEARCH, GET = "registered-models/get", "model-versions/search", "model-versions/get"
MODELS = "registered-models/search"


@pytest.mark.parametrize("registry", [RICH, POOR], ids=["rich", "poor"])
def test_a_wait_takes_two_calls(look, mlflow_server, model_name, registry):
    make_versions(mlflow_server, model_name, 3)
    assert look(NewModelVersion(model_name, 3), registry)[1] == [MODEL, SEARCH]
    outcome, calls = look(NewModelVersion(model_name, 1), registry)
    assert (outcome.version.version, calls) == (2, [MODEL, SEARCH, GET])


def test_an_alias_is_read_from_the_model(look, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 3)
    condition = NewModelVersion(model_name, 1, alias="Champion")
    assert look(condition)[1] == [MODEL]
    client.set_registered_model_alias(model_name, "Champion", "1")
    assert look(condition)[1] == [MODEL]
    client.set_registered_model_alias(model_name, "Champion", "3")
    outcome, _ = look(condition)
    assert (outcome.version.version, outcome.version.aliases) == (3, ["Champion"])


@pytest.mark.parametrize("registry", [RICH, POOR], ids=["rich", "poor"])
def test_tags_are_seen_on_every_registry(look, proxy, mlflow_server, model_name, registry):
    client = make_versions(mlflow_server, model_name, 4)
    client.set_model_version_tag(model_name, "3", "stage", "done")
    outcome, calls = look(NewModelVersion(model_name, 1, tags={"stage": "done"}), registry)
    assert (outcome.version.version, outcome.version.tags) == (3, {"stage": "done"})
    # Where search shows no tags, versions 2, 3 and 4 are read; version 1 is not asked for.
    assert calls.count(GET) == (1 if registry is RICH else 4)


@pytest.mark.parametrize(
    "condition",
    [
        NewModelVersion("a.b.c", alias="Champion"),
        NewModelVersion("a.b.c", tags={"a": "1"}),
        TaggedModelVersion("a.b.c", "a", version=1),
        AliasedModelVersion("a.b.c", "Champion"),
    ],
    ids=lambda condition: condition.describe(),
)
def test_what_a_registry_lacks_is_said_before_any_call(look, proxy, condition):
    with pytest.raises(UnsupportedOperationError):
        look(condition, BARE)
    assert proxy.requests == []


def test_a_look_for_a_tag_alias_or_model_reads_no_more_than_it_must(look, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    client.set_model_version_tag(model_name, "2", "a", "1")
    client.set_registered_model_alias(model_name, "Champion", "2")
    schema = f"dev.{model_name.rpartition('.')[2]}"  # with nothing else in it
    client.create_registered_model(f"{schema}.model")
    for condition, met, calls in [
        (TaggedModelVersion(model_name, "a", version=2), True, [GET]),
        (TaggedModelVersion(model_name, "a", version=1), False, [GET]),
        (TaggedModelVersion(model_name, "a", version=3), False, [GET]),
        (TaggedModelVersion(model_name, "a", alias="Champion"), True, [MODEL, GET]),
        (TaggedModelVersion(model_name, "a", alias="Canary"), False, [MODEL]),
        (AliasedModelVersion(model_name, "Champion"), True, [MODEL, GET]),
        (AliasedModelVersion(model_name, "Champion", newer_than=2), False, [MODEL]),
        (NewRegisteredModel(model_name=model_name), True, [MODEL]),
        (NewRegisteredModel(model_name=f"{model_name}x"), False, [MODEL]),
        (NewRegisteredModel(schema="no.such"), False, [MODELS]),
        (NewRegisteredModel(schema=schema), True, [MODELS, MODEL]),
    ]:
        outcome, made = look(condition)
        assert (isinstance(outcome, Met), made) == (met, calls), condition


@pytest.mark.parametrize(("registry", "tags"), [(RICH, None), (POOR, {"a": "1"})], ids=["rich", "poor"])
def test_a_version_deleted_between_two_calls_is_no_error(look, proxy, mlflow_server, model_name, registry, tags):
    client = make_versions(mlflow_server, model_name, 1)
    client.set_model_version_tag(model_name, "1", "a", "1")
    fault = proxy.fail(SEARCH, after=True, hold=threading.Event())

    def delete():
        assert fault.seen.wait(60)
        client.delete_model_version(model_name, "1")
        fault.hold.set()

    thread = threading.Thread(target=delete)
    thread.start()
    outcome, calls = look(NewModelVersion(model_name, tags=tags), registry)
    thread.join()
    assert isinstance(outcome, Waiting)
    assert calls == [MODEL, SEARCH, GET]


def test_a_quote_in_the_name(look, mlflow_server, model_name):
    make_versions(mlflow_server, f"{model_name}'s", 2)
    outcome, _ = look(NewModelVersion(f"{model_name}'s", 1))
    assert isinstance(outcome, Met)


def test_a_condition_without_facts_is_a_bug(look):
    class Unheard(Condition):
        kind = "unheard"

    with pytest.raises(TypeError, match="Unheard"):
        look(Unheard())


def test_a_long_wait_does_not_list_all_versions_at_each_look(look, mlflow_server, model_name, monkeypatch):
    monkeypatch.setattr(watch, "FEW_VERSIONS", 1)
    client = make_versions(mlflow_server, model_name, 2)
    condition, looked = NewModelVersion(model_name, 2), Looked()
    assert look(condition, POOR, looked)[1] == [MODEL, SEARCH]
    for _ in range(2):
        outcome, calls = look(condition, POOR, looked)
        assert calls == [MODEL, GET, GET, GET]
        assert isinstance(outcome, Waiting)
    # numbers that came and went hide the next one only until all are listed again
    for number in range(3, 7):
        client.create_model_version(model_name, "s3://bucket/a")
        if number < 6:
            client.delete_model_version(model_name, str(number))
    assert isinstance(look(condition, POOR, looked)[0], Waiting)
    looked.until = 0
    outcome, calls = look(condition, POOR, looked)
    assert (outcome.version.version, calls) == (6, [MODEL, SEARCH, GET])


def test_of_few_versions_all_are_listed(look, mlflow_server, model_name):
    client = make_versions(mlflow_server, model_name, 2)
    client.delete_model_version(model_name, "2")
    condition, looked = NewModelVersion(model_name, 1), Looked()
    for _ in range(2):
        assert look(condition, POOR, looked)[1] == [MODEL, SEARCH]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_the_next_version_ends_a_wait_that_asks_for_its_number(look, mlflow_server, model_name, monkeypatch, gone):
    monkeypatch.setattr(watch, "FEW_VERSIONS", 1)
    client = make_versions(mlflow_server, model_name, 2)
    condition, looked = NewModelVersion(model_name, 2), Looked()
    look(condition, POOR, looked)
    for number in range(3, 4 + gone):
        client.create_model_version(model_name, "s3://bucket/a")
        if number < 3 + gone:
            client.delete_model_version(model_name, str(number))
    outcome, calls = look(condition, POOR, looked)
    assert (outcome.version.version, calls) == (3 + gone, [MODEL, *[GET] * (1 + gone), SEARCH, GET])


def test_versions_that_may_come_to_match_are_listed_each_time(look, mlflow_server, model_name):
    make_versions(mlflow_server, model_name, 2)
    looked = Looked()
    assert isinstance(look(NewModelVersion(model_name, 1, tags={"a": "b"}), POOR, looked)[0], Waiting)
    assert looked.until == 0
