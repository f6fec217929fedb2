"""The open-source dialect, sent by MLflow's own client and by us to one server: the same requests, the same effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.proxy import Proxy, Recorded

from airflow_uc_models.hooks.auth import BearerAuth
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.unity_catalog_rest import PREFIX, UnityCatalogRestRegistry

OURS = UnityCatalogRestRegistry()
RENAME = "rename_registered_model"  # the server has it, MLflow's client does not


@dataclass
class Case:
    """One verb with one set of arguments.

    :param theirs: the call of a user of MlflowClient on a model
    :param extra: MlflowClient first reads the model, to see whether it is a prompt
    :param ours_only: query parameters that we send and MLflow does not
    :param ends_with: of MlflowClient's requests, only those whose path ends so; it uploads in the same call
    """

    verb: str
    theirs: Callable[[Any, str], Any]
    ours: Callable[[str], Any]
    extra: bool = False
    ours_only: tuple[tuple[str, str], ...] = ()
    ends_with: str = ""


CASES = [
    Case(
        "create_registered_model",
        lambda c, n: c.create_registered_model(n + "_2"),
        lambda n: OURS.create_registered_model(n + "_2"),
    ),
    Case(
        "create_registered_model",
        lambda c, n: c.create_registered_model(n + "_2", description="why\nit is ☃"),
        lambda n: OURS.create_registered_model(n + "_2", description="why\nit is ☃"),
    ),
    Case("get_registered_model", lambda c, n: c.get_registered_model(n), OURS.get_registered_model),
    Case(
        "update_registered_model",
        lambda c, n: c.update_registered_model(n, description="new"),
        lambda n: OURS.update_registered_model(n, description="new"),
        extra=True,
    ),
    Case(
        "delete_registered_model",
        lambda c, n: c.delete_registered_model(n + "_empty"),
        lambda n: OURS.delete_registered_model(n + "_empty"),
        extra=True,
        ours_only=(("force", "true"),),
    ),
    Case(
        "search_registered_models",
        lambda c, n: c.search_registered_models(max_results=1),
        lambda n: OURS.search_registered_models(max_results=1),
    ),
    Case(
        "create_model_version",
        lambda c, n: c.create_model_version(n, c.folder, run_id="0a1b", description="the ☃"),
        lambda n: OURS.create_model_version(n, FOLDER[0], run_id="0a1b", description="the ☃"),
        ends_with="/versions",
    ),
    Case(
        "create_model_version",
        lambda c, n: c.create_model_version(n, c.folder),
        lambda n: OURS.create_model_version(n, FOLDER[0]),
        ends_with="/versions",
    ),
    Case(
        "finalize_model_version",
        lambda c, n: c.create_model_version(n, c.folder),
        lambda n: OURS.finalize_model_version(n, 3),
        ends_with="/finalize",
    ),
    Case("get_model_version", lambda c, n: c.get_model_version(n, 1), lambda n: OURS.get_model_version(n, 1)),
    Case(
        "get_model_version_download_uri",
        lambda c, n: c.get_model_version_download_uri(n, 1),
        lambda n: OURS.get_model_version_download_uri(n, 1),
        extra=True,
    ),
    Case(
        "update_model_version",
        lambda c, n: c.update_model_version(n, 1, "new"),
        lambda n: OURS.update_model_version(n, 1, description="new"),
        extra=True,
    ),
    Case(
        "delete_model_version",
        lambda c, n: c.delete_model_version(n, 1),
        lambda n: OURS.delete_model_version(n, 1),
        extra=True,
    ),
    Case(
        "search_model_versions",
        lambda c, n: c.search_model_versions(f"name='{n}'"),
        lambda n: OURS.search_model_versions(filter_string=f"name='{n}'"),
    ),
]
FOLDER: list[str] = []
# Verbs that MLflow's client refuses on such a server, as we do.
REFUSED = [
    (lambda c, n: c.set_registered_model_alias(n, "a", 1), lambda n: OURS.set_registered_model_alias(n, "a", 1)),
    (lambda c, n: c.delete_registered_model_alias(n, "a"), lambda n: OURS.delete_registered_model_alias(n, "a")),
    (lambda c, n: c.get_model_version_by_alias(n, "a"), lambda n: OURS.get_model_version_by_alias(n, "a")),
    (lambda c, n: c.set_registered_model_tag(n, "k", "v"), lambda n: OURS.set_registered_model_tag(n, "k", "v")),
    (lambda c, n: c.delete_registered_model_tag(n, "k"), lambda n: OURS.delete_registered_model_tag(n, "k")),
    (lambda c, n: c.set_model_version_tag(n, 1, "k", "v"), lambda n: OURS.set_model_version_tag(n, 1, "k", "v")),
    (lambda c, n: c.delete_model_version_tag(n, 1, "k"), lambda n: OURS.delete_model_version_tag(n, 1, "k")),
]


@pytest.fixture(scope="module")
def watched(open_source):
    with Proxy(open_source.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(open_source, watched, tmp_path_factory):
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        if open_source.token:
            patch.setenv("MLFLOW_UC_OSS_TOKEN", open_source.token)
        client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db", registry_uri=f"uc:{watched.url}")
        client.folder = str(root / "model")
        (root / "model").mkdir()
        (root / "model" / "weights").write_text("1 2 3")
        FOLDER[:] = [client.folder]
        yield client


@pytest.fixture
def run(open_source, watched):
    auth = BearerAuth(open_source.token) if open_source.token else None
    return Transport(base_url=watched.url, auth=auth, max_retry_seconds=2).run


def prepared(open_source) -> str:
    """A model with a finished version, one that its maker left, a third one pending; and an empty one beside it."""
    name = open_source.make(open_source.new_name(), ("one", None))
    open_source.add(name, ready=False)
    open_source.make(f"{name}_empty")
    return name


def shape(recorded: Recorded, name: str) -> Any:
    assert recorded.status == 200, recorded
    assert recorded.headers.get("content-type", "application/json").startswith("application/json")
    return json.loads(json.dumps(recorded.shape).replace(name, "<m>").replace(name.split(".")[2], "<short>"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.verb)
def test_the_same_request(case, open_source, watched, client, run) -> None:
    theirs, ours = prepared(open_source), prepared(open_source)
    watched.take()
    case.theirs(client, theirs)
    sent = watched.take()
    if case.extra:
        assert sent.pop(0).method == "GET"
    sent = [r for r in sent if r.path.endswith(case.ends_with)]
    run(case.ours(ours))
    [request] = watched.take()
    if case.ours_only:
        assert set(case.ours_only) <= set(request.query)
        request = replace(request, query=[pair for pair in request.query if pair not in case.ours_only])
    [expected] = [shape(r, theirs) for r in sent]
    got = shape(request, ours)
    if case.verb == "finalize_model_version":  # theirs made the version that it finalizes
        expected = json.loads(json.dumps(expected).replace("/versions/4/", "/versions/3/").replace('": 4', '": 3'))
    assert got == expected


def test_the_same_answers(open_source, client, run) -> None:
    name = prepared(open_source)
    theirs, ours = client.get_registered_model(name), run(OURS.get_registered_model(name))
    assert (theirs.name, theirs.description or None) == (ours.name, ours.description)
    assert (theirs.creation_timestamp, theirs.last_updated_timestamp) == (ours.created_at, ours.updated_at)
    listed = client.search_model_versions(f"name='{name}'")
    found = run(OURS.search_model_versions(filter_string=f"name='{name}'"))
    assert [v.status for v in found] == ["READY", "READY", "PENDING_REGISTRATION"]
    for one, other in [*zip(listed, found, strict=True), (client.get_model_version(name, 1), found[0])]:
        assert (one.name, one.version, one.status, one.source) == (
            other.name,
            other.version,
            other.status,
            other.source,
        )
        assert (one.run_id or None, one.description or None) == (other.run_id, other.description)
        assert (one.creation_timestamp, one.last_updated_timestamp) == (other.created_at, other.updated_at)
    assert client.get_model_version_download_uri(name, 1) == run(OURS.get_model_version_download_uri(name, 1))


@pytest.mark.parametrize(("theirs", "ours"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_mlflow_refuses_we_refuse_before_any_call(theirs, ours, open_source, watched, client, run) -> None:
    from airflow_uc_models.exceptions import UnsupportedOperationError

    name = prepared(open_source)
    with pytest.raises(NotImplementedError):
        theirs(client, name)
    watched.take()
    with pytest.raises(UnsupportedOperationError, match="open-source Unity Catalog server does not support"):
        run(ours(name))
    assert watched.take() == []


def test_every_verb_is_compared() -> None:
    compared = {case.verb for case in CASES} | {RENAME, "get_run", "get_logged_model"}
    from airflow_uc_models.registry.base import Registry

    refused = {name for name in Registry.__abstractmethods__ if "alias" in name or "_tag" in name}
    assert compared | refused == Registry.__abstractmethods__


def test_a_rename_sends_the_bare_name(open_source, watched, run) -> None:
    name = prepared(open_source)
    watched.take()
    assert run(OURS.rename_registered_model(name, f"{name}_new")).name == f"{name}_new"
    [request] = watched.take()
    body = {"full_name": name, "new_name": f"{name.split('.')[2]}_new"}
    assert request.shape == ("PATCH", f"{PREFIX}/models/{name}", [], body)
