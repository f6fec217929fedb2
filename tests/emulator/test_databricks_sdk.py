"""The unmodified databricks-sdk finds what it knows of models, versions, grants and files."""

from __future__ import annotations

import io
import os

import pytest
from support.databricks import in_parts

NAME = "dev.ml_team.fraud"
FOLDER = "/Models/dev/ml_team/fraud"


@pytest.fixture
def client(emulator):
    return sdk_client(emulator)


def sdk_client(emulator, principal=None):
    from databricks.sdk import WorkspaceClient

    token = principal.token if principal else emulator.token
    return WorkspaceClient(host=emulator.url, token=token, auth_type="pat")


@pytest.fixture
def fraud(client):
    client.catalogs.create("dev")
    client.schemas.create("ml_team", "dev")
    return client.registered_models.create(catalog_name="dev", schema_name="ml_team", name="Fraud", comment="finds")


def make_version(client) -> int:
    """databricks-sdk cannot make versions itself."""
    body = {"catalog_name": "dev", "schema_name": "ml_team", "model_name": "fraud", "source": "x"}
    made = client.api_client.do("POST", "/api/2.1/unity-catalog/models/versions", body=body)["version"]
    client.files.upload(f"{FOLDER}/{made}/MLmodel", io.BytesIO(b"flavors: {}"))
    client.api_client.do("PATCH", f"/api/2.1/unity-catalog/models/{NAME}/versions/{made}/finalize")
    return made


def test_the_whole_life_of_a_model(emulator, client, fraud) -> None:
    from databricks.sdk.errors import NotFound
    from databricks.sdk.service.catalog import ModelVersionInfoStatus

    assert (fraud.full_name, fraud.name, fraud.comment, fraud.owner) == (NAME, "fraud", "finds", "admin@example.com")
    assert client.schemas.get("dev.ml_team").catalog_name == "dev"
    assert client.catalogs.get("dev").name == "dev"
    assert fraud.metastore_id == client.metastores.summary().metastore_id

    assert [make_version(client), make_version(client)] == [1, 2]
    alias = client.registered_models.set_alias(NAME, "Champion", 2)
    assert (alias.alias_name, alias.version_num) == ("Champion", 2)
    assert not client.registered_models.get(NAME).aliases
    [kept] = client.registered_models.get(NAME, include_aliases=True).aliases
    assert (kept.alias_name, kept.version_num) == ("Champion", 2)
    version = client.model_versions.get_by_alias(NAME, "Champion", include_aliases=True)
    assert (version.version, version.status) == (2, ModelVersionInfoStatus.READY)
    assert version.aliases[0].alias_name == "Champion"

    assert client.registered_models.update(NAME, comment="better").comment == "better"
    assert client.model_versions.update(NAME, 1, comment="first").comment == "first"
    assert {each.version for each in client.model_versions.list(NAME)} == {1, 2}
    assert [m.full_name for m in client.registered_models.list(catalog_name="dev", schema_name="ml_team")] == [NAME]
    assert [m.full_name for m in client.registered_models.list()] == [NAME]

    client.registered_models.delete_alias(NAME, "Champion")
    with pytest.raises(NotFound, match="Alias 'Champion'"):
        client.model_versions.get_by_alias(NAME, "Champion")
    assert client.registered_models.update(NAME, new_name="fraud2").full_name == "dev.ml_team.fraud2"
    for number in (1, 2):
        client.model_versions.delete("dev.ml_team.fraud2", number)
    client.registered_models.delete("dev.ml_team.fraud2")
    with pytest.raises(NotFound, match="does not exist"):
        client.registered_models.get("dev.ml_team.fraud2")


def test_grants(emulator, client, fraud) -> None:
    from databricks.sdk.errors import InvalidParameterValue, PermissionDenied
    from databricks.sdk.service.catalog import PermissionsChange, Privilege

    user = emulator.add_principal("user@example.com")
    theirs = sdk_client(emulator, user)
    with pytest.raises(PermissionDenied, match="USE CATALOG on Catalog 'dev'"):
        theirs.registered_models.get(NAME)

    def give(kind: str, name: str, privilege: Privilege) -> None:
        client.grants.update(kind, name, changes=[PermissionsChange(principal=user.name, add=[privilege])])

    give("catalog", "dev", Privilege.USE_CATALOG)
    give("schema", "dev.ml_team", Privilege.USE_SCHEMA)
    give("function", NAME, Privilege.EXECUTE)
    assert theirs.registered_models.get(NAME).name == "fraud"
    with pytest.raises(PermissionDenied, match="MANAGE"):
        theirs.grants.get("function", NAME)
    [assignment] = client.grants.get("function", NAME, principal=user.name).privilege_assignments
    assert assignment.privileges == [Privilege.EXECUTE]
    [effective] = client.grants.get_effective("FUNCTION", NAME).privilege_assignments
    origins = {p.privilege: p.inherited_from_name for p in effective.privileges}
    assert origins == {
        Privilege.USE_CATALOG: "dev",
        Privilege.USE_SCHEMA: "dev.ml_team",
        Privilege.EXECUTE: None,
    }
    both = [Privilege.EXECUTE]
    with pytest.raises(InvalidParameterValue, match="both added and removed"):
        client.grants.update("function", NAME, changes=[PermissionsChange(principal=user.name, add=both, remove=both)])
    client.grants.update("function", NAME, changes=[PermissionsChange(principal=user.name, remove=both)])
    with pytest.raises(PermissionDenied, match="EXECUTE on Routine or Model"):
        theirs.registered_models.get(NAME)
    with pytest.raises(InvalidParameterValue, match="max_results"):
        client.grants.get("function", NAME, max_results=10)


def test_owners_can_be_changed_to_principals_there_are(emulator, client, fraud) -> None:
    from databricks.sdk.errors import InvalidParameterValue

    with pytest.raises(InvalidParameterValue, match="Could not find principal"):
        client.registered_models.update(NAME, owner="nobody")
    emulator.add_principal("new owner")
    assert client.registered_models.update(NAME, owner="new owner").owner == "new owner"


def test_create_model_version_can_be_granted_by_raw_call(emulator, client, fraud) -> None:
    """The SDK's enumeration of privileges lacks it."""
    user = emulator.add_principal("ci")
    path = f"/api/2.1/unity-catalog/permissions/function/{NAME}"
    body = {"changes": [{"principal": user.name, "add": ["CREATE MODEL VERSION"]}]}
    answer = client.api_client.do("PATCH", path, body=body)
    assert answer == {"privilege_assignments": [{"principal": "ci", "privileges": ["CREATE_MODEL_VERSION"]}]}


def test_files(emulator, client, fraud) -> None:
    from databricks.sdk.errors import AlreadyExists, BadRequest, NotFound

    client.api_client.do(
        "POST",
        "/api/2.1/unity-catalog/models/versions",
        body={"catalog_name": "dev", "schema_name": "ml_team", "model_name": "fraud", "source": "x"},
    )
    content = os.urandom(3_000_000)
    client.files.upload(f"{FOLDER}/1/a/b/odd name %.bin", io.BytesIO(content))
    with pytest.raises(AlreadyExists):
        client.files.upload(f"{FOLDER}/1/a/b/odd name %.bin", io.BytesIO(b""))
    client.files.upload(f"{FOLDER}/1/a/b/odd name %.bin", io.BytesIO(content), overwrite=True)
    client.files.create_directory(f"{FOLDER}/1/empty")
    assert client.files.get_metadata(f"{FOLDER}/1/a/b/odd name %.bin").content_length == len(content)
    with client.files.download(f"{FOLDER}/1/a/b/odd name %.bin").contents as stream:
        assert stream.read() == content
    listed = list(client.files.list_directory_contents(f"{FOLDER}/1"))
    assert [(entry.name, entry.is_directory) for entry in listed] == [("a", True), ("empty", True)]
    client.files.get_directory_metadata(f"{FOLDER}/1/a")
    with pytest.raises(NotFound):
        client.files.get_directory_metadata(f"{FOLDER}/1/nothing")
    with pytest.raises(NotFound):
        client.files.get_metadata(f"{FOLDER}/1/nothing")
    with pytest.raises(NotFound):
        client.files.get_directory_metadata(f"{FOLDER}/2")
    client.files.delete(f"{FOLDER}/1/a/b/odd name %.bin")
    with pytest.raises(BadRequest, match="not a path of a model version"):
        client.files.upload("/Volumes/a/b/c", io.BytesIO(b""))


def test_directories_come_in_pages(other_emulator) -> None:
    emulator = other_emulator(page_limit=3)
    client = sdk_client(emulator)
    client.registered_models.create(catalog_name="dev", schema_name="ml_team", name="fraud")
    body = {"catalog_name": "dev", "schema_name": "ml_team", "model_name": "fraud", "source": "x"}
    client.api_client.do("POST", "/api/2.1/unity-catalog/models/versions", body=body)
    for number in range(7):
        client.files.upload(f"{FOLDER}/1/f{number}", io.BytesIO(b"x"))
    listed = list(client.files.list_directory_contents(f"{FOLDER}/1"))
    assert [entry.name for entry in listed] == [f"f{number}" for number in range(7)]
    assert len(emulator.requests.find("fs/directories", "GET")) == 3


@in_parts
@pytest.mark.parametrize("parallel", [True, False])
def test_large_files_go_up_in_parts(emulator, client, fraud, tmp_path, parallel) -> None:
    body = {"catalog_name": "dev", "schema_name": "ml_team", "model_name": "fraud", "source": "x"}
    client.api_client.do("POST", "/api/2.1/unity-catalog/models/versions", body=body)
    client.files._config.files_ext_multipart_upload_min_stream_size = 1 << 20
    content = os.urandom(5 * (1 << 20) + 17)
    (tmp_path / "big").write_bytes(content)
    with (tmp_path / "big").open("rb") as stream:
        client.files.upload(f"{FOLDER}/1/big", stream, overwrite=True, part_size=1 << 20, use_parallel=parallel)
    assert len(emulator.requests.find("/storage/Models", "PUT")) == 6
    with client.files.download(f"{FOLDER}/1/big").contents as stream:
        assert stream.read() == content


@in_parts
def test_multipart_can_be_switched_off(other_emulator) -> None:
    from databricks.sdk.errors import NotFound

    emulator = other_emulator(multipart="off")
    client = sdk_client(emulator)
    client.registered_models.create(catalog_name="dev", schema_name="ml_team", name="fraud")
    body = {"catalog_name": "dev", "schema_name": "ml_team", "model_name": "fraud", "source": "x"}
    client.api_client.do("POST", "/api/2.1/unity-catalog/models/versions", body=body)
    client.files._config.files_ext_multipart_upload_min_stream_size = 1 << 20
    with pytest.raises(NotFound):
        client.files.upload(f"{FOLDER}/1/big", io.BytesIO(b"x" * (2 << 20)), overwrite=True, use_parallel=False)
