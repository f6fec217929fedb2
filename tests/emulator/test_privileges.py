"""Each operation asks for exactly the privileges that Unity Catalog documents: without one 403, with all 200."""

from __future__ import annotations

from collections.abc import Callable

import pytest

MODEL = "dev.ml_team.fraud"
FILE = "/api/2.0/fs/files/Models/dev/ml_team/fraud/{}/MLmodel"
USE = {"USE_CATALOG": "dev", "USE_SCHEMA": "dev.ml_team"}


def call(method: str, path: str, **arguments: object) -> Callable:
    return lambda api: api.call(method, path, **({"name": MODEL} | arguments))


def upload(api):
    return api.put(MODEL, 2, "MLmodel", b"new", overwrite="true")


def download(api):
    return api.client.get(FILE.format(1))


def credentials(operation: str) -> Callable:
    path = "model-versions/generate-temporary-credentials"
    return call("POST", path, version="1" if operation.endswith("READ") else "2", operation=operation)


# operation: the call, and what it needs on the model besides USE CATALOG and USE SCHEMA
CALLS: dict[str, tuple[Callable, str]] = {
    "get model": (call("GET", "registered-models/get"), "EXECUTE"),
    "get version": (call("GET", "model-versions/get", version="1"), "EXECUTE"),
    "get by alias": (call("GET", "registered-models/alias", alias="champ"), "EXECUTE"),
    "search versions": (call("GET", "model-versions/search", filter=f"name='{MODEL}'"), "EXECUTE"),
    "download uri": (call("GET", "model-versions/get-download-uri", version="1"), "EXECUTE"),
    "download": (download, "EXECUTE"),
    "read credentials": (credentials("MODEL_VERSION_OPERATION_READ"), "EXECUTE"),
    "create version": (call("POST", "model-versions/create", source="x"), "CREATE_MODEL_VERSION"),
    "upload": (upload, "CREATE_MODEL_VERSION"),
    "write credentials": (credentials("MODEL_VERSION_OPERATION_READ_WRITE"), "CREATE_MODEL_VERSION"),
    "finalize": (call("POST", "model-versions/finalize", version="2"), "CREATE_MODEL_VERSION"),
    "set alias": (call("POST", "registered-models/alias", alias="new", version="1"), "MANAGE"),
    "delete alias": (call("DELETE", "registered-models/alias", alias="champ"), "MANAGE"),
    "set model tag": (call("POST", "registered-models/set-tag", key="k", value="v"), "APPLY_TAG"),
    "delete model tag": (call("DELETE", "registered-models/delete-tag", key="old"), "APPLY_TAG"),
    "set version tag": (call("POST", "model-versions/set-tag", version="1", key="k", value="v"), "APPLY_TAG"),
    "delete version tag": (call("DELETE", "model-versions/delete-tag", version="1", key="old"), "APPLY_TAG"),
    "describe model": (call("PATCH", "registered-models/update", description="new"), "MANAGE"),
    "describe version": (call("PATCH", "model-versions/update", version="1", description="new"), "MANAGE"),
    "delete version": (call("DELETE", "model-versions/delete", version="1"), "MANAGE"),
}
ALL = {"EXECUTE", "CREATE_MODEL_VERSION", "MANAGE", "APPLY_TAG"}


@pytest.fixture
def fraud(api):
    """A READY version 1 with alias and tags, and a pending version 2."""
    api.make_version(MODEL, tags=[{"key": "old", "value": "v"}])
    api.ok("POST", "registered-models/alias", name=MODEL, alias="champ", version="1")
    api.ok("POST", "registered-models/set-tag", name=MODEL, key="old", value="v")
    api.ok("POST", "model-versions/create", name=MODEL, source="x")


@pytest.mark.parametrize("operation", CALLS)
def test_exactly_these_privileges(emulator, connect, fraud, operation) -> None:
    request, privilege = CALLS[operation]
    user = emulator.add_principal("user")
    api = connect(emulator, user)
    # all that this operation does not need, and still no
    for other in ALL - {privilege, "MANAGE"}:
        emulator.grant(user, other, MODEL)
    grants = USE | {privilege: MODEL}
    for grant, securable in grants.items():
        emulator.grant(user, grant, securable)
    for missing, securable in grants.items():
        emulator.revoke(user, missing, securable)
        answer = request(api)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED"), missing
        assert missing.replace("_", " ") in answer.json()["message"]
        assert f"'{securable}'" in answer.json()["message"]
        emulator.grant(user, missing, securable)
    assert request(api).status_code in {200, 204}


@pytest.mark.parametrize("operation", CALLS)
def test_owners_may_do_all_with_use_privileges(emulator, connect, fraud, operation) -> None:
    owner = emulator.add_principal("owner")
    api = connect(emulator, owner)
    emulator.workspace.state.model(MODEL).owner = "owner"
    assert CALLS[operation][0](api).status_code == 403
    for grant, securable in USE.items():
        emulator.grant(owner, grant, securable)
    assert CALLS[operation][0](api).status_code in {200, 204}


@pytest.mark.parametrize("securable", ["dev", "dev.ml_team"])
@pytest.mark.parametrize("operation", ["get model", "create version", "set model tag", "set alias"])
def test_privileges_are_inherited(emulator, connect, fraud, operation, securable) -> None:
    request, privilege = CALLS[operation]
    user = emulator.add_principal("user")
    api = connect(emulator, user)
    for grant in ("USE_CATALOG", "USE_SCHEMA"):
        emulator.grant(user, grant, "dev")
    assert request(api).status_code == 403
    emulator.grant(user, privilege, securable)
    assert request(api).status_code == 200


def test_all_privileges_are_all_but_manage(emulator, connect, fraud) -> None:
    user = emulator.add_principal("user")
    api = connect(emulator, user)
    emulator.grant(user, "ALL PRIVILEGES", "dev")
    assert CALLS["get model"][0](api).status_code == 200
    assert CALLS["create version"][0](api).status_code == 200
    assert CALLS["set alias"][0](api).status_code == 403


def test_manage_does_not_read(emulator, connect, fraud) -> None:
    user = emulator.add_principal("user")
    for grant in ("USE_CATALOG", "USE_SCHEMA", "MANAGE"):
        emulator.grant(user, grant, "dev")
    api = connect(emulator, user)
    assert CALLS["describe model"][0](api).status_code == 200
    assert CALLS["get model"][0](api).status_code == 403


@pytest.mark.parametrize("privilege", ["CREATE_MODEL", "CREATE FUNCTION"])
def test_creating_a_model(emulator, connect, api, privilege) -> None:
    emulator.add_schema("dev.ml_team")
    user = emulator.add_principal("user")
    mine = connect(emulator, user)
    grants = USE | {privilege: "dev.ml_team"}
    for grant, securable in grants.items():
        status, code, message = mine.error("POST", "registered-models/create", name=MODEL)
        assert (status, code) == (403, "PERMISSION_DENIED")
        assert f"'{securable}'" in message
        emulator.grant(user, grant, securable)
    mine.ok("POST", "registered-models/create", name=MODEL, tags=[{"key": "k", "value": "v"}])
    assert emulator.workspace.state.model(MODEL).owner == "user"
    assert mine.make_version(MODEL) == 1


def test_renaming_needs_ownership_and_create_model(emulator, connect, fraud) -> None:
    user = emulator.add_principal("user")
    api = connect(emulator, user)
    for grant, securable in USE.items():
        emulator.grant(user, grant, securable)
    rename = {"name": MODEL, "new_name": f"{MODEL}2"}
    emulator.grant(user, "CREATE_MODEL", "dev.ml_team")
    assert "MANAGE" in api.error("PATCH", "registered-models/update", **rename)[2]
    emulator.grant(user, "MANAGE", MODEL)
    emulator.grant(user, "EXECUTE", MODEL)
    emulator.revoke(user, "CREATE_MODEL", "dev.ml_team")
    assert "CREATE MODEL on Schema 'dev.ml_team'" in api.error("PATCH", "registered-models/update", **rename)[2]
    emulator.grant(user, "CREATE_MODEL", "dev.ml_team")
    api.ok("PATCH", "registered-models/update", **rename)
    assert api.ok("GET", "registered-models/get", name=f"{MODEL}2")  # the grants went along


def test_deleting_a_model(emulator, connect, api) -> None:
    api.ok("POST", "registered-models/create", name=MODEL)
    user = emulator.add_principal("user")
    mine = connect(emulator, user)
    for grant, securable in USE.items():
        emulator.grant(user, grant, securable)
    assert mine.error("DELETE", "registered-models/delete", name=MODEL)[1] == "PERMISSION_DENIED"
    emulator.grant(user, "MANAGE", MODEL)
    mine.ok("DELETE", "registered-models/delete", name=MODEL)


@pytest.mark.parametrize("strict", [True, False])
def test_tags_on_create_need_apply_tag(other_emulator, connect, strict) -> None:
    emulator = other_emulator(tags_on_create_need_apply_tag=strict)
    connect(emulator).ok("POST", "registered-models/create", name=MODEL)
    user = emulator.add_principal("user")
    for grant, securable in (USE | {"CREATE_MODEL_VERSION": MODEL}).items():
        emulator.grant(user, grant, securable)
    tagged = {"name": MODEL, "source": "x", "tags": [{"key": "k", "value": "v"}]}
    answer = connect(emulator, user).call("POST", "model-versions/create", **tagged)
    assert answer.status_code == (403 if strict else 200)
    assert not strict or "APPLY TAG" in answer.json()["message"]


def test_lists_show_what_may_be_seen(emulator, connect, api) -> None:
    for name in ("dev.ml_team.a", "dev.ml_team.b", "dev.other.c"):
        api.ok("POST", "registered-models/create", name=name)
    user = emulator.add_principal("user")
    mine = connect(emulator, user)

    def seen() -> set[str]:
        found = mine.ok("GET", "registered-models/search").get("registered_models", [])
        return {model["name"] for model in found}

    emulator.grant(user, "USE_CATALOG", "dev")
    emulator.grant(user, "EXECUTE", "dev.ml_team.a")
    assert seen() == set()
    emulator.grant(user, "USE_SCHEMA", "dev.ml_team")
    assert seen() == {"dev.ml_team.a"}
    emulator.grant("account users", "EXECUTE", "dev.ml_team")
    assert seen() == {"dev.ml_team.a", "dev.ml_team.b"}


def test_only_admins_conjure_schemas(emulator, connect, other_emulator) -> None:
    user = emulator.add_principal("user")
    for grant in ("USE_CATALOG", "USE_SCHEMA", "CREATE_MODEL"):
        emulator.grant(user, grant, "dev")
    status, code, _ = connect(emulator, user).error("POST", "registered-models/create", name=MODEL)
    assert (status, code) == (404, "SCHEMA_DOES_NOT_EXIST")
    strict = other_emulator(auto_create_schemas=False)
    assert connect(strict).error("POST", "registered-models/create", name=MODEL)[1] == "CATALOG_DOES_NOT_EXIST"
    strict.add_schema("dev.ml_team")
    connect(strict).ok("POST", "registered-models/create", name=MODEL)
