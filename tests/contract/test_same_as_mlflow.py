"""Every verb, sent by MLflow's own clients and by us to one and the same server: the same request, the same effect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.proxy import Fault, Proxy

from airflow_uc_models.exceptions import UnsupportedOperationError
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry import mlflow_rest
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.mlflow_rest import (
    MLFLOW_PREFIX,
    UNITY_CATALOG,
    UNITY_CATALOG_PREFIX,
    MlflowRestRegistry,
)

TAGS = {"team": "risk", "note": "two words, ümläut"}


@dataclass
class World:
    """One prepared model; the names in it differ from world to world and are written as <model> in comparisons."""

    name: str
    run_id: str
    model_id: str
    source: str

    def plain(self, value: Any) -> Any:
        return json.loads(json.dumps(value).replace(self.name, "<model>"))


@dataclass
class Case:
    """One verb with one set of arguments.

    :param theirs: the call of a user of MlflowClient
    :param ours: the same as a Call
    :param checks_for_prompt: MlflowClient first reads the model to see whether it is a prompt; it sends exactly one
        request more than we do, and before ours
    :param legacy: query parameters that MlflowClient adds for servers older than those we support
    """

    verb: str
    theirs: Callable[[Any, World], Any]
    ours: Callable[[Registry, World], Any]
    checks_for_prompt: bool = False
    legacy: Callable[[World], list[tuple[str, str]]] = lambda _: []


def pages(search: Callable[..., Any], **arguments: Any) -> list[Any]:
    """Read pages to the end, as the user of MlflowClient must."""
    found, token = [], None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        token = page.token
        if not token:
            return found


like = "name LIKE '{}%'".format
named = "name='{}'".format

CASES = [
    Case(
        "create_registered_model",
        lambda c, w: c.create_registered_model(w.name + "_2"),
        lambda r, w: r.create_registered_model(w.name + "_2"),
    ),
    Case(
        "create_registered_model",
        lambda c, w: c.create_registered_model(w.name + "_2", tags=TAGS, description="why\nit is"),
        lambda r, w: r.create_registered_model(w.name + "_2", tags=TAGS, description="why\nit is"),
    ),
    Case(
        "get_registered_model",
        lambda c, w: c.get_registered_model(w.name),
        lambda r, w: r.get_registered_model(w.name),
    ),
    Case(
        "update_registered_model",
        lambda c, w: c.update_registered_model(w.name, description="new ☃"),
        lambda r, w: r.update_registered_model(w.name, description="new ☃"),
        checks_for_prompt=True,
    ),
    Case(
        "rename_registered_model",
        lambda c, w: c.rename_registered_model(w.name, w.name + "_3"),
        lambda r, w: r.rename_registered_model(w.name, w.name + "_3"),
        checks_for_prompt=True,
    ),
    Case(
        "delete_registered_model",
        lambda c, w: c.delete_registered_model(w.name),
        lambda r, w: r.delete_registered_model(w.name),
        checks_for_prompt=True,
    ),
    Case(
        "search_registered_models",
        lambda c, w: pages(c.search_registered_models, filter_string=like(w.name), order_by=["name DESC"]),
        lambda r, w: r.search_registered_models(filter_string=like(w.name), order_by=["name DESC"]),
    ),
    Case(
        "search_registered_models",
        lambda c, w: c.search_registered_models(filter_string=like(w.name), max_results=1),
        lambda r, w: r.search_registered_models(filter_string=like(w.name), max_results=1),
    ),
    Case(
        "set_registered_model_tag",
        lambda c, w: c.set_registered_model_tag(w.name, "a key/with: signs", "välue"),
        lambda r, w: r.set_registered_model_tag(w.name, "a key/with: signs", "välue"),
        checks_for_prompt=True,
    ),
    Case(
        "delete_registered_model_tag",
        lambda c, w: c.delete_registered_model_tag(w.name, "team"),
        lambda r, w: r.delete_registered_model_tag(w.name, "team"),
        checks_for_prompt=True,
    ),
    Case(
        "create_model_version",
        lambda c, w: c.create_model_version(w.name, w.source, run_id=w.run_id),
        lambda r, w: r.create_model_version(w.name, w.source, run_id=w.run_id),
    ),
    Case(
        "create_model_version",
        lambda c, w: c.create_model_version(
            w.name, f"models:/{w.model_id}", run_id=w.run_id, tags=TAGS, description="d", model_id=w.model_id
        ),
        lambda r, w: r.create_model_version(
            w.name, f"models:/{w.model_id}", run_id=w.run_id, tags=TAGS, description="d", model_id=w.model_id
        ),
    ),
    Case(
        "get_model_version",
        lambda c, w: c.get_model_version(w.name, "1"),
        lambda r, w: r.get_model_version(w.name, 1),
    ),
    Case(
        "get_model_version_by_alias",
        lambda c, w: c.get_model_version_by_alias(w.name, "Champion"),
        lambda r, w: r.get_model_version_by_alias(w.name, "Champion"),
    ),
    Case(
        "get_model_version_download_uri",
        lambda c, w: c.get_model_version_download_uri(w.name, "2"),
        lambda r, w: r.get_model_version_download_uri(w.name, 2),
        checks_for_prompt=True,
    ),
    Case(
        "update_model_version",
        lambda c, w: c.update_model_version(w.name, "2", description="other"),
        lambda r, w: r.update_model_version(w.name, 2, description="other"),
        checks_for_prompt=True,
    ),
    Case(
        "delete_model_version",
        lambda c, w: c.delete_model_version(w.name, "1"),
        lambda r, w: r.delete_model_version(w.name, 1),
        checks_for_prompt=True,
    ),
    Case(
        "search_model_versions",
        lambda c, w: pages(c.search_model_versions, filter_string=named(w.name), order_by=["version_number DESC"]),
        lambda r, w: r.search_model_versions(filter_string=named(w.name), order_by=["version_number DESC"]),
    ),
    Case(
        "search_model_versions",
        lambda c, w: c.search_model_versions(f"{named(w.name)} and tags.team='risk'", max_results=5),
        lambda r, w: r.search_model_versions(filter_string=f"{named(w.name)} and tags.team='risk'", max_results=5),
    ),
    Case(
        "set_model_version_tag",
        lambda c, w: c.set_model_version_tag(w.name, "1", "k", ""),
        lambda r, w: r.set_model_version_tag(w.name, 1, "k", ""),
        checks_for_prompt=True,
    ),
    Case(
        "delete_model_version_tag",
        lambda c, w: c.delete_model_version_tag(w.name, "1", "team"),
        lambda r, w: r.delete_model_version_tag(w.name, 1, "team"),
        checks_for_prompt=True,
    ),
    Case(
        "set_registered_model_alias",
        lambda c, w: c.set_registered_model_alias(w.name, "Champion", "2"),
        lambda r, w: r.set_registered_model_alias(w.name, "Champion", 2),
        checks_for_prompt=True,
    ),
    Case(
        "delete_registered_model_alias",
        lambda c, w: c.delete_registered_model_alias(w.name, "Champion"),
        lambda r, w: r.delete_registered_model_alias(w.name, "Champion"),
        checks_for_prompt=True,
    ),
    Case(
        "get_run",
        lambda c, w: c.get_run(w.run_id),
        lambda r, w: r.get_run(w.run_id),
        legacy=lambda w: [("run_uuid", w.run_id)],
    ),
    Case(
        "get_logged_model",
        lambda c, w: c.get_logged_model(w.model_id),
        lambda r, w: r.get_logged_model(w.model_id),
    ),
]
NO_SUCH_VERB_ON_A_SERVER = {"finalize_model_version"}  # compared with the Unity Catalog client below


def verbs() -> set[str]:
    return set(Registry.__abstractmethods__)


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


def facts(value: Any) -> Any:
    """Put what MlflowClient returns and what we return into one form; times are left out."""
    if isinstance(value, list):
        return [facts(item) for item in value]
    if value is None or isinstance(value, str):
        return value
    kind = type(value).__name__
    if kind == "Run":
        return run_facts(value)
    if kind == "LoggedModel":
        metrics = value.metrics if isinstance(value.metrics, dict) else {m.key: m.value for m in value.metrics}
        uri = getattr(value, "artifact_location", None) or value.artifact_uri
        known = {key: getattr(value, key) for key in ("model_id", "name", "source_run_id")}
        return {**known, "status": str(value.status), "uri": uri, "metrics": metrics}
    aliases = value.aliases
    source = getattr(value, "source", None) or ""
    # An MLflow server leaves out the logged model behind a version; we read it from the source.
    model_id = getattr(value, "model_id", None) or (
        source[len("models:/") :] if source.startswith("models:/m-") else None
    )
    return {
        "name": value.name,
        "description": value.description or None,
        "tags": dict(value.tags),
        "aliases": {a: int(v) for a, v in aliases.items()} if isinstance(aliases, dict) else sorted(aliases),
        "version": int(getattr(value, "version", 0)),
        **{key: getattr(value, key, None) or None for key in ("status", "run_id", "source")},
        "model_id": model_id,
    }


def run_facts(run: Any) -> dict[str, Any]:
    info, data = getattr(run, "info", run), getattr(run, "data", run)
    ids = getattr(run, "model_ids", None) or [output.model_id for output in run.outputs.model_outputs]
    return {
        "run_id": info.run_id,
        "status": info.status,
        "uri": info.artifact_uri,
        "metrics": {key: repr(value) for key, value in data.metrics.items()},
        "model_ids": ids,
    }


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


def ids(case: Any) -> str:
    return str(case.verb)


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


# -- Unity Catalog on Databricks: MLflow's own store for it, against a stub that records and answers


CANNED = {
    "registered_model": {"name": "prod.ml.fraud", "creation_timestamp": "1", "tags": [], "aliases": []},
    "registered_models": [{"name": "prod.ml.fraud"}],
    "model_version": {"name": "prod.ml.fraud", "version": "7", "status": "PENDING_REGISTRATION"},
    "model_versions": [{"name": "prod.ml.fraud", "version": "7", "status": "READY"}],
    "artifact_uri": "dbfs:/x",
}


@pytest.fixture
def stub() -> Iterator[Proxy]:
    with Proxy("http://127.0.0.1:9") as running:
        running.faults.append(Fault(lambda _: True, times=None, status=200, body=json.dumps(CANNED)))
        yield running


@pytest.fixture
def store(stub) -> Any:
    """MLflow's store for Unity Catalog, its address replaced, its upload left out."""
    from mlflow.store._unity_catalog.registry.rest_store import UcModelRegistryStore
    from mlflow.utils.rest_utils import MlflowHostCreds

    store = UcModelRegistryStore("databricks-uc", "http://127.0.0.1:9")
    store.get_host_creds = lambda: MlflowHostCreds(stub.url)
    store._get_artifact_repo = lambda *_: SimpleNamespace(log_artifacts=lambda **_: None)
    return store


@pytest.fixture(scope="module")
def signed_model(tmp_path_factory) -> Path:
    """The folder of a model with a signature, as MLflow's store demands it before it creates a version."""
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    folder = tmp_path_factory.mktemp("signed")
    schema = Schema([ColSpec("double", "x")])
    model = Model(signature=ModelSignature(inputs=schema, outputs=schema))
    model.add_flavor("python_function", loader_module="none")
    model.save(folder / "MLmodel")
    return folder


def tag_objects(kind: str, tags: dict[str, str]) -> list[Any]:
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag

    make = {"model": RegisteredModelTag, "version": ModelVersionTag}[kind]
    return [make(key, value) for key, value in tags.items()]


NAME = "prod.ml.fraud"
UC_CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Registry], Any]]] = {
    "create_registered_model": (
        lambda s: s.create_registered_model(NAME, tag_objects("model", TAGS), "d"),
        lambda r: r.create_registered_model(NAME, tags=TAGS, description="d"),
    ),
    "get_registered_model": (lambda s: s.get_registered_model(NAME), lambda r: r.get_registered_model(NAME)),
    "update_registered_model": (
        lambda s: s.update_registered_model(NAME, "d"),
        lambda r: r.update_registered_model(NAME, description="d"),
    ),
    "rename_registered_model": (
        lambda s: s.rename_registered_model(NAME, "prod.ml.scam"),
        lambda r: r.rename_registered_model(NAME, "prod.ml.scam"),
    ),
    "delete_registered_model": (lambda s: s.delete_registered_model(NAME), lambda r: r.delete_registered_model(NAME)),
    "search_registered_models": (
        lambda s: s.search_registered_models(max_results=100),
        lambda r: r.search_registered_models(),
    ),
    "set_registered_model_tag": (
        lambda s: s.set_registered_model_tag(NAME, tag_objects("model", {"k": "v"})[0]),
        lambda r: r.set_registered_model_tag(NAME, "k", "v"),
    ),
    "delete_registered_model_tag": (
        lambda s: s.delete_registered_model_tag(NAME, "k"),
        lambda r: r.delete_registered_model_tag(NAME, "k"),
    ),
    "finalize_model_version": (
        lambda s: s._finalize_model_version(NAME, "7"),
        lambda r: r.finalize_model_version(NAME, 7),
    ),
    "get_model_version": (lambda s: s.get_model_version(NAME, "7"), lambda r: r.get_model_version(NAME, 7)),
    "get_model_version_by_alias": (
        lambda s: s.get_model_version_by_alias(NAME, "Champion"),
        lambda r: r.get_model_version_by_alias(NAME, "Champion"),
    ),
    "get_model_version_download_uri": (
        lambda s: s.get_model_version_download_uri(NAME, "7"),
        lambda r: r.get_model_version_download_uri(NAME, 7),
    ),
    "update_model_version": (
        lambda s: s.update_model_version(NAME, "7", "d"),
        lambda r: r.update_model_version(NAME, 7, description="d"),
    ),
    "delete_model_version": (
        lambda s: s.delete_model_version(NAME, "7"),
        lambda r: r.delete_model_version(NAME, 7),
    ),
    "search_model_versions": (
        lambda s: s.search_model_versions(named(NAME), max_results=10_000),
        lambda r: r.search_model_versions(filter_string=named(NAME)),
    ),
    "set_model_version_tag": (
        lambda s: s.set_model_version_tag(NAME, "7", tag_objects("version", {"k": "v"})[0]),
        lambda r: r.set_model_version_tag(NAME, 7, "k", "v"),
    ),
    "delete_model_version_tag": (
        lambda s: s.delete_model_version_tag(NAME, "7", "k"),
        lambda r: r.delete_model_version_tag(NAME, 7, "k"),
    ),
    "set_registered_model_alias": (
        lambda s: s.set_registered_model_alias(NAME, "Champion", "7"),
        lambda r: r.set_registered_model_alias(NAME, "Champion", 7),
    ),
    "delete_registered_model_alias": (
        lambda s: s.delete_registered_model_alias(NAME, "Champion"),
        lambda r: r.delete_registered_model_alias(NAME, "Champion"),
    ),
}
COMPARED_BELOW = {"create_model_version"}
TRACKING = {"get_run", "get_logged_model"}  # the same paths on every registry


def unity_catalog() -> MlflowRestRegistry:
    return MlflowRestRegistry(UNITY_CATALOG_PREFIX, UNITY_CATALOG)


def test_every_verb_is_compared_with_the_unity_catalog_client() -> None:
    assert set(UC_CASES) | COMPARED_BELOW | TRACKING == verbs()


@pytest.mark.parametrize("mode", ["run", "arun"])
@pytest.mark.parametrize("verb", UC_CASES)
def test_same_request_to_unity_catalog(verb: str, mode: str, stub, store) -> None:
    theirs, ours = UC_CASES[verb]
    theirs(store)
    their_requests = [request.shape for request in stub.take()]
    drive(ours(unity_catalog()), stub, mode)
    assert [request.shape for request in stub.take()] == their_requests
    assert len(their_requests) == 1


@pytest.mark.parametrize("mode", ["run", "arun"])
def test_create_and_finalize_send_the_same_to_unity_catalog(mode: str, stub, store, signed_model) -> None:
    store.create_model_version(
        NAME,
        "runs:/r1/model",
        run_id="r1",
        tags=tag_objects("version", TAGS),
        description="d",
        local_model_path=str(signed_model),
    )
    created, finalized = (request.shape for request in stub.take())
    # What MLflow adds from the model's files: features and other models that it depends on; none here.
    assert created[3].pop("feature_deps") == ""

    def both(registry: MlflowRestRegistry) -> Any:
        version = yield from registry.create_model_version(
            NAME, "runs:/r1/model", run_id="r1", tags=TAGS, description="d"
        )
        yield from registry.finalize_model_version(NAME, version.version)

    drive(both(unity_catalog()), stub, mode)
    assert [request.shape for request in stub.take()] == [created, finalized]


@pytest.mark.parametrize("verb", sorted(TRACKING))
def test_tracking_is_asked_at_the_same_place_on_every_registry(verb: str, stub) -> None:
    for registry in (MlflowRestRegistry(), unity_catalog()):
        request = next(getattr(registry, verb)("m-1"))
        assert request.path.startswith(f"{MLFLOW_PREFIX}/")


def test_what_unity_catalog_refuses_is_refused_before_it_is_asked(stub, store) -> None:
    from mlflow.exceptions import MlflowException

    for theirs, ours in (
        (
            partial(store.search_registered_models, filter_string="name='x'"),
            unity_catalog().search_registered_models(filter_string="name='x'"),
        ),
        (
            partial(store.search_model_versions, filter_string=named(NAME), order_by=["version_number"]),
            unity_catalog().search_model_versions(filter_string=named(NAME), order_by=["version_number"]),
        ),
    ):
        with pytest.raises(MlflowException, match="unsupported"):
            theirs()
        with pytest.raises(UnsupportedOperationError, match="Unity Catalog does not support"):
            next(ours)
    with pytest.raises(UnsupportedOperationError, match="READY at once"):
        next(MlflowRestRegistry().finalize_model_version(NAME, 1))
    assert not stub.take()
