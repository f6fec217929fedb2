"""Unity Catalog's rules, each with the code that a breach of it is answered with."""

from __future__ import annotations

import pytest

INVALID = (400, "INVALID_PARAMETER_VALUE")
MISSING = (404, "RESOURCE_DOES_NOT_EXIST")
WRONG_STATE = (400, "INVALID_STATE")
NATIVE = "/api/2.1/unity-catalog/models"


@pytest.fixture
def model(api, name) -> str:
    api.ok("POST", "registered-models/create", name=name)
    return name


def get(api, name: str) -> dict:
    return api.ok("GET", "registered-models/get", name=name)["registered_model"]


# -- names


@pytest.mark.parametrize(
    "name", ["m", "s.m", "a.b.c.d", "a..c", "a.b.", "a.b.c d", "a.b.c/d", "a.b.c\n", "a.b." + "x" * 256, ""]
)
def test_bad_names_are_refused(api, name) -> None:
    assert api.error("POST", "registered-models/create", name=name)[:2] == INVALID


def test_names_are_stored_in_lower_case(api) -> None:
    made = api.ok("POST", "registered-models/create", name="Dev.ML_Team.Fraud")
    assert made["registered_model"]["name"] == "dev.ml_team.fraud"
    assert get(api, "DEV.ml_team.FRAUD")["name"] == "dev.ml_team.fraud"
    again = api.error("POST", "registered-models/create", name="dev.ml_team.FRAUD")
    assert again == (400, "RESOURCE_ALREADY_EXISTS", "Routine or Model 'dev.ml_team.fraud' already exists.")


def test_wrong_level_counts_are_told(api) -> None:
    assert "specify all three levels" in api.error("GET", "registered-models/get", name="fraud")[2]


def test_missing_models_and_versions(api, model) -> None:
    missing = api.error("GET", "registered-models/get", name=f"{model}x")
    assert missing == (*MISSING, f"Routine or Model '{model}x' does not exist.")
    assert api.error("GET", "model-versions/get", name=model, version="1")[:2] == MISSING
    assert api.error("GET", "registered-models/alias", name=model, alias="a")[:2] == MISSING
    assert api.error("GET", "model-versions/search", filter=f"name='{model}x'")[:2] == MISSING
    assert api.error("GET", "registered-models/get")[:2] == INVALID


@pytest.mark.parametrize("version", ["x", "-1", "1.5", "", None])
def test_versions_are_numbers(api, model, version) -> None:
    assert api.error("POST", "model-versions/finalize", name=model, version=version)[:2] == INVALID


# -- aliases


def test_ten_aliases_and_no_more(api, model) -> None:
    api.make_version(model)
    api.make_version(model)
    for number in range(10):
        api.ok("POST", "registered-models/alias", name=model, alias=f"a{number}", version="1")
    assert api.error("POST", "registered-models/alias", name=model, alias="a10", version="1")[:2] == INVALID
    api.ok("POST", "registered-models/alias", name=model, alias="a9", version="2")  # moving one is no eleventh
    assert len(get(api, model)["aliases"]) == 10


@pytest.mark.parametrize("alias", ["a b", "a.b", "a@b", "ä", "x" * 256])
def test_bad_aliases_are_refused(api, model, alias) -> None:
    api.make_version(model)
    assert api.error("POST", "registered-models/alias", name=model, alias=alias, version="1")[:2] == INVALID


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V20"])
def test_reserved_aliases_are_a_switch(other_emulator, connect, alias) -> None:
    for strict in (True, False):
        api = connect(other_emulator(reserved_aliases=strict))
        api.make_version("dev.a.m")
        answer = api.call("POST", "registered-models/alias", name="dev.a.m", alias=alias, version="1")
        assert answer.status_code == (400 if strict else 200)


def test_deleting_a_version_deletes_its_aliases(api, model) -> None:
    api.make_version(model)
    api.make_version(model)
    api.ok("POST", "registered-models/alias", name=model, alias="one", version="1")
    api.ok("POST", "registered-models/alias", name=model, alias="two", version="2")
    api.ok("DELETE", "model-versions/delete", name=model, version="1")
    assert get(api, model)["aliases"] == [{"alias": "two", "version": "2"}]


def test_an_alias_needs_its_version(api, model) -> None:
    assert api.error("POST", "registered-models/alias", name=model, alias="a", version="1")[:2] == MISSING
    assert api.error("DELETE", "registered-models/alias", name=model, alias="a")[:2] == MISSING


# -- tags


@pytest.mark.parametrize("key", [*["a.b", "a,b", "a-b", "a=b", "a/b", "a:b"], " a", "a ", "x" * 256])
def test_bad_tag_keys_are_refused(api, model, key) -> None:
    assert api.error("POST", "registered-models/set-tag", name=model, key=key, value="v")[:2] == INVALID


def test_the_text_names_the_reserved_characters(api, model) -> None:
    text = api.error("POST", "registered-models/set-tag", name=model, key="mlflow.source", value="v")[2]
    assert text == "Tag name mlflow.source contains one or more of the reserved characters: List(., ,, -, =, /, :)"


@pytest.mark.parametrize("value", ["x" * 1001, " v", 3])
def test_bad_tag_values_are_refused(api, model, value) -> None:
    assert api.error("POST", "registered-models/set-tag", name=model, key="k", value=value)[:2] == INVALID


def test_long_keys_and_values_that_fit(api, model) -> None:
    api.ok("POST", "registered-models/set-tag", name=model, key="k" * 255, value="v" * 1000)
    assert get(api, model)["tags"] == [{"key": "k" * 255, "value": "v" * 1000}]


@pytest.mark.parametrize("on_version", [False, True])
def test_fifty_tags_and_no_more(api, model, on_version) -> None:
    api.make_version(model)
    path, where = ("model-versions/set-tag", {"version": "1"}) if on_version else ("registered-models/set-tag", {})
    for number in range(50):
        api.ok("POST", path, name=model, key=f"k{number}", value="v", **where)
    assert api.error("POST", path, name=model, key="k50", value="v", **where)[:2] == INVALID
    api.ok("POST", path, name=model, key="k49", value="other", **where)


def test_fifty_tags_hold_at_creation_too(api, model) -> None:
    tags = [{"key": f"k{number}", "value": "v"} for number in range(51)]
    assert api.error("POST", "model-versions/create", name=model, source="x", tags=tags)[:2] == INVALID
    assert api.error("POST", "registered-models/create", name=f"{model}2", tags=tags)[:2] == INVALID
    assert api.error("GET", "registered-models/get", name=f"{model}2")[:2] == MISSING


def test_tags_are_case_sensitive(api, model) -> None:
    for key in ("Key", "key"):
        api.ok("POST", "registered-models/set-tag", name=model, key=key, value=key)
    assert {tag["key"] for tag in get(api, model)["tags"]} == {"Key", "key"}


@pytest.mark.parametrize("strict", [True, False])
def test_deleting_a_missing_tag_is_a_switch(other_emulator, connect, strict) -> None:
    api = connect(other_emulator(missing_tags_fail=strict))
    api.ok("POST", "registered-models/create", name="dev.a.m")
    answer = api.call("DELETE", "registered-models/delete-tag", name="dev.a.m", key="k")
    assert answer.status_code == (404 if strict else 200)


# -- comments


def test_comments_have_a_limit(api, model) -> None:
    api.ok("PATCH", "registered-models/update", name=model, description="x" * 65_536)
    assert api.error("PATCH", "registered-models/update", name=model, description="x" * 65_537)[:2] == INVALID
    api.ok("PATCH", "registered-models/update", name=model, description="")
    assert "description" not in get(api, model)


# -- versions


def test_versions_are_pending_until_they_are_finalized(api, model) -> None:
    made = api.ok("POST", "model-versions/create", name=model, source="x")["model_version"]
    assert (made["status"], made["version"]) == ("PENDING_REGISTRATION", "1")
    done = api.ok("POST", "model-versions/finalize", name=model, version="1")["model_version"]
    assert done["status"] == "READY"
    assert done["last_updated_timestamp"] > made["last_updated_timestamp"]


@pytest.mark.parametrize("strict", [True, False])
def test_finalizing_twice_is_a_switch(other_emulator, connect, strict) -> None:
    api = connect(other_emulator(refinalize=not strict))
    api.make_version("dev.a.m")
    answer = api.call("POST", "model-versions/finalize", name="dev.a.m", version="1")
    assert answer.status_code == (400 if strict else 200)


def test_version_numbers_are_never_given_again(api, model) -> None:
    assert [api.make_version(model) for _ in range(2)] == [1, 2]
    api.ok("DELETE", "model-versions/delete", name=model, version="2")
    assert api.make_version(model) == 3


@pytest.mark.parametrize("milder", [False, True])
def test_deleting_a_model_with_versions_is_a_switch(other_emulator, connect, milder) -> None:
    api = connect(other_emulator(delete_nonempty_models=milder))
    api.make_version("dev.a.m")
    answer = api.call("DELETE", "registered-models/delete", name="dev.a.m")
    assert answer.status_code == (200 if milder else 400)
    assert api.call("GET", "registered-models/get", name="dev.a.m").status_code == (404 if milder else 200)


def test_files_of_ready_versions_stay_as_they_are(api, model) -> None:
    api.make_version(model)
    refused = api.put(model, 1, "MLmodel", b"new", overwrite="true")
    assert (refused.status_code, refused.json()["error_code"]) == WRONG_STATE
    assert api.put(model, 1, "../2/x", b"").status_code in {400, 404}


def test_deleted_versions_take_their_files_along(emulator, api, model) -> None:
    api.make_version(model)
    kept = emulator.workspace.state.model(model)
    folder = emulator.workspace.files.path(kept.id, 1, "")
    assert folder.is_dir()
    api.ok("DELETE", "model-versions/delete", name=model, version="1")
    assert not folder.exists()


# -- renaming


@pytest.mark.parametrize(
    ("form", "new_name", "works"),
    [
        ("either", "renamed", True),
        ("either", "dev.ml_team.renamed", True),
        ("either", "dev.other.renamed", False),
        ("bare", "dev.ml_team.renamed", False),
        ("full", "renamed", False),
        ("full", "dev.ml_team.Renamed", True),
    ],
)
def test_renaming_stays_within_the_schema(other_emulator, connect, form, new_name, works) -> None:
    api = connect(other_emulator(new_name=form))
    api.make_version("dev.ml_team.m")
    api.ok("POST", "registered-models/alias", name="dev.ml_team.m", alias="a", version="1")
    answer = api.call("PATCH", "registered-models/update", name="dev.ml_team.m", new_name=new_name)
    assert answer.status_code == (200 if works else 400)
    if works:
        renamed = get(api, "dev.ml_team.renamed")
        assert renamed["aliases"] == [{"alias": "a", "version": "1"}]
        assert api.client.get("/api/2.0/fs/files/Models/dev/ml_team/renamed/1/MLmodel").status_code == 200
        assert api.error("GET", "registered-models/get", name="dev.ml_team.m")[:2] == MISSING


def test_a_name_that_is_taken_cannot_be_taken(api, model) -> None:
    api.ok("POST", "registered-models/create", name=f"{model}2")
    code = api.error("PATCH", "registered-models/update", name=model, new_name=f"{model}2")[1]
    assert code == "RESOURCE_ALREADY_EXISTS"


# -- lists


def test_lists_have_neither_aliases_nor_tags_nor_order(api, model) -> None:
    for _ in range(12):
        api.make_version(model, tags=[{"key": "k", "value": "v"}])
    api.ok("POST", "registered-models/alias", name=model, alias="a", version="1")
    api.ok("POST", "registered-models/set-tag", name=model, key="k", value="v")
    versions = api.ok("GET", "model-versions/search", filter=f"name='{model}'")["model_versions"]
    models = api.ok("GET", "registered-models/search")["registered_models"]
    assert not [hit for hit in versions + models if "aliases" in hit or "tags" in hit]
    numbers = [int(hit["version"]) for hit in versions]
    assert sorted(numbers) == list(range(1, 13))
    assert numbers != sorted(numbers)


@pytest.mark.parametrize("empty_pages", [True, False])
def test_pages_can_be_empty_and_yet_not_the_last(other_emulator, connect, empty_pages) -> None:
    api = connect(other_emulator(empty_pages=empty_pages))
    names = {f"dev.a.m{number}" for number in range(7)}
    for each in names:
        api.ok("POST", "registered-models/create", name=each)
    seen: list[str] = []
    lengths, token = [], None
    while True:
        more = {"page_token": token} if token else {}
        answer = api.ok("GET", "registered-models/search", max_results=3, **more)
        found = answer.get("registered_models", [])
        lengths.append(len(found))
        seen += [hit["name"] for hit in found]
        if not (token := answer.get("next_page_token")):
            break
    assert sorted(seen) == sorted(names)
    assert seen != sorted(seen)
    assert lengths == ([3, 0, 3, 0, 1] if empty_pages else [3, 3, 1])


def test_what_a_page_may_be(api, model) -> None:
    assert api.error("GET", "registered-models/search", max_results=-1)[:2] == INVALID
    assert api.error("GET", "registered-models/search", page_token="nonsense")[:2] == INVALID
    assert api.error("GET", NATIVE, catalog_name="dev")[:2] == INVALID
    assert api.ok("GET", NATIVE, catalog_name="dev", schema_name="ml_team")["registered_models"]
    assert api.ok("GET", NATIVE, catalog_name="dev", schema_name="else") == {}


@pytest.mark.parametrize(
    "filter_string", ["", "run_id='1'", "name='a.b.c' and run_id='x'", "tags.a='b'", "name LIKE 'a'"]
)
def test_versions_are_searched_by_name_only(api, model, filter_string) -> None:
    assert api.error("GET", "model-versions/search", filter=filter_string)[:2] == INVALID


# -- answers


def test_versions_are_strings_here_and_numbers_there(api, model) -> None:
    api.make_version(model)
    api.ok("POST", "registered-models/alias", name=model, alias="a", version="1")
    legacy = api.ok("GET", "model-versions/get", name=model, version="1")["model_version"]
    native = api.ok("GET", f"{NATIVE}/{model}/versions/1")
    assert (legacy["version"], native["version"]) == ("1", 1)
    assert legacy["aliases"] == [{"alias": "a", "version": "1"}]
    assert "aliases" not in native
    assert api.ok("GET", f"{NATIVE}/{model}/versions/1", include_aliases="true")["aliases"][0]["version_num"] == 1


def test_unset_fields_are_absent(api, model) -> None:
    assert not {"description", "tags", "aliases", "deployment_job_id"} & set(get(api, model))
    api.ok("PATCH", "registered-models/update", name=model, deployment_job_id="77")
    assert (get(api, model)["deployment_job_id"], get(api, model)["deployment_job_state"]) == ("77", "CONNECTED")
    api.ok("PATCH", "registered-models/update", name=model, deployment_job_id="")
    assert "deployment_job_id" not in get(api, model)


def test_aliases_in_a_native_update_are_ignored(api, model) -> None:
    api.make_version(model)
    api.ok("PATCH", f"{NATIVE}/{model}", aliases=[{"alias_name": "a", "version_num": 1}], comment="c")
    assert "aliases" not in get(api, model)


@pytest.mark.parametrize("touches", [False, True])
def test_whether_aliases_count_as_updates_is_a_switch(other_emulator, connect, touches) -> None:
    api = connect(other_emulator(alias_moves_updated_at=touches))
    api.make_version("dev.a.m")
    before = get(api, "dev.a.m")["last_updated_timestamp"]
    while True:  # the clock ticks in milliseconds
        api.ok("POST", "registered-models/alias", name="dev.a.m", alias="a", version="1")
        if not touches or get(api, "dev.a.m")["last_updated_timestamp"] > before:
            break
    assert (get(api, "dev.a.m")["last_updated_timestamp"] > before) == touches


def test_bodies_must_be_json_objects(api) -> None:
    for content in (b"{", b"[]"):
        path = "/api/2.0/mlflow/unity-catalog/registered-models/create"
        answer = api.client.post(path, content=content)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "MALFORMED_REQUEST")


# -- storage modes


def test_vended_credentials_have_the_shape_of_a_clouds(other_emulator, connect) -> None:
    api = connect(other_emulator(storage="vended"))
    api.make_version("dev.a.m")
    asked = {"name": "dev.a.m", "version": "1", "operation": "MODEL_VERSION_OPERATION_READ"}
    given = api.ok("POST", "model-versions/generate-temporary-credentials", **asked)["credentials"]
    assert set(given["aws_temp_credentials"]) == {"access_key_id", "secret_access_key", "session_token"}
    uri = api.ok("GET", "model-versions/get-download-uri", name="dev.a.m", version="1")["artifact_uri"]
    assert uri.startswith("s3://")
    flag = "registered-models:is-databricks-sdk-models-artifact-repository-enabled"
    assert api.ok("GET", flag) == {"is_databricks_sdk_models_artifact_repository_enabled": False}


def test_presigned_urls_are_signed_and_expire(other_emulator, connect) -> None:
    emulator = other_emulator(storage="presigned")
    api = connect(emulator)
    api.make_version("dev.a.m")
    path = "/Models/dev/a/m/1/MLmodel"
    url = api.ok("POST", "/api/2.0/fs/create-download-url", path=path)["url"]
    assert api.client.get(url, headers={"Authorization": ""}).content == b"flavors: {}"
    ranged = api.client.get(url, headers={"Range": "bytes=2-5"})
    assert (ranged.status_code, ranged.content, ranged.headers["content-range"]) == (206, b"avor", "bytes 2-5/11")
    assert "SignatureDoesNotMatch" in api.client.get(url.replace("MLmodel", "other")).text
    assert api.client.put(url, content=b"").status_code == 403
    short = connect(other_emulator(url_seconds=-1))
    short.make_version("dev.a.m")
    expired = short.client.get(short.ok("POST", "/api/2.0/fs/create-download-url", path=path)["url"])
    assert (expired.status_code, "Request has expired" in expired.text) == (403, True)


def test_uploads_must_send_the_headers_they_are_given(other_emulator, connect) -> None:
    api = connect(other_emulator(storage="presigned"))
    api.ok("POST", "registered-models/create", name="dev.a.m")
    api.ok("POST", "model-versions/create", name="dev.a.m", source="x")
    given = api.ok("POST", "/api/2.0/fs/create-upload-url", path="/Models/dev/a/m/1/f")
    assert api.client.put(given["url"], content=b"1").status_code == 400
    headers = {header["name"]: header["value"] for header in given["headers"]}
    assert api.client.put(given["url"], content=b"1", headers=headers).status_code == 200
    assert api.client.get("/api/2.0/fs/files/Models/dev/a/m/1/f").content == b"1"


def test_multipart_uploads_ask_for_their_etags_and_can_be_dropped(api, name) -> None:
    api.ok("POST", "registered-models/create", name=name)
    api.ok("POST", "model-versions/create", name=name, source="x")
    path = f"/Models/{name.replace('.', '/')}/1/big"
    files = f"/api/2.0/fs/files{path}?action="
    token = api.ok("POST", f"{files}initiate-upload")["multipart_upload"]["session_token"]
    asked = {"path": path, "session_token": token, "start_part_number": 1, "count": 2}
    urls = api.ok("POST", "/api/2.0/fs/create-upload-part-urls", **asked)["upload_part_urls"]
    etags = [api.client.put(each["url"], content=b"x" * 10).headers["etag"] for each in urls]
    complete = f"{files}complete-upload&upload_type=multipart&session_token={token}"
    parts = [{"part_number": 1, "etag": etags[0]}, {"part_number": 2, "etag": etags[0]}]
    assert api.error("POST", complete, parts=parts)[:2] == INVALID
    assert api.error("POST", complete, parts=[])[:2] == INVALID
    gone = api.ok("POST", "/api/2.0/fs/create-abort-upload-url", path=path, session_token=token)["abort_upload_url"]
    assert api.client.delete(gone["url"]).status_code == 200
    parts[1]["etag"] = etags[1]
    assert api.error("POST", complete, parts=parts)[:2] == INVALID
    assert api.client.get(f"/api/2.0/fs/files{path}").status_code == 404


def test_download_urls_can_be_switched_off(other_emulator, connect) -> None:
    api = connect(other_emulator(download_urls=False))
    api.make_version("dev.a.m")
    code = api.error("POST", "/api/2.0/fs/create-download-url", path="/Models/dev/a/m/1/MLmodel")[1]
    assert code == "ENDPOINT_NOT_FOUND"
