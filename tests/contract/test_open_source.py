"""Our registry on an open-source Unity Catalog server: what it cannot do, pages, task keys, shared numbers, grants."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from support.open_source import flavour
from support.proxy import Proxy

from airflow_uc_models.exceptions import (
    AlreadyExistsError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UnauthenticatedError,
    UnsupportedOperationError,
)
from airflow_uc_models.hooks import model_files_open_source
from airflow_uc_models.hooks.auth import BearerAuth
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry import comments
from airflow_uc_models.registry.aliases import delete_alias, move_alias, rollback_alias
from airflow_uc_models.registry.facts import champion_of
from airflow_uc_models.registry.mlflow_rest import UNITY_CATALOG, MlflowRestRegistry
from airflow_uc_models.registry.registration import (
    create_model_once,
    create_pending_version,
    drop_if_empty,
    finalize_version,
    find_by_task_key,
    keyed,
    redescribed,
    settle,
)
from airflow_uc_models.registry.retention import search_versions
from airflow_uc_models.registry.unity_catalog_rest import UnityCatalogRestRegistry

REGISTRY = UnityCatalogRestRegistry()
KEY, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
LINE = f"airflow_task_key: {KEY}"


def transport(url: str, token: str | None = None) -> Transport:
    return Transport(base_url=url, auth=BearerAuth(token) if token else None, max_retry_seconds=3, label="server")


@pytest.fixture
def run(open_source):
    return transport(open_source.url, open_source.token).run


@pytest.fixture
def watched(open_source):
    with Proxy(open_source.url) as proxy:
        yield proxy


@pytest.fixture
def name(open_source):
    return open_source.make(open_source.new_name())


def create(name: str, key: str = KEY, text: str | None = "why"):
    description, _ = keyed(REGISTRY, key, text)
    return lambda: REGISTRY.create_model_version(name, "runs:/1/model", description=description)


# -- what it cannot do, and what it checks before any call


@pytest.mark.parametrize(
    "call",
    [
        lambda n: move_alias(REGISTRY, n, "Champion", 1),
        lambda n: rollback_alias(REGISTRY, n, "Champion", KEY),
        lambda n: delete_alias(REGISTRY, n, "Champion"),
        lambda n: champion_of(REGISTRY, n, "Champion"),
        lambda n: REGISTRY.create_registered_model(n, tags={"a": "b"}),
        lambda n: REGISTRY.create_model_version(n, "s", tags={"a": "b"}),
        lambda n: search_versions(REGISTRY, n, tags={"a": "b"}),
        lambda n: create_model_once(REGISTRY, n, KEY, tags={"a": "b"}),
        lambda n: REGISTRY.get_run("0a1b"),
        lambda n: REGISTRY.get_logged_model("m-0a1b"),
        lambda n: REGISTRY.search_registered_models(filter_string="name = 'a'"),
        lambda n: REGISTRY.search_model_versions(filter_string=f"name='{n}' and run_id='1'"),
        lambda n: REGISTRY.search_model_versions(filter_string=f"name='{n}'", order_by=["version"]),
    ],
)
def test_what_it_has_not_is_refused_before_any_call(call, watched, open_source, name) -> None:
    with pytest.raises(
        UnsupportedOperationError, match=r"open-source Unity Catalog server does not support .+\. \w|order"
    ):
        transport(watched.url, open_source.token).run(call(name))
    assert watched.take() == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda n: REGISTRY.get_registered_model("dev.ml.über"), InvalidNameError),
        (lambda n: REGISTRY.get_registered_model("dev.ml"), InvalidNameError),
        (lambda n: REGISTRY.get_model_version(n, 0), InvalidNameError),
        (lambda n: REGISTRY.create_model_version(n, "s" * 256), InvalidArgumentError),
        (lambda n: REGISTRY.create_model_version(n, "s", run_id="r" * 256), InvalidArgumentError),
        (lambda n: REGISTRY.create_model_version(n, "s", description="d" * 65_536), InvalidArgumentError),
        (lambda n: REGISTRY.update_model_version(n, 1, description="d" * 65_536), InvalidArgumentError),
        (lambda n: REGISTRY.create_registered_model(n + "_2", description="d" * 65_536), InvalidArgumentError),
        (lambda n: REGISTRY.update_registered_model(n, description="\N{GRINNING FACE}" * 32_768), InvalidArgumentError),
        (lambda n: create_model_once(REGISTRY, n, KEY, description="d" * (65_535 - len(LINE))), InvalidArgumentError),
        (lambda n: REGISTRY.rename_registered_model(n, "other.schema.m"), InvalidArgumentError),
    ],
)
def test_slips_are_told_before_any_call(call, error, watched, open_source, name) -> None:
    with pytest.raises(error):
        transport(watched.url, open_source.token).run(call(name))
    assert watched.take() == []


def test_texts_as_long_as_the_server_takes_are_not_refused(run, open_source) -> None:
    name, most = open_source.new_name(), 65_535
    text = "d" * (most - len(LINE) - 1)
    model, _ = run(create_model_once(REGISTRY, name, KEY, description=text))
    assert model.description == f"{text}\n{LINE}"
    made = run(REGISTRY.create_model_version(name, "s" * 255, run_id="r" * 255, description="d" * most))
    assert (len(made.source), len(made.run_id), len(made.description)) == (255, 255, most)
    faces = "\N{GRINNING FACE}" * (most // 2)
    assert run(REGISTRY.update_registered_model(name, description=faces)).description == faces


def test_a_workspace_takes_one_character_more() -> None:
    registry = MlflowRestRegistry("/api/2.0/mlflow/unity-catalog", UNITY_CATALOG)
    for text, refused in (("d" * 65_536, False), ("d" * 65_537, True)):
        for call in (
            registry.create_registered_model("a.b.c", description=text),
            registry.update_registered_model("a.b.c", description=text),
            registry.create_model_version("a.b.c", "s", description=text),
            registry.update_model_version("a.b.c", 1, description=text),
        ):
            with pytest.raises(InvalidArgumentError, match="65,536") if refused else nullcontext():
                next(call)


def test_errors_are_of_the_class_that_fits(run, open_source, name) -> None:
    with pytest.raises(NotFoundError, match="404 NOT_FOUND"):
        run(REGISTRY.get_registered_model(f"{name}_no"))
    with pytest.raises(NotFoundError, match="404 SCHEMA_NOT_FOUND"):
        run(REGISTRY.create_registered_model(f"{open_source.catalog}.no.m"))
    with pytest.raises(AlreadyExistsError):
        run(REGISTRY.create_registered_model(name))
    with pytest.raises(NotFoundError):
        run(REGISTRY.get_model_version(name, 9))
    with pytest.raises(NotFoundError):
        run(REGISTRY.delete_model_version(name, 9))
    open_source.add(name)
    with pytest.raises(InvalidRequestError, match="not in a pending registration state"):
        run(REGISTRY.finalize_model_version(name, 1))


def test_a_wrong_address_is_not_a_missing_model(open_source) -> None:
    elsewhere = transport(f"{open_source.url}/elsewhere", open_source.token)
    for call in (REGISTRY.get_registered_model("a.b.c"), REGISTRY.delete_registered_model("a.b.c")):
        # With authorization on, the server answers an unknown path with a 500 of its own.
        with pytest.raises((InvalidRequestError, RegistryUnavailableError)) as raised:
            elsewhere.run(call)
        assert not isinstance(raised.value, NotFoundError)
        assert "not how a model registry answers" in str(raised.value) or raised.value.status == 500


def test_letter_case_is_kept(run, open_source, name) -> None:
    upper = f"{open_source.schema}.{name.split('.')[2].upper()}"
    assert run(REGISTRY.create_registered_model(upper)).name == upper


# -- pages and deletes


def test_models_of_a_schema_and_of_all(run, open_source, name) -> None:
    schema = f"{open_source.catalog}.s{name[-6:]}"
    open_source.call("POST", "/schemas", {"name": schema.split(".")[1], "catalog_name": open_source.catalog})
    names = sorted(f"{schema}.m{i:03}" for i in range(101))
    for each in names:
        open_source.make(each)
    assert [m.name for m in run(REGISTRY.search_registered_models(schema=schema))] == names
    everything = {m.name for m in run(REGISTRY.search_registered_models())}
    assert {*names, name} <= everything
    assert len(run(REGISTRY.search_registered_models(max_results=3))) == 3


def test_a_model_goes_with_its_versions(run, open_source, name) -> None:
    open_source.add(name)
    run(REGISTRY.delete_registered_model(name))
    with pytest.raises(NotFoundError):
        run(REGISTRY.get_registered_model(name))


def test_a_delete_whose_answer_is_lost_is_a_delete(open_source, watched, name) -> None:
    watched.fail(f"/models/{name}", "DELETE", after=True, reset=True)
    transport(watched.url, open_source.token).run(REGISTRY.delete_registered_model(name))
    assert [r.status for r in watched.take()] == [200, 404]


# -- the task key


def test_the_key_is_the_last_line_of_the_comment() -> None:
    assert keyed(REGISTRY, KEY, "why\n") == (f"why\n\n{LINE}", {})
    assert keyed(REGISTRY, KEY, None) == (LINE, {})
    tags = {"airflow_copied_from": "models:/a.b.c/1"}
    assert keyed(REGISTRY, KEY, "why", tags) == (f"why\nairflow_copied_from: models:/a.b.c/1\n{LINE}", {})
    mlflow = MlflowRestRegistry()
    assert keyed(mlflow, KEY, "why", {"a": "b"}) == ("why", {"a": "b", "airflow_task_key": KEY})


@pytest.mark.parametrize("registry", [REGISTRY, MlflowRestRegistry()])
def test_a_copied_description_leaves_its_own_lines_behind(registry) -> None:
    theirs = f"why\nit is\nairflow_copied_from: models:/a.b.c/1\nairflow_task_key: {OTHER}"
    text, _ = keyed(registry, KEY, theirs)
    assert comments.split(text)[0] == "why\nit is"
    assert OTHER not in text


@pytest.mark.parametrize(
    "text", ["plain", "airflow_task_key: x\nabove", "airflow_else: stays", "a\n\n", "airflow_task_key:"]
)
def test_what_people_write_stays_as_it_is(text) -> None:
    assert comments.split(comments.join(text, {"airflow_task_key": KEY})) == (text, {"airflow_task_key": KEY})


def test_versions_are_found_by_key_without_a_get_for_each(open_source, watched, name) -> None:
    for comment in ("why", f"why\n{LINE}", f"{LINE}\nnot last", LINE):
        open_source.add(name, comment)
    found = transport(watched.url, open_source.token).run(find_by_task_key(REGISTRY, name, KEY))
    assert [v.version for v in found] == [2, 4]
    assert found[0].description == f"why\n{LINE}"
    assert {r.path for r in watched.take()} == {f"/api/2.1/unity-catalog/models/{name}/versions"}


def test_settle_keeps_the_first_finished_one(run, open_source, name) -> None:
    for comment, ready in ((LINE, False), (LINE, True), (LINE, True), ("another's", True)):
        open_source.add(name, comment, ready=ready)
    kept = run(settle(REGISTRY, name, KEY))
    assert (kept.version, kept.is_ready) == (2, True)
    assert [v["version"] for v in open_source.versions(name)] == [2, 4]


def test_a_created_model_is_known_again(run, open_source) -> None:
    name = open_source.new_name()
    assert run(create_model_once(REGISTRY, name, KEY, description="why"))[1] is True
    model, made = run(create_model_once(REGISTRY, name, KEY, description="why"))
    assert (model.description, made) == (f"why\n{LINE}", True)
    assert run(create_model_once(REGISTRY, name, OTHER))[1] is False
    assert redescribed(REGISTRY, model, "new") == f"new\n{LINE}"
    assert redescribed(REGISTRY, replace(model, description=None), "new") == "new"
    run(drop_if_empty(REGISTRY, name))
    with pytest.raises(NotFoundError):
        run(REGISTRY.get_registered_model(name))


def test_a_create_whose_answer_is_lost_makes_one_version(open_source, watched, name) -> None:
    watched.fail("/models/versions", "POST", after=True, reset=True)
    run = transport(watched.url, open_source.token).run
    made = run(create_pending_version(REGISTRY, name, KEY, create(name)))
    assert (made.version, made.status) == (1, "PENDING_REGISTRATION")
    watched.fail("/finalize", "PATCH", after=True, reset=True)
    assert run(finalize_version(REGISTRY, made)).is_ready
    assert len(open_source.versions(name)) == 1


# -- grants


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with flavour(tmp_path_factory.mktemp("uc"), authorization=True) as server:
        server.app.state.access.add_user("ml@example.com", "of-the-user")
        yield server


@pytest.mark.parametrize(
    ("call", "needs"),
    [
        (lambda n: REGISTRY.create_registered_model(n + "_2"), "CREATE MODEL on {schema}"),
        (REGISTRY.get_registered_model, "EXECUTE on {model}"),
        (lambda n: REGISTRY.search_model_versions(filter_string=f"name='{n}'"), "EXECUTE on {model}"),
        (lambda n: REGISTRY.get_model_version(n, 1), "EXECUTE on {model}"),
        (lambda n: REGISTRY.create_model_version(n, "s"), "ownership of {model}"),
        (lambda n: REGISTRY.finalize_model_version(n, 1), "ownership of {model}"),
        (lambda n: REGISTRY.update_registered_model(n, description="x"), "ownership of {model}"),
        (lambda n: REGISTRY.rename_registered_model(n, n + "_2"), "ownership of {model}"),
        (lambda n: REGISTRY.delete_model_version(n, 1), "ownership of {model}"),
        (REGISTRY.delete_registered_model, "ownership of {model}"),
        (lambda n: REGISTRY.temporary_credentials(n, 1, write=False), "EXECUTE on {model}"),
    ],
)
def test_a_missing_privilege_is_named(call, needs, guarded) -> None:
    name = guarded.make(guarded.new_name(), ("one",))
    with pytest.raises(PermissionDeniedError) as caught:
        transport(guarded.url, "of-the-user").run(call(name))
    wanted = needs.format(model=name, schema=guarded.schema)
    assert f"It needs {wanted}, USE SCHEMA on {guarded.schema} and USE CATALOG on {guarded.catalog}" in str(
        caught.value
    )


def test_a_refused_token_is_told(guarded) -> None:
    with pytest.raises(UnauthenticatedError, match="Invalid access token"):
        transport(guarded.url, "nobody's").run(REGISTRY.search_registered_models())
    with pytest.raises(UnauthenticatedError, match="No authorization found"):
        transport(guarded.url).run(REGISTRY.search_registered_models())


def test_pages_that_are_empty_in_the_middle_are_read_to_the_end(guarded) -> None:
    names = [guarded.make(guarded.new_name()) for _ in range(3)]
    user = "ml@example.com"
    for path, privilege in (
        (f"catalog/{guarded.catalog}", "USE CATALOG"),
        (f"schema/{guarded.schema}", "USE SCHEMA"),
        (f"registered_model/{max(names)}", "EXECUTE"),
    ):
        guarded.call("PATCH", f"/permissions/{path}", {"changes": [{"principal": user, "add": [privilege]}]})
    run = transport(guarded.url, "of-the-user").run
    assert [m.name for m in run(REGISTRY.search_registered_models(schema=guarded.schema, max_results=1))] == [
        max(names)
    ]
    guarded.app.state.access.grants.clear()


# -- cloud storage


def test_credentials_for_cloud_storage_are_as_mlflow_reads_them() -> None:
    try:
        from mlflow.protos.unity_catalog_messages_pb2 import TemporaryCredentials
    except ImportError:  # before MLflow 3.15
        from mlflow.protos.unity_catalog_oss_messages_pb2 import TemporaryCredentials
    from mlflow.utils.proto_json_utils import parse_dict

    with flavour("s3://bucket/root") as server, Proxy(server.url) as proxy:
        name = server.make(server.new_name(), ("one",), ready=False)
        assert server.versions(name)[0]["storage_location"].startswith("s3://bucket/root/__unitystorage/models/")
        for write in (False, True):
            found = transport(proxy.url).run(REGISTRY.temporary_credentials(name, 1, write=write))
            message = TemporaryCredentials()
            parse_dict(found, message)
            assert message.aws_temp_credentials.session_token == "emulated"
        catalog, schema, model = name.split(".")
        body = {"catalog_name": catalog, "schema_name": schema, "model_name": model, "version": 1}
        operations = ("READ_MODEL_VERSION", "READ_WRITE_MODEL_VERSION")
        assert [r.body for r in proxy.take()] == [{**body, "operation": operation} for operation in operations]


def test_credentials_of_a_cloud_make_mlflows_own_repository(monkeypatch) -> None:
    seen = {}

    def repository(**given):
        seen.update(given, again=given["base_credential_refresh_def"]())

    monkeypatch.setattr("mlflow.utils._unity_catalog_utils.get_artifact_repo_from_storage_info", repository)
    with flavour("s3://bucket/root") as server:
        monkeypatch.setenv("AIRFLOW_CONN_CLOUD", server.connection_json())
        hook = ModelRegistryHook("cloud")
        version = hook.run(hook.registry.get_model_version(server.make(server.new_name(), ("one",)), 1))
        model_files_open_source.repository(hook, version, write=False)
    assert seen["storage_location"] == version.storage_location
    assert seen["is_oss"]
    for credentials in (seen["scoped_token"], seen["again"]):
        assert credentials.aws_temp_credentials.session_token == "emulated"
