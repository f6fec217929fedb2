"""The open-source flavour as clients see it: statuses, error codes and texts, paging, names, files.

Where UNITY_CATALOG_URI names the real server the same is asked of that.
"""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from support.open_source import flavour

from airflow_uc_models.registry.unity_catalog_rest import PREFIX

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def api(open_source):
    return open_source.client


@pytest.fixture
def name(open_source):
    return open_source.make(open_source.new_name(), ("one",))


def told(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert body["details"] == [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": body["error_code"]},
    ]
    return answer.status_code, body["error_code"], body["message"]


def place(name: str) -> dict[str, str]:
    catalog, schema, model = name.split(".")
    return {"name": model, "catalog_name": catalog, "schema_name": schema}


def test_health_and_what_is_not_there(open_source, api):
    assert httpx.get(open_source.url).text == "Hello, Unity Catalog!"
    missing = httpx.get(f"{open_source.url}/health")
    assert (missing.status_code, missing.text) == (404, "Status: 404\nDescription: Not Found\n")
    assert missing.headers["content-type"].startswith("text/plain")
    wrong = api.post("/models/a.b.c/versions/1/finalize", json={})
    assert (wrong.status_code, wrong.text) == (405, "Status: 405\nDescription: Method Not Allowed\n")


@pytest.mark.parametrize("path", ["aliases/x", "tags", "versions/1/tags"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_aliases_and_tags_are_unknown_paths(open_source, api, name, path, method):
    if open_source.token:
        pytest.skip("with authorization on it is a 500")
    answer = api.request(method, f"/models/{name}/{path}")
    assert (answer.status_code, answer.text) == (404, "Status: 404\nDescription: Not Found\n")


def test_a_model_and_a_version_as_they_are_answered(open_source, api, name):
    model = api.get(f"/models/{name}").json()
    catalog, schema, short = name.split(".")
    assert (model["name"], model["catalog_name"], model["schema_name"]) == (short, catalog, schema)
    assert set(model) == {
        *("name", "catalog_name", "schema_name", "full_name", "storage_location", "comment", "owner"),
        *("created_at", "created_by", "updated_at", "updated_by", "id"),
    }
    version = api.get(f"/models/{name}/versions/1").json()
    assert set(version) == {
        *("model_name", "catalog_name", "schema_name", "version", "source", "run_id", "status", "storage_location"),
        *("comment", "created_at", "created_by", "updated_at", "updated_by", "id"),
    }
    assert (version["version"], version["status"], version["run_id"]) == (1, "READY", None)
    assert version["storage_location"] == f"{model['storage_location']}/versions/{version['id']}"
    assert model["storage_location"].endswith(f"/__unitystorage/models/{model['id']}")
    assert Path(version["storage_location"].removeprefix("file://")).is_dir()


LONG = "d" * 65_536
VERSION = {"model_name": "{m}", "catalog_name": "{c}", "schema_name": "ml", "source": "s"}
CASES = [
    ("GET", "/models/{c}.ml.no", None, 404, "NOT_FOUND", "Registered model not found: {c}.ml.no"),
    ("GET", "/models/{c}.ml.no/versions", None, 404, "NOT_FOUND", "Registered model not found: no"),
    ("GET", "/models/{name}/versions/99", None, 404, "NOT_FOUND", "Model version not found: {name}/99"),
    ("GET", "/models/{name}/versions/0", None, 404, "NOT_FOUND", "Model version not found: {name}/0"),
    ("GET", "/models/nowhere.s.m", None, 404, "CATALOG_NOT_FOUND", "Catalog not found: nowhere"),
    ("GET", "/models/{c}.no.m", None, 404, "SCHEMA_NOT_FOUND", "Schema not found: {c}.no"),
    ("GET", "/models/{c}.ml", None, 400, "INVALID_ARGUMENT", "Invalid registered model name: {c}.ml"),
    ("POST", "/models", "{model}", 409, "ALREADY_EXISTS", "Registered model already exists: {name}"),
    ("POST", "/models", {"name": "m"}, 404, "CATALOG_NOT_FOUND", "Catalog not found: null"),
    ("POST", "/catalogs", {"name": "{c}"}, 400, "CATALOG_ALREADY_EXISTS", "Catalog already exists: {c}"),
    (
        *("PATCH", "/models/{name}", {"new_name": "{m}"}, 409, "ALREADY_EXISTS"),
        "Registered model already exists: {name}",
    ),
    ("PATCH", "/models/{name}", {"owner": "x"}, 400, "INVALID_ARGUMENT", "No updated fields defined."),
    (
        *("PATCH", "/models/{name}/versions/1", {"status": "READY"}, 400, "INVALID_ARGUMENT"),
        "No updated fields defined.",
    ),
    (
        *("DELETE", "/models/{name}", None, 409, "ABORTED"),
        "Unable to delete a registered model with existing model versions: {m}",
    ),
    ("DELETE", "/schemas/{c}.ml", None, 400, "FAILED_PRECONDITION", "Cannot delete schema with models"),
    (
        *("PATCH", "/models/{name}/versions/1/finalize", {"full_name": "{name}", "version": 1}),
        *(400, "INVALID_ARGUMENT", "Model version not in a pending registration state: {name}/1"),
    ),
    ("GET", "/models/{name}/versions/abc", None, 400, "INVALID_ARGUMENT", 'For input string: "abc"'),
    (
        *("DELETE", "/models/{name}?force=maybe", None, 400, "INVALID_ARGUMENT"),
        "Can't convert 'maybe' to type 'Boolean'.",
    ),
    ("DELETE", "/models/{name}x", None, 404, "NOT_FOUND", "Registered model not found: {name}x"),
    (
        *("GET", "/models?catalog_name={c}", None, 400, "INVALID_ARGUMENT"),
        "Cannot specify catalog w/o schema for list registered models.",
    ),
    ("GET", "/models?max_results=-1", None, 400, "INVALID_ARGUMENT", "maxResults must be greater than or equal to 0"),
    ("GET", "/models?max_results=x", None, 400, "INVALID_ARGUMENT", 'For input string: "x"'),
    ("GET", "/models?page_token=no", None, 400, "INVALID_ARGUMENT", "Invalid page token received: no"),
    (
        *("GET", "/models/{name}/versions?page_token=no", None, 400, "INVALID_ARGUMENT"),
        "Invalid page token received: no",
    ),
    ("GET", "/models/{c}.ml.", None, 400, "INVALID_ARGUMENT", "Invalid registered model name: {c}.ml."),
    (
        "PATCH",
        "/models/{name}/versions/0",
        {"comment": "x"},
        400,
        "INVALID_ARGUMENT",
        "No valid model version specified: 0",
    ),
    (
        "PATCH",
        "/models/{name}/versions/1/finalize",
        {"version": 1},
        400,
        "INVALID_ARGUMENT",
        "No three tier full name specified.",
    ),
    (
        "PATCH",
        "/models/{name}/versions/1/finalize",
        {"full_name": "{name}"},
        400,
        "INVALID_ARGUMENT",
        "No version specified.",
    ),
    ("PATCH", "/models/{name}", {"comment": LONG}, 500, "INTERNAL", "Error updating registered model: {name}"),
    (
        "PATCH",
        "/models/{name}/versions/1",
        {"comment": LONG},
        500,
        "INTERNAL",
        "Error updating model version: {name}/1",
    ),
    (
        "POST",
        "/models",
        {"name": "long", "catalog_name": "{c}", "schema_name": "ml", "comment": LONG},
        500,
        "INTERNAL",
        "Error creating registered model: {c}.ml.long",
    ),
    (
        "POST",
        "/models/versions",
        {**VERSION, "comment": LONG},
        500,
        "INTERNAL",
        "Error creating model version for model: {name}",
    ),
    (
        "POST",
        "/models/versions",
        {**VERSION, "run_id": "r" * 256},
        500,
        "INTERNAL",
        "Error creating model version for model: {name}",
    ),
    (
        "POST",
        "/models/versions",
        {**VERSION, "source": "s" * 256},
        500,
        "INTERNAL",
        "Error creating model version for model: {name}",
    ),
    ("GET", "/schemas", None, 400, "INVALID_ARGUMENT", "Mandatory parameter/header is missing: catalog_name"),
    ("GET", "/schemas/{c}", None, 400, "INVALID_ARGUMENT", "Invalid schema full name: {c}"),
    (
        "POST",
        "/schemas",
        {"name": "ml", "catalog_name": "{c}"},
        400,
        "SCHEMA_ALREADY_EXISTS",
        "Schema already exists: ml",
    ),
    (
        "DELETE",
        "/catalogs/{c}",
        None,
        400,
        "FAILED_PRECONDITION",
        "Cannot delete catalog with schemas. Use force=true to force deletion.",
    ),
    ("PATCH", "/catalogs/{c}", {"new_name": "{c}"}, 400, "CATALOG_ALREADY_EXISTS", "Catalog already exists: {c}"),
    ("POST", "/catalogs", {"name": "word", "storage_root": "word"}, 400, "INVALID_ARGUMENT", "Ambiguous path: word"),
    (
        "POST",
        "/catalogs",
        {"name": "none", "storage_root": ""},
        400,
        "INVALID_ARGUMENT",
        "Path cannot be null or empty",
    ),
    (
        "POST",
        "/catalogs",
        {"name": "http", "storage_root": "http://a/b"},
        400,
        "INVALID_ARGUMENT",
        "Unsupported URI scheme: http",
    ),
    (
        *("POST", "/temporary-model-version-credentials", {**VERSION, "version": 1, "operation": "READ_MODEL_VERSION"}),
        *(400, "INVALID_ARGUMENT"),
        "Cannot request credentials on a model version with a file based storage location: {name}/1",
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "text"), CASES, ids=[f"{c[0]} {c[1]} {str(c[5])[:40]}" for c in CASES]
)
def test_errors_and_their_texts(open_source, api, name, method, path, body, status, code, text):
    words = {"c": open_source.catalog, "name": name, "m": name.split(".")[2]}

    def filled(value):
        if value == "{model}":
            return place(name)
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return value.format(**words) if isinstance(value, str) else value

    answer = api.request(method, filled(path), json=filled(body))
    assert told(answer) == (status, code, filled(text))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("a b", "Name cannot contain a period, space, forward-slash, or control characters"),
        ("ä", "Name cannot contain a period, space, forward-slash, or control characters"),
        ("a.b", "Name cannot contain a period, space, forward-slash, or control characters"),
        ("", "Name cannot be empty"),
        ("x" * 256, "Name cannot be longer than 255 characters"),
    ],
)
def test_names(open_source, api, model, text):
    answer = api.post("/models", json={**place(f"{open_source.schema}.x"), "name": model})
    assert told(answer) == (400, "INVALID_ARGUMENT", text)


def test_numbers_are_taken_for_texts_and_texts_for_numbers(open_source, api, name):
    place_of = place(name) | {"model_name": name.split(".")[2]}
    for value, taken in ((7, "7"), (True, "true")):
        made = api.post(
            "/models/versions", json={**place_of, "source": value, "run_id": value, "comment": value}
        ).json()
        assert (made["source"], made["run_id"], made["comment"]) == (taken, taken, taken)
        assert (
            api.post("/models", json={**place_of, "name": value}).json()["full_name"] == f"{open_source.schema}.{taken}"
        )
    path = f"/models/{name}/versions/{made['version']}/finalize"
    assert api.patch(path, json={"full_name": name, "version": str(made["version"])}).json()["status"] == "READY"
    _, code, text = told(api.post("/models", json={**place_of, "name": ["x"]}))
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("failed to parse a JSON document: com.fasterxml.jackson.databind.exc.MismatchedInput")


def test_head_is_get_without_a_body(open_source, api, name):
    for path, status in ((f"/models/{name}", 200), (f"/models/{name}/versions/9", 404), ("/models/a.b", 400)):
        answer = api.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers["content-type"] == api.get(path).headers["content-type"]


def test_catalogs_and_schemas_are_changed(open_source, api, tmp_path):
    catalog = f"{open_source.catalog}_2"
    try:
        made = open_source.call("POST", "/catalogs", {"name": catalog, "storage_root": f"file://{tmp_path}/"})
        assert made["storage_root"] == f"file://{tmp_path}"
        assert made["storage_location"] == f"file://{tmp_path}/__unitystorage/catalogs/{made['id']}"
        schema = open_source.call("POST", "/schemas", {"name": "s", "catalog_name": catalog})
        assert {"schema_id", "storage_root", "storage_location"} <= schema.keys()
        assert "id" not in schema
        model = open_source.call("POST", "/models", place(f"{catalog}.s.m"))
        assert model["storage_location"] == f"{made['storage_location']}/models/{model['id']}"
        changed = open_source.call("PATCH", f"/catalogs/{catalog}", {"comment": "new", "properties": {"a": "b"}})
        assert (changed["comment"], changed["properties"], changed["id"]) == ("new", {"a": "b"}, made["id"])
        assert open_source.call("PATCH", f"/schemas/{catalog}.s", {"new_name": "t"})["full_name"] == f"{catalog}.t"
        assert open_source.call("GET", f"/models/{catalog}.t.m")["id"] == model["id"]
        listed = open_source.call("GET", f"/catalogs?max_results=1&page_token={open_source.catalog}")["catalogs"]
        assert [row["name"] for row in listed] == [catalog]
    finally:
        api.delete(f"/catalogs/{catalog}?force=true")


def test_letter_case_counts(open_source, api, name):
    assert api.get(f"/models/{name.upper()}").status_code == 404
    upper = f"{open_source.schema}.{name.split('.')[2].upper()}"
    open_source.make(upper)
    assert api.get(f"/models/{upper}").json()["full_name"] == upper


def test_bodies_need_their_content_type(open_source, api):
    answer = api.post("/models", content=b'{"name": "m"}')
    assert told(answer)[:2] == (400, "INVALID_ARGUMENT")
    assert "No suitable request converter found" in told(answer)[2]
    assert told(api.post("/models", content=b"{", headers=JSON))[:2] == (400, "INVALID_ARGUMENT")


def test_what_is_not_known_is_ignored(open_source, api):
    name = open_source.new_name()
    body = {**place(name), "tags": [{"key": "a", "value": "b"}], "storage_location": "/x", "owner": "me"}
    made = api.post("/models", json=body).json()
    assert made["storage_location"] != "/x"
    assert "tags" not in made
    assert api.get(f"/models/{name}?include_aliases=true").json() == made


def test_a_pending_version_is_listed_and_read(open_source, api, name):
    made = open_source.add(name, ready=False)
    assert made["status"] == "PENDING_REGISTRATION"
    assert [v["status"] for v in open_source.versions(name)] == ["READY", "PENDING_REGISTRATION"]
    assert api.get(f"/models/{name}/versions/2").json() == made


def test_finalize_acts_on_the_body(open_source, api, name):
    open_source.add(name, ready=False)
    answer = api.patch(f"/models/{name}/versions/1/finalize", json={"full_name": name, "version": 2})
    assert (answer.json()["version"], answer.json()["status"]) == (2, "READY")


def test_rename_keeps_identity_place_and_versions(open_source, api, name):
    before = api.get(f"/models/{name}").json()
    after = api.patch(f"/models/{name}", json={"new_name": f"{before['name']}_2"}).json()
    assert (after["id"], after["storage_location"]) == (before["id"], before["storage_location"])
    assert api.get(f"/models/{name}").status_code == 404
    assert [v["comment"] for v in open_source.versions(after["full_name"])] == ["one"]


def test_an_empty_comment_is_stored(open_source, api, name):
    assert api.patch(f"/models/{name}", json={"comment": ""}).json()["comment"] == ""
    assert api.patch(f"/models/{name}/versions/1", json={"comment": ""}).json()["comment"] == ""


def test_deletes_answer_plain_text_and_leave_files(open_source, api, name):
    folder = Path(open_source.versions(name)[0]["storage_location"].removeprefix("file://"))
    answer = api.delete(f"/models/{name}/versions/1")
    assert (answer.text, answer.headers["content-type"].partition(";")[0]) == ("200 OK", "text/plain")
    assert folder.is_dir()
    assert api.delete(f"/models/{name}").text == "200 OK"


def test_numbers_are_not_used_again_but_after_the_model_is_made_anew(open_source, api, name):
    api.delete(f"/models/{name}/versions/1")
    assert open_source.add(name)["version"] == 2
    first = api.get(f"/models/{name}").json()["id"]
    assert api.delete(f"/models/{name}?force=true").text == "200 OK"
    open_source.make(name, ("again",))
    assert open_source.versions(name)[0]["version"] == 1
    assert api.get(f"/models/{name}").json()["id"] != first


def test_pages_of_versions(open_source, api, name):
    for _ in range(3):
        open_source.add(name)
    first = api.get(f"/models/{name}/versions?max_results=2").json()
    assert [v["version"] for v in first["model_versions"]] == [1, 2]
    second = api.get(f"/models/{name}/versions?max_results=2&page_token={first['next_page_token']}").json()
    assert [v["version"] for v in second["model_versions"]] == [3, 4]
    last = api.get(f"/models/{name}/versions?max_results=2&page_token={second['next_page_token']}").json()
    assert last == {"model_versions": [], "next_page_token": None}


def test_pages_have_at_most_a_hundred(open_source, api):
    schema = f"pages{open_source.new_name()[-6:]}"
    open_source.call("POST", "/schemas", {"name": schema, "catalog_name": open_source.catalog})
    names = sorted(f"m{i:03}" for i in range(101))
    for model in names:
        open_source.call("POST", "/models", place(f"{open_source.catalog}.{schema}.{model}"))
    where = f"/models?catalog_name={open_source.catalog}&schema_name={schema}"
    for limit in ("", "&max_results=0", "&max_results=1000"):
        page = api.get(where + limit).json()
        assert [m["name"] for m in page["registered_models"]] == names[:100]
        assert page["next_page_token"] == names[99]
    rest = api.get(f"{where}&page_token={names[99]}").json()
    assert ([m["name"] for m in rest["registered_models"]], rest["next_page_token"]) == (names[100:], None)


def test_a_long_source_is_a_500_that_leaves_a_folder(open_source, api, name):
    where = Path(open_source.versions(name)[0]["storage_location"].removeprefix("file://")).parent
    catalog, schema, model = name.split(".")
    body = {"model_name": model, "catalog_name": catalog, "schema_name": schema, "source": "s" * 256}
    assert told(api.post("/models/versions", json=body)) == (
        *(500, "INTERNAL"),
        f"Error creating model version for model: {name}",
    )
    assert len(list(where.iterdir())) == 2
    assert len(open_source.versions(name)) == 1


def test_credentials_are_for_cloud_storage_only(open_source, api, name):
    catalog, schema, model = name.split(".")
    body = {"model_name": model, "catalog_name": catalog, "schema_name": schema, "version": 1}
    answer = api.post("/temporary-model-version-credentials", json={**body, "operation": "READ_MODEL_VERSION"})
    assert told(answer)[:2] == (400, "INVALID_ARGUMENT")


# -- the flavour's own switches


def test_a_server_without_storage_takes_models_where_the_catalog_or_schema_has_some(tmp_path):
    with flavour(None) as server:
        answer = server.client.post("/models", json=place(server.new_name()))
        assert told(answer) == (
            *(400, "FAILED_PRECONDITION"),
            "None of catalog, schema or storage-root.tables server property has managed location configured.",
        )
        body = {"name": "own", "catalog_name": server.catalog, "storage_root": str(tmp_path)}
        schema = server.call("POST", "/schemas", body)
        made = server.call("POST", "/models", place(f"{server.catalog}.own.m"))
        assert made["storage_location"].startswith(
            f"file://{tmp_path}/__unitystorage/schemas/{schema['schema_id']}/models/"
        )


def test_simultaneous_creates_get_one_number(tmp_path):
    with flavour(tmp_path, concurrent_creates=2) as server:
        name = server.make(server.new_name())
        made: list[int] = []
        threads = [
            threading.Thread(target=lambda: made.append(server.add(name, ready=False)["version"])) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [1, 1]
        assert [v["version"] for v in server.versions(name)] == [1, 1]
        server.client.delete(f"/models/{name}/versions/1")
        assert len(server.versions(name)) == 1
        assert server.client.get(f"{server.url}{PREFIX}/models/{name}").status_code == 200
