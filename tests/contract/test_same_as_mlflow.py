"""Every verb, sent by MlflowClient and by us to one and the same MLflow server: the same request, the same effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.proxy import Proxy
from support.same_requests import CASES, TAGS, Case, World, facts, ids, like, named, pages, verbs

from airflow_uc_models.exceptions import UnsupportedOperationError
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry import mlflow_rest
from airflow_uc_models.registry.mlflow_rest import MLFLOW_PREFIX, MlflowRestRegistry

NO_SUCH_VERB_ON_A_SERVER = {"finalize_model_version"}  # compared with the client of Unity Catalog


def test_every_verb_is_compared_with_mlflow_client() -> None:
    assert {case.verb for case in CASES} | NO_SUCH_VERB_ON_A_SERVER == verbs()


@pytest.fixture
def prepare(mlflow_server, model_name) -> Callable[[str], World]:
    """Make a model of two versions with tags and an alias, the same each time but for its name."""
    from mlflow.entities import LoggedModelOutput

    client = mlflow_server.client()
    experiment = client.create_experiment(model_name)
    run_id = client.create_run(experiment).info.run_id
    for step, value in enumerate([0.25, float("nan"), 0.5]):
        client.log_metric(run_id, "loss", value, step=step)
    client.log_metric(run_id, "auc", 0.9)
    logged = client.create_logged_model(experiment, name="m", source_run_id=run_id)
    client.log_metric(run_id, "auc", 0.8, model_id=logged.model_id)
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=1)])
    source = f"runs:/{run_id}/model"

    def make(suffix: str) -> World:
        name = f"{model_name}_{suffix}"
        client.create_registered_model(name, tags=TAGS, description="first")
        client.create_model_version(name, source, run_id, tags=TAGS, await_creation_for=None)
        client.create_model_version(
            name, logged.model_uri, run_id, description="second", model_id=logged.model_id, await_creation_for=None
        )
        client.set_registered_model_alias(name, "Champion", "1")
        return World(name, run_id, logged.model_id, source)

    return make


def state(client: Any, world: World) -> Any:
    """What a plain MlflowClient finds, whoever made it."""
    models = client.search_registered_models(like(world.name), order_by=["name"])
    return [
        (
            facts(client.get_registered_model(model.name)),
            [
                facts(client.get_model_version(model.name, hit.version))
                for hit in client.search_model_versions(named(model.name), order_by=["version_number"])
            ],
        )
        for model in models
    ]


def sent(proxy: Proxy, world: World) -> list[Any]:
    return [world.plain(request.shape) for request in proxy.take()]


def drive(call: Any, proxy: Proxy, mode: str) -> Any:
    transport = Transport(proxy.url, verify=False)
    return transport.run(call) if mode == "run" else asyncio.run(transport.arun(call))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_same_request_and_same_effect(case: Case, prepare, proxy, mlflow_server) -> None:
    from mlflow import MlflowClient

    theirs, reader = prepare("theirs"), mlflow_server.client()
    their_answer = case.theirs(MlflowClient(proxy.url, proxy.url), theirs)
    their_requests = sent(proxy, theirs)
    their_state = theirs.plain(state(reader, theirs))
    if case.checks_for_prompt:
        assert their_requests.pop(0) == ["GET", f"{MLFLOW_PREFIX}/registered-models/get", [["name", "<model>"]], None]
    for parameter in case.legacy(theirs):
        their_requests[0][2].remove(list(parameter))

    for mode in ("run", "arun"):
        ours = prepare(mode)
        our_answer = drive(case.ours(MlflowRestRegistry(), ours), proxy, mode)
        assert sent(proxy, ours) == their_requests
        # MlflowClient returns None from rename, we return the model
        if case.verb != "rename_registered_model":
            assert ours.plain(facts(our_answer)) == theirs.plain(facts(their_answer))
        assert ours.plain(state(reader, ours)) == their_state


def test_pages_are_asked_for_alike(prepare, proxy, monkeypatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(mlflow_rest, "_VERSION_PAGE", 1)
    monkeypatch.setattr(mlflow_rest, "_MODEL_PAGE", 1)
    client, registry = MlflowClient(proxy.url, proxy.url), MlflowRestRegistry()
    world = prepare("one")
    prepare("one_more")
    pages(client.search_model_versions, filter_string=named(world.name), max_results=1)
    pages(client.search_registered_models, filter_string=like(world.name), max_results=1)
    theirs = sent(proxy, world)
    for mode in ("run", "arun"):
        drive(registry.search_model_versions(filter_string=named(world.name)), proxy, mode)
        drive(registry.search_registered_models(filter_string=like(world.name)), proxy, mode)
        assert sent(proxy, world) == theirs
    assert len(theirs) == 4


def test_prompts_are_no_models(mlflow_server, proxy, model_name) -> None:
    client = mlflow_server.client()
    client.create_registered_model(f"{model_name}_model")
    client.create_registered_model(f"{model_name}_prompt")
    client.set_registered_model_tag(f"{model_name}_prompt", "mlflow.prompt.is_prompt", "true")
    found = drive(MlflowRestRegistry().search_registered_models(filter_string=like(model_name)), proxy, "run")
    assert [model.name for model in found] == [f"{model_name}_model"]


def test_a_server_s_versions_are_not_finalized(proxy) -> None:
    with pytest.raises(UnsupportedOperationError, match="READY at once"):
        drive(MlflowRestRegistry().finalize_model_version("a.b.c", 1), proxy, "run")
    assert not proxy.take()
