"""Every verb, sent by MLflow's own client of Unity Catalog and by us to one workspace: the same request and effect."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.databricks import connection_json
from support.models import save_model
from support.same_requests import CASES, TAGS, Case, World, facts, ids, named, pages, verbs

from airflow_uc_models.emulator import Emulator
from airflow_uc_models.exceptions import UCModelsError, UnsupportedOperationError
from airflow_uc_models.hooks import transfer
from airflow_uc_models.hooks.mlflow_session import mlflow_session
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.names import parse_source
from airflow_uc_models.registry import mlflow_rest
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.mlflow_rest import MLFLOW_PREFIX, UNITY_CATALOG_PREFIX
from airflow_uc_models.registry.registration import TASK_KEY_TAG

# What only a client with a profile of its own asks
ONLY_THEIRS = {"/.well-known/databricks-config"}
# MlflowClient looks whether the model is a prompt; new ones not before these, which need not come with EXECUTE
TAGGING = {f"{what}_{kind}_tag" for what in ("set", "delete") for kind in ("registered_model", "model_version")}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# What Unity Catalog knows otherwise than an MLflow server
UC_CASES = [
    Case(
        "delete_registered_model",
        lambda c, w: c.delete_registered_model(w.name + "_empty"),
        lambda r, w: r.delete_registered_model(w.name + "_empty"),
        checks_for_prompt=True,
    ),
    Case(
        "search_registered_models",
        lambda c, _: pages(c.search_registered_models),
        lambda r, _: r.search_registered_models(),
    ),
    Case(
        "search_registered_models",
        lambda c, _: c.search_registered_models(max_results=1),
        lambda r, _: r.search_registered_models(max_results=1),
    ),
    Case(
        "search_model_versions",
        lambda c, w: pages(c.search_model_versions, filter_string=named(w.name)),
        lambda r, w: r.search_model_versions(filter_string=named(w.name)),
    ),
    Case(
        "set_registered_model_tag",
        lambda c, w: c.set_registered_model_tag(w.name, "a key", "välue"),
        lambda r, w: r.set_registered_model_tag(w.name, "a key", "välue"),
        checks_for_prompt=True,
    ),
]
ALL_CASES = [case for case in CASES if not case.server_only] + UC_CASES
COMPARED_BELOW = {"create_model_version", "finalize_model_version", "get_run", "get_logged_model"}


def test_every_verb_is_compared_with_the_unity_catalog_client() -> None:
    assert {case.verb for case in ALL_CASES} | COMPARED_BELOW == verbs()


@pytest.fixture
def client(monkeypatch, workspace) -> Any:
    """The real client, as a user would have it."""
    return client_of(monkeypatch, workspace)


def client_of(monkeypatch: pytest.MonkeyPatch, workspace: Emulator) -> Any:
    from mlflow import MlflowClient

    monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", workspace.token)
    return MlflowClient(tracking_uri="databricks", registry_uri="databricks-uc")


@pytest.fixture
def hook(databricks) -> ModelRegistryHook:
    return ModelRegistryHook(databricks)


@pytest.fixture
def prepare(workspace, hook, model_name) -> Callable[[], World]:
    """Empty the workspace and make a model of two versions with tags and an alias, and one without versions."""

    def make() -> World:
        workspace.reset()
        name = model_name
        for model in (name, f"{name}_empty"):
            hook.run(hook.registry.create_registered_model(model, tags=TAGS, description="first"))
        for description in ("one", "two"):
            created = hook.registry.create_model_version(name, "s3://bucket/model", tags=TAGS, description=description)
            made = hook.run(created)
            hook.run(hook.registry.finalize_model_version(name, made.version))
        hook.run(hook.registry.set_registered_model_alias(name, "Champion", 1))
        workspace.requests.take()
        return World(name, "r1", "m-1", "s3://bucket/model")

    return make


def sent(workspace: Emulator, world: World) -> list[Any]:
    """What was asked since the last look."""
    return [world.plain(r.shape) for r in workspace.requests.take() if r.path not in ONLY_THEIRS]


def state(workspace: Emulator) -> Any:
    """Everything the workspace holds, but for times and ids."""
    return [_timeless(asdict(model)) for _, model in sorted(workspace.workspace.state.models.items())]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(v) for key, v in value.items() if key not in {"id", "created_at", "updated_at"}}
    return value


def drive(hook: ModelRegistryHook, call: Callable[[Registry], Call[Any]], mode: str) -> Any:
    async def arun() -> Any:
        return await hook.arun(call((await hook.aendpoint()).registry))

    return hook.run(call(hook.registry)) if mode == "run" else asyncio.run(arun())


@pytest.mark.parametrize("case", ALL_CASES, ids=ids)
def test_same_request_and_same_effect(case: Case, prepare, workspace, client, hook) -> None:
    theirs = prepare()
    before = theirs.plain(state(workspace))
    their_answer = case.theirs(client, theirs)
    their_requests = sent(workspace, theirs)
    their_state = theirs.plain(state(workspace))
    if case.checks_for_prompt and (case.verb not in TAGGING or their_requests[0][0] == "GET"):
        _take_prompt_check(their_requests)
    assert their_requests
    assert (before != their_state) == any(method != "GET" for method, *_ in their_requests)

    for mode in ("run", "arun"):
        ours = prepare()
        our_answer = drive(hook, lambda registry, world=ours: case.ours(registry, world), mode)
        assert sent(workspace, ours) == their_requests
        # MlflowClient returns None from rename, we return the model
        if case.verb != "rename_registered_model":
            assert comparable(our_answer) == comparable(their_answer)
        assert ours.plain(state(workspace)) == their_state


def _take_prompt_check(requests: list[Any]) -> None:
    """Take away the look with which MlflowClient finds out whether a model is a prompt."""
    method, path, query, body = requests.pop(0)
    assert (method, path, body) == ("GET", f"{UNITY_CATALOG_PREFIX}/registered-models/get", None)
    assert [key for key, _ in query] == ["name"]


def comparable(answer: Any) -> Any:
    """Take away the order, which Unity Catalog does not promise, and the ids of storage."""
    plain = json.loads(UUID.sub("<id>", json.dumps(facts(answer))))
    return sorted(plain, key=lambda item: (item["name"], item["version"])) if isinstance(plain, list) else plain


def test_pages_are_asked_for_alike(prepare, workspace, client, hook, monkeypatch) -> None:
    monkeypatch.setattr(mlflow_rest, "_VERSION_PAGE", 1)
    monkeypatch.setattr(mlflow_rest, "_MODEL_PAGE", 1)
    world = prepare()
    pages(client.search_model_versions, filter_string=named(world.name), max_results=1)
    pages(client.search_registered_models, max_results=1)
    theirs = [_tokenless(request) for request in sent(workspace, world)]
    for mode in ("run", "arun"):
        versions = drive(hook, lambda r: r.search_model_versions(filter_string=named(world.name)), mode)
        models = drive(hook, lambda r: r.search_registered_models(), mode)
        assert (len(versions), len(models)) == (2, 2)
        assert [_tokenless(request) for request in sent(workspace, world)] == theirs
    assert len(theirs) > 4, "no page was empty"


def _tokenless(request: Any) -> Any:
    """Tokens are the server's own and good for one listing."""
    method, path, query, body = request
    return method, path, [(key, "..." if key == "page_token" else value) for key, value in query], body


@pytest.mark.parametrize(("verb", "argument"), [("get_run", "a" * 32), ("get_logged_model", "m-" + "a" * 32)])
def test_tracking_is_asked_at_the_same_place(workspace, client, hook, verb, argument) -> None:
    """Whatever the workspace answers: it may have no tracking server behind it."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):
        getattr(client, verb)(argument)
    [(method, path, query, body)] = [r.shape for r in workspace.requests.take() if r.path not in ONLY_THEIRS]
    # A parameter for servers older than those we support
    theirs = method, path, [pair for pair in query if pair[0] != "run_uuid"], body
    assert path.startswith(f"{MLFLOW_PREFIX}/")
    for mode in ("run", "arun"):
        with suppress(UCModelsError):
            drive(hook, lambda r: getattr(r, verb)(argument), mode)
        assert [request.shape for request in workspace.requests.take()] == [theirs]


# -- a version with its files


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.parametrize("storage", ["files", "presigned"])
def test_a_version_is_made_by_the_same_requests(storage, request, monkeypatch, folder, model_name) -> None:
    workspace = request.getfixturevalue("emulator" if storage == "files" else "presigned_emulator")
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace))
    hook = ModelRegistryHook("ws")

    world = World(model_name, "", "", str(folder))

    def made_by(make: Callable[[], Any]) -> tuple[list[Any], Any]:
        workspace.reset()
        hook.run(hook.registry.create_registered_model(model_name))
        workspace.requests.take()
        make()
        return sent(workspace, world), state(workspace)

    client = client_of(monkeypatch, workspace)
    tags = {**TAGS, TASK_KEY_TAG: "the-key"}
    theirs = made_by(lambda: client.create_model_version(model_name, str(folder), tags=tags, description="d"))
    monkeypatch.delenv("DATABRICKS_TOKEN")
    new = transfer.NewVersion(model_name, "the-key", "d", TAGS)
    ours = made_by(lambda: transfer.register(hook, parse_source(str(folder)), new))
    assert ours[1] == theirs[1]
    assert writes(ours[0]) == writes(theirs[0])
    # All else that we ask only reads: for an earlier try, and for what was uploaded
    assert [request for request in theirs[0] if request[0] == "GET" and request not in ours[0]] == []


def writes(requests: list[Any]) -> list[Any]:
    """Return what is not a mere look: create, files in the order of their paths (they go up at once), finalize."""
    writing = [request for request in requests if request[0] not in {"GET", "HEAD"}]
    # The queries of presigned addresses are signatures
    signed = [request[1].startswith("/storage/") for request in writing]
    writing = [[*r[:2], [], r[3]] if is_signed else r for r, is_signed in zip(writing, signed, strict=True)]
    created, *files, finalized = writing
    assert [path.rpartition("/")[2] for _, path, *_ in (created, finalized)] == ["create", "finalize"]
    once = [file for number, file in enumerate(files) if file not in files[:number]]  # addresses may be asked for anew
    return [created, *sorted(once, key=str), finalized]


RESOURCES = {
    "serving_endpoint": [{"name": "chat"}],
    "vector_search_index": [{"name": "prod.ml.index"}, {"name": "prod.ml.of_the_user", "on_behalf_of_user": True}],
    "function": [{"name": "prod.ml.lookup"}],
}


def test_what_a_model_depends_on_is_told_alike(workspace, client, hook, folder, tmp_path, model_name) -> None:
    using = shutil.copytree(folder, tmp_path / "using")
    mlmodel = yaml.safe_load((using / "MLmodel").read_text())
    mlmodel["resources"] = {"api_version": "1", "databricks": RESOURCES}
    (using / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    for mode in ("client", "run", "arun"):
        workspace.reset()
        hook.run(hook.registry.create_registered_model(model_name))
        if mode == "client":
            client.create_model_version(model_name, str(using))
            [theirs] = workspace.requests.find("/model-versions/create")
            dependencies = theirs.body["model_version_dependencies"]
        else:
            create = partial(_create, name=model_name, source=str(using), dependencies=dependencies)
            drive(hook, create, mode)
            [ours] = workspace.requests.find("/model-versions/create")
            assert ours.shape == theirs.shape
    assert {dependency["name"] for dependency in dependencies} == {"chat", "prod.ml.index", "prod.ml.lookup"}


def _create(registry: Registry, name: str, source: str, **options: Any) -> Call[Any]:
    return registry.create_model_version(name, source, **options)


@pytest.mark.parametrize("origin", ["run", "logged model"])
def test_the_run_behind_a_version_is_told_alike(
    origin, tracking_workspace, mlflow_server, monkeypatch, folder, model_name
) -> None:
    """Unity Catalog links a version to its run by the number of the workspace, which that puts on its answers."""
    tracking, workspace = mlflow_server.client(), tracking_workspace
    experiment = tracking.create_experiment(model_name)
    run_id, model_id = tracking.create_run(experiment).info.run_id, None
    if origin == "logged model":
        model_id = tracking.create_logged_model(experiment, name="m", source_run_id=run_id).model_id
    client = client_of(monkeypatch, workspace)
    monkeypatch.setenv("AIRFLOW_CONN_WS", connection_json(workspace))
    hook = ModelRegistryHook("ws")
    workspace.reset()
    hook.run(hook.registry.create_registered_model(model_name))
    with mlflow_session(hook):  # mlflow looks for the logged model where the process tracks, whatever the client says
        client.create_model_version(model_name, str(folder), run_id=run_id, model_id=model_id)
    [theirs] = workspace.requests.find("/model-versions/create")
    assert theirs.body["run_tracking_server_id"] == str(workspace.workspace.settings.workspace_id)
    assert theirs.body.get("model_id") == model_id
    for mode in ("run", "arun"):
        found = drive(hook, lambda r: r.get_logged_model(model_id) if model_id else r.get_run(run_id), mode)
        create = partial(_create, name=model_name, source=str(folder), run_id=run_id, model_id=model_id)
        workspace.requests.take()
        drive(hook, partial(create, run_workspace_id=found.workspace_id), mode)
        assert [request.shape for request in workspace.requests.take()] == [theirs.shape]


# -- what Unity Catalog cannot do


def test_what_unity_catalog_refuses_is_refused_before_it_is_asked(prepare, workspace, client, hook) -> None:
    from mlflow.exceptions import MlflowException

    where = named(prepare().name)
    for theirs, ours in (
        (
            lambda: client.search_registered_models(filter_string=where),
            lambda r: r.search_registered_models(filter_string=where),
        ),
        (
            lambda: client.search_registered_models(order_by=["name"]),
            lambda r: r.search_registered_models(order_by=["name"]),
        ),
        (
            lambda: client.search_model_versions(where, order_by=["version_number"]),
            lambda r: r.search_model_versions(filter_string=where, order_by=["version_number"]),
        ),
    ):
        with pytest.raises(MlflowException, match="unsupported"):
            theirs()
        for mode in ("run", "arun"):
            with pytest.raises(UnsupportedOperationError, match="Unity Catalog does not support"):
                drive(hook, ours, mode)
    assert not [request for request in workspace.requests.take() if request.path not in ONLY_THEIRS]
