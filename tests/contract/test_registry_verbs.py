"""How the verbs fail, on a real MLflow server through the hook; what they do is in test_contract.py."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx
import pytest
from packaging.version import Version
from support.mlflow_server import MlflowServer, free_port

from airflow_uc_models.exceptions import (
    ConnectionConfigError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UCModelsError,
    UnauthenticatedError,
)
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.privileges import NEEDS


@pytest.fixture(params=["run", "arun"])
def ask(request, proxy, monkeypatch) -> Callable[[Callable[[Registry], Call[Any]]], Any]:
    """Run a call through the hook, once from a task and once from an event loop."""
    monkeypatch.setenv("AIRFLOW_CONN_VERBS", proxy.connection_json())
    return asker("verbs", request.param)


def asker(conn_id: str, mode: str = "run") -> Callable[[Callable[[Registry], Call[Any]]], Any]:
    def run(call: Callable[[Registry], Call[Any]]) -> Any:
        hook = ModelRegistryHook(conn_id)
        return hook.run(call(hook.registry))

    async def arun(call: Callable[[Registry], Call[Any]]) -> Any:
        hook = ModelRegistryHook(conn_id)
        return await hook.arun(call((await hook.aendpoint()).registry))

    return run if mode == "run" else lambda call: asyncio.run(arun(call))


def failure(ask: Callable[..., Any], call: Callable[[Registry], Call[Any]], kind: type[UCModelsError]) -> str:
    with pytest.raises(kind) as caught:
        ask(call)
    assert type(caught.value) is kind
    return str(caught.value)


# -- what a server may answer


def test_an_empty_page_with_a_token_is_not_the_end(ask, proxy, model_name) -> None:
    proxy.fail("/search", status=200, body='{"next_page_token": "t"}')
    proxy.fail("/search", status=200, body=json.dumps({"registered_models": [{"name": model_name}]}))
    assert [model.name for model in ask(lambda r: r.search_registered_models())] == [model_name]
    assert [dict(request.query).get("page_token") for request in proxy.take()] == [None, "t"]


def test_a_bad_filter_is_the_users_error(ask) -> None:
    assert "nonsense" in failure(
        ask, lambda r: r.search_registered_models(filter_string="nonsense"), InvalidRequestError
    )


# -- refused before anything is sent

BAD_NAMES = ["two.levels", "a.b.c.d", "", "a..c", "a.b.c/1", "a.b.c d", "models:/a.b.c", "a.b.\n", None, 3]
BAD_VERSIONS = [0, -1, "latest", "1.0", True, None, "", "Production", 1.0, 10**18]
BAD_ALIASES = ["latest", "LATEST", "v3", "V12", "", "a b", "a.b", "a@b", "a\n", "x" * 256, None]
GOOD = "a.b.c"

UNSENDABLE: list[tuple[str, type[UCModelsError], Callable[[Registry], Any]]] = [
    *(
        (
            f"{verb} of {name!r}",
            InvalidNameError,
            lambda r, verb=verb, name=name, more=more: getattr(r, verb)(name, *more),
        )
        for name in BAD_NAMES
        for verb, more in {
            "create_registered_model": (),
            "get_registered_model": (),
            "rename_registered_model": (GOOD,),
            "delete_registered_model": (),
            "set_registered_model_tag": ("k", "v"),
            "delete_registered_model_tag": ("k",),
            "create_model_version": ("dbfs:/x",),
            "get_model_version": (1,),
            "get_model_version_by_alias": ("x",),
            "get_model_version_download_uri": (1,),
            "delete_model_version": (1,),
            "set_model_version_tag": (1, "k", "v"),
            "delete_model_version_tag": (1, "k"),
            "set_registered_model_alias": ("x", 1),
            "delete_registered_model_alias": ("x",),
        }.items()
    ),
    *(
        (f"rename to {name!r}", InvalidNameError, lambda r, name=name: r.rename_registered_model(GOOD, name))
        for name in BAD_NAMES
    ),
    *(
        (
            f"{verb} of version {version!r}",
            InvalidNameError,
            lambda r, verb=verb, v=version, more=more: getattr(r, verb)(GOOD, v, *more),
        )
        for version in BAD_VERSIONS
        for verb, more in {
            "get_model_version": (),
            "get_model_version_download_uri": (),
            "delete_model_version": (),
            "set_model_version_tag": ("k", "v"),
            "delete_model_version_tag": ("k",),
        }.items()
    ),
    *(
        (
            f"alias to version {version!r}",
            InvalidNameError,
            lambda r, v=version: r.set_registered_model_alias(GOOD, "x", v),
        )
        for version in BAD_VERSIONS
    ),
    *(
        (
            f"{verb} {alias!r}",
            InvalidNameError,
            lambda r, verb=verb, alias=alias, more=more: getattr(r, verb)(GOOD, alias, *more),
        )
        for alias in BAD_ALIASES
        for verb, more in {
            "set_registered_model_alias": (1,),
            "get_model_version_by_alias": (),
            "delete_registered_model_alias": (),
        }.items()
    ),
    *(
        (f"tag {key[:9]!r}", InvalidArgumentError, call)
        for key in ["", "k" * 251, "a=b", "a,b", "a//b", "/a", "../a", "..a", ".", "a/", "a/./b", "x\n", "\t"]
        for call in (
            lambda r, key=key: r.set_registered_model_tag(GOOD, key, "v"),
            lambda r, key=key: r.delete_registered_model_tag(GOOD, key),
            lambda r, key=key: r.set_model_version_tag(GOOD, 1, key, "v"),
            lambda r, key=key: r.delete_model_version_tag(GOOD, 1, key),
            lambda r, key=key: r.create_registered_model(GOOD, tags={"ok": "v", key: "v"}),
            lambda r, key=key: r.create_model_version(GOOD, "dbfs:/x", tags={"ok": "v", key: "v"}),
        )
    ),
    ("long value", InvalidArgumentError, lambda r: r.set_registered_model_tag(GOOD, "k", "v" * 100_001)),
    ("long value", InvalidArgumentError, lambda r: r.create_model_version(GOOD, "x", tags={"k": "v" * 100_001})),
    ("no value", InvalidArgumentError, lambda r: r.create_registered_model(GOOD, tags={"k": None})),
    ("no dict", InvalidArgumentError, lambda r: r.create_registered_model(GOOD, tags=["k"])),
]


def test_what_no_registry_would_take_is_never_sent(proxy, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VERBS", proxy.connection_json())
    hook = ModelRegistryHook("verbs")
    for what, kind, call in UNSENDABLE:
        with pytest.raises(UCModelsError) as caught:
            hook.run(call(hook.registry))
        assert type(caught.value) is kind, what
        assert caught.value.permanent
    assert not proxy.take()


@pytest.mark.parametrize("key", ["a b", "a/b", "a.b", "...a"[3:], "ümläut", "k" * 250, "a: b-c_d"])
def test_what_the_server_takes_as_a_tag_key_is_not_refused(ask, model_name, key) -> None:
    ask(lambda r: r.create_registered_model(model_name, tags={key: "v" * 100_000}))
    assert ask(lambda r: r.get_registered_model(model_name)).tags == {key: "v" * 100_000}


# -- answers of what is no registry


def test_a_wrong_path_prefix_is_not_a_missing_model(mlflow_server, monkeypatch) -> None:
    connection = json.loads(mlflow_server.connection_json())
    connection["host"] += "/elsewhere"
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps(connection))
    message = failure(asker("elsewhere"), lambda r: r.get_registered_model(GOOD), InvalidRequestError)
    assert "answered 404" in message
    assert "check host, port and path prefix of connection" in message


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (404, '{"detail": "Not Found"}', InvalidRequestError, "path prefix"),
        (200, "<html>sign in</html>", InvalidRequestError, "path prefix"),
        (200, '{"status": "ok"}', InvalidRequestError, "KeyError: 'registered_model'"),
        (200, '{"registered_model": []}', InvalidRequestError, "without what was asked for"),
        (200, "", InvalidRequestError, "an empty body"),
        (200, "[]", InvalidRequestError, "path prefix"),
        (302, "", InvalidRequestError, "It redirects to https://elsewhere/login"),
        (403, "<html>no</html>", PermissionDeniedError, "It needs READ on a.b.c."),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}', NotFoundError, "RESOURCE_DOES_NOT_EXIST"),
        (404, '{"error_code": 5, "message": "x"}', InvalidRequestError, "path prefix"),
        (409, '{"error_code": "ABORTED", "message": "x"}', UCModelsError, "ABORTED: x."),
    ],
)
def test_every_answer_becomes_an_error_that_says_what_to_do(ask, proxy, status, body, kind, told) -> None:
    proxy.fail("/get", status=status, body=body, headers={"Location": "https://elsewhere/login"})
    with pytest.raises(kind, match=r"Could not get registered model a\.b\.c: the MLflow server answered") as caught:
        ask(lambda r: r.get_registered_model(GOOD))
    assert told in str(caught.value)


def test_a_page_of_something_else_is_an_error(ask, proxy) -> None:
    proxy.fail("/search", status=200, body='{"registered_models": [{}]}')
    assert "KeyError" in failure(ask, lambda r: r.search_registered_models(), InvalidRequestError)


def test_a_long_page_is_not_quoted_whole(ask, proxy) -> None:
    proxy.fail("/get", status=404, body="x" * 10_000)
    assert len(failure(ask, lambda r: r.get_registered_model(GOOD), InvalidRequestError)) < 700


# -- servers that are not there


@pytest.mark.parametrize("mode", ["run", "arun"])
def test_a_dead_server_is_given_up_in_bounded_time(monkeypatch, mode) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv(
        "AIRFLOW_CONN_DEAD", json.dumps({"conn_type": "mlflow", "host": host, "extra": {"max_retry_seconds": 1.5}})
    )
    began = time.monotonic()
    message = failure(asker("dead", mode), lambda r: r.get_registered_model(GOOD), RegistryUnavailableError)
    assert time.monotonic() - began < 10
    assert host in message
    assert "connection 'dead'" in message
    assert "Could not get registered model a.b.c" in message


def test_a_server_that_never_answers_is_given_up_in_bounded_time(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        extra = {"max_retry_seconds": 1, "timeout": 0.4}
        monkeypatch.setenv("AIRFLOW_CONN_DEAD", json.dumps({"conn_type": "mlflow", "host": host, "extra": extra}))
        began = time.monotonic()
        message = failure(asker("dead"), lambda r: r.get_registered_model(GOOD), RegistryUnavailableError)
    assert time.monotonic() - began < 10
    assert "gave no answer" in message


def test_a_connection_of_another_type_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "host": "http://127.0.0.1"}))
    message = failure(asker("other"), lambda r: r.get_registered_model(GOOD), ConnectionConfigError)
    assert "'other' is of type 'http'" in message


# -- a server with users


@dataclass
class Guarded:
    """An MLflow server with basic auth, and one user beside the admin."""

    server: MlflowServer
    admin: httpx.Client
    user: str = "bob"
    password: str = "bobs-long-password-1"
    admin_password: str = "a-long-admin-password"

    def connection_json(self, login: str, password: str) -> str:
        return json.dumps(json.loads(self.server.connection_json(timeout=120)) | {"login": login, "password": password})

    def grant(self, name: str, permission: str) -> None:
        if Version(version("mlflow")) < Version("3.13"):
            path, target = "/api/2.0/mlflow/registered-models/permissions", {"name": name, "username": self.user}
            self.admin.request("DELETE", f"{path}/delete", json=target)
            answer = self.admin.post(f"{path}/create", json={**target, "permission": permission})
        else:
            path = "/api/3.0/mlflow/users/permissions"
            target = {"username": self.user, "resource_type": "registered_model", "resource_id": name}
            self.admin.post(f"{path}/revoke", json=target)
            answer = self.admin.post(f"{path}/grant", json={**target, "permission": permission})
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    settings = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{folder}/auth.db",
        "admin_username": "admin",
        "admin_password": Guarded.admin_password,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "600",  # a password hash per request is slow by design
    }
    lines = "\n".join(f"{key} = {value}" for key, value in settings.items())
    (folder / "auth.ini").write_text(f"[mlflow]\n{lines}\n")
    # The auth app wants Flask-WTF (mlflow[auth]) for its sign-up page alone; the API is exempt from CSRF checks.
    (folder / "flask_wtf").mkdir()
    (folder / "flask_wtf" / "__init__.py").touch()
    (folder / "flask_wtf" / "csrf.py").write_text("class CSRFProtect:\n    def init_app(self, app): pass\n")
    env = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
        "PYTHONPATH": str(folder),
    }
    with MlflowServer(folder, "--app-name", "basic-auth", env=env) as server:
        admin = httpx.Client(
            base_url=server.url, auth=("admin", Guarded.admin_password), timeout=120, trust_env=False, verify=False
        )
        with admin:
            guarded = Guarded(server, admin)
            answer = admin.post(
                "/api/2.0/mlflow/users/create", json={"username": guarded.user, "password": guarded.password}
            )
            assert answer.status_code == 200, answer.text
            yield guarded


def test_a_wrong_password_is_told_as_such(guarded, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GUARDED", guarded.connection_json("admin", "no-such-word"))
    message = failure(asker("guarded"), lambda r: r.search_registered_models(), UnauthenticatedError)
    assert "answered 401" in message
    assert "Check the login, password or token of connection" in message
    assert "no-such-word" not in message
    monkeypatch.setenv("AIRFLOW_CONN_ANONYMOUS", guarded.server.connection_json(timeout=120))
    failure(asker("anonymous"), lambda r: r.search_registered_models(), UnauthenticatedError)


def test_the_right_password_opens(guarded, monkeypatch, model_name) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GUARDED", guarded.connection_json("admin", Guarded.admin_password))
    for mode in ("run", "arun"):
        ask, name = asker("guarded", mode), f"{model_name}_{mode}"
        ask(lambda r, name=name: r.create_registered_model(name))
        failure(ask, lambda r: r.get_registered_model("a.b.nosuch"), NotFoundError)


WEAKER = {"READ": None, "EDIT": "READ", "MANAGE": "EDIT"}
ON_A_MODEL: dict[str, Callable[[Registry, str], Any]] = {
    "get_registered_model": lambda r, m: r.get_registered_model(m),
    "update_registered_model": lambda r, m: r.update_registered_model(m, description="d"),
    "rename_registered_model": lambda r, m: r.rename_registered_model(m, f"{m}_renamed"),
    "set_registered_model_tag": lambda r, m: r.set_registered_model_tag(m, "k", "v"),
    "delete_registered_model_tag": lambda r, m: r.delete_registered_model_tag(m, "k"),
    "create_model_version": lambda r, m: r.create_model_version(m, "s3://bucket/model"),
    "get_model_version": lambda r, m: r.get_model_version(m, 1),
    "get_model_version_by_alias": lambda r, m: r.get_model_version_by_alias(m, "Champion"),
    "get_model_version_download_uri": lambda r, m: r.get_model_version_download_uri(m, 1),
    "update_model_version": lambda r, m: r.update_model_version(m, 1, description="d"),
    "set_model_version_tag": lambda r, m: r.set_model_version_tag(m, 1, "k", "v"),
    "delete_model_version_tag": lambda r, m: r.delete_model_version_tag(m, 1, "k"),
    "set_registered_model_alias": lambda r, m: r.set_registered_model_alias(m, "Champion", 1),
    "delete_registered_model_alias": lambda r, m: r.delete_registered_model_alias(m, "Champion"),
    "delete_model_version": lambda r, m: r.delete_model_version(m, 1),
    "delete_registered_model": lambda r, m: r.delete_registered_model(m),
}
# Not about one existing model, or not on an MLflow server; a search hides what may not be read.
NOT_ON_A_MODEL = {"create_registered_model", "finalize_model_version", "search_model_versions"}


def test_every_verb_with_a_privilege_is_tried() -> None:
    assert set(ON_A_MODEL) | NOT_ON_A_MODEL == set(NEEDS)


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_who_lacks_a_permission_is_told_which(guarded, monkeypatch, model_name, verb) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ADMIN", guarded.connection_json("admin", Guarded.admin_password))
    monkeypatch.setenv("AIRFLOW_CONN_USER", guarded.connection_json(guarded.user, guarded.password))
    admin, user = asker("admin"), asker("user")
    admin(lambda r: r.create_registered_model(model_name))
    admin(lambda r: r.create_model_version(model_name, "s3://bucket/model"))
    admin(lambda r: r.set_registered_model_alias(model_name, "Champion", 1))

    needed = NEEDS[verb][1].split()[0]
    if weaker := WEAKER[needed]:
        guarded.grant(model_name, weaker)
    message = failure(user, lambda r: ON_A_MODEL[verb](r, model_name), PermissionDeniedError)
    assert f"It needs {needed} on {model_name}." in message
    guarded.grant(model_name, needed)
    user(lambda r: ON_A_MODEL[verb](r, model_name))
