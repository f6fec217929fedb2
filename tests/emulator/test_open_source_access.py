"""The open-source flavour with authorization on: tokens, grants, and what it answers to those without."""

from __future__ import annotations

import httpx
import pytest
from support.open_source import flavour

from airflow_uc_models.registry.unity_catalog_rest import PREFIX

USER = "ml@example.com"
READ = {"catalog": "USE CATALOG", "schema": "USE SCHEMA", "registered_model": "EXECUTE"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with flavour(tmp_path_factory.mktemp("uc"), authorization=True) as running:
        yield running


@pytest.fixture
def name(server):
    return server.make(server.new_name(), ("one",))


@pytest.fixture
def user(server):
    token = server.app.state.access.add_user(USER)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.url + PREFIX, headers=headers, trust_env=False) as client:
        yield client
    server.app.state.access.grants.clear()


def grant(server, kind: str, name: str, privilege: str, verb: str = "add") -> None:
    server.call("PATCH", f"/permissions/{kind}/{name}", {"changes": [{"principal": USER, verb: [privilege]}]})


def told(answer: httpx.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["error_code"], answer.json()["message"]


@pytest.mark.parametrize(
    ("header", "status", "code", "text"),
    [
        (None, 401, "UNAUTHENTICATED", "No authorization found."),
        ("Basic abc", 401, "UNAUTHENTICATED", "No authorization found."),
        ("bearer abc", 401, "UNAUTHENTICATED", "No authorization found."),
        ("Bearer abc", 401, "UNAUTHENTICATED", "Invalid access token."),
        ("Bearer of-the-gone", 403, "PERMISSION_DENIED", "User not allowed: gone@example.com"),
    ],
)
@pytest.mark.parametrize("path", ["/models", "/models/a.b.c/aliases/x"])
def test_tokens(server, header, status, code, text, path):
    access = server.app.state.access
    access.add_user("gone@example.com", "of-the-gone")
    access.users.remove("gone@example.com")
    answer = httpx.get(f"{server.url}{PREFIX}{path}", headers={"Authorization": header} if header else {})
    assert told(answer) == (status, code, text)


def test_a_cookie_is_a_token_and_health_needs_none(server):
    cookies = {"UC_TOKEN": server.token}
    assert httpx.get(f"{server.url}{PREFIX}/models", cookies=cookies).status_code == 200
    assert httpx.get(server.url).text == "Hello, Unity Catalog!"


def test_unknown_paths_are_a_500(server, name):
    answer = server.client.get(f"/models/{name}/aliases/x")
    assert told(answer) == (500, "INTERNAL", "Couldn't unwrap service.")


@pytest.mark.parametrize("missing", [None, *READ])
@pytest.mark.parametrize("path", ["", "/versions", "/versions/1"])
def test_reading_needs_all_three(server, user, name, missing, path):
    securables = {"catalog": server.catalog, "schema": server.schema, "registered_model": name}
    for kind, privilege in READ.items():
        if kind != missing:
            grant(server, kind, securables[kind], privilege)
    answer = user.get(f"/models/{name}{path}")
    if missing is None:
        assert answer.status_code == 200
    else:
        assert told(answer) == (403, "PERMISSION_DENIED", "Access denied.")


@pytest.mark.parametrize("missing", [None, "USE CATALOG", "USE SCHEMA", "CREATE MODEL"])
def test_creating_needs_all_three_and_makes_an_owner(server, user, missing):
    held = {"USE CATALOG": "catalog", "USE SCHEMA": "schema", "CREATE MODEL": "schema"}
    for privilege, kind in held.items():
        if privilege != missing:
            grant(server, kind, server.catalog if kind == "catalog" else server.schema, privilege)
    catalog, schema, model = server.new_name().split(".")
    answer = user.post("/models", json={"name": model, "catalog_name": catalog, "schema_name": schema})
    if missing is not None:
        assert told(answer) == (403, "PERMISSION_DENIED", "Access denied.")
        return
    full_name = answer.json()["full_name"]
    assert (answer.json()["owner"], answer.json()["created_by"]) == (USER, USER)
    body = {"model_name": model, "catalog_name": catalog, "schema_name": schema, "source": "s"}
    assert user.post("/models/versions", json=body).json()["created_by"] == USER
    assert user.patch(f"/models/{full_name}", json={"comment": "mine"}).status_code == 200
    # the administrator is no owner
    assert told(server.client.patch(f"/models/{full_name}", json={"comment": "x"}))[0] == 403
    assert server.client.delete(f"/models/{full_name}?force=true").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "", {"comment": "x"}),
        ("PATCH", "", {"new_name": "x"}),
        ("DELETE", "?force=true", None),
        ("PATCH", "/versions/1", {"comment": "x"}),
        ("DELETE", "/versions/1", None),
        ("PATCH", "/versions/1/finalize", {"full_name": "{name}", "version": 1}),
    ],
)
def test_writing_needs_ownership(server, user, name, method, path, body):
    for kind, privilege in READ.items():
        grant(server, kind, {"catalog": server.catalog, "schema": server.schema}.get(kind, name), privilege)
    body = body and {k: v.format(name=name) if isinstance(v, str) else v for k, v in body.items()}
    assert told(user.request(method, f"/models/{name}{path}", json=body)) == (
        *(403, "PERMISSION_DENIED"),
        "Access denied.",
    )


def test_a_missing_model_is_missing_to_everybody(server, user):
    assert told(user.get(f"/models/{server.new_name()}"))[0] == 404


def test_lists_are_filtered_after_paging(server, user, name):
    other = server.make(server.new_name())
    for kind, privilege in READ.items():
        grant(server, kind, {"catalog": server.catalog, "schema": server.schema}.get(kind, name), privilege)
    assert not user.get(f"/models/{other}").is_success
    seen, token, empty = [], "", 0
    while token is not None:
        query = {"catalog_name": server.catalog, "schema_name": "ml", "max_results": "1"}
        page = user.get("/models", params=query | ({"page_token": token} if token else {})).json()
        seen += [m["full_name"] for m in page["registered_models"]]
        empty += not page["registered_models"] and page["next_page_token"] is not None
        token = page["next_page_token"]
    assert seen == [name]
    assert empty > 0


def test_finalize_is_allowed_by_the_path_and_acts_on_the_body(server, user, name):
    server.add(name, ready=False)
    for kind, privilege in READ.items():
        grant(server, kind, {"catalog": server.catalog, "schema": server.schema}.get(kind, name), privilege)
    grant(server, "schema", server.schema, "CREATE MODEL")
    catalog, schema, own = server.new_name().split(".")
    user.post("/models", json={"name": own, "catalog_name": catalog, "schema_name": schema})
    answer = user.patch(f"/models/{server.schema}.{own}/versions/1/finalize", json={"full_name": name, "version": 2})
    assert (answer.status_code, answer.json()["status"]) == (200, "READY")


def test_a_user_is_made_and_granted(server):
    made = httpx.post(
        f"{server.url}/api/1.0/unity-control/scim2/Users",
        json={"displayName": "New", "emails": [{"value": "new@example.com", "primary": True}]},
        headers={"Authorization": f"Bearer {server.token}"},
    )
    assert made.status_code == 201
    change = {"changes": [{"principal": "new@example.com", "add": ["USE CATALOG"], "remove": []}]}
    path = f"/permissions/catalog/{server.catalog}"
    granted = {"privilege_assignments": [{"principal": "new@example.com", "privileges": ["USE CATALOG"]}]}
    assert server.call("PATCH", path, change) == granted
    assert server.call("GET", path) == granted
