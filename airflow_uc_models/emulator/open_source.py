"""An open-source Unity Catalog server for tests: its model registry, catalogs, schemas and grants, on FastAPI.

::

    app = create_app(tmp_path)
    with LoopbackServer(app) as server:
        app.state.store.create_schema(...)      # or POST /api/2.1/unity-catalog/schemas
        connection = f'{{"conn_type": "unity_catalog", "host": "{server.url}"}}'

Routes, statuses, error codes and texts are those of the real server (version 0.7.0-SNAPSHOT, seen by running it), with
what it does wrong: model names that are not unique under concurrency (``concurrent_creates``), finalize that acts on
the body, files that stay after deletes, 500 instead of 404 for unknown paths where authorization is on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from airflow_uc_models.emulator.open_source_access import Access, Guard
from airflow_uc_models.emulator.open_source_races import Numbering, Row, Twins
from airflow_uc_models.emulator.open_source_store import PAGE, ServerError, Store, invalid

API = "/api/2.1/unity-catalog"
CONTROL = "/api/1.0/unity-control"
_TEXTS = {404: "Not Found", 405: "Method Not Allowed"}


def create_app(
    root: Path | str | None,
    *,
    authorization: bool = False,
    admin_token: str | None = None,
    concurrent_creates: int = 1,
    twins: Twins | None = None,
    page_size: int = PAGE,
) -> FastAPI:
    """Return the server; ``app.state.store`` and ``app.state.access`` hold its state.

    :param root: where files of models lie: a folder, made as needed, or another storage root such as ``s3://bucket``;
        None for a server without any, which takes models only in a catalog or schema that has a storage root
    :param authorization: whether requests need a token and privileges
    :param admin_token: the administrator's; ``app.state.access.add_user(name)`` returns that of another user
    :param concurrent_creates: so many creates that come at once get the same version number, or make models of the
        same name, as on the real server; 1 for none
    :param twins: which of those comes first in lists, and which one is reached by the number or name
    :param page_size: how many items a page of a list has at most
    """
    app = FastAPI(title="Open-source Unity Catalog server", openapi_url=None, redirect_slashes=False)
    app.state.store = Store(root, Numbering(concurrent_creates), twins=twins, page_size=page_size)
    app.state.access = Access(admin_token)
    app.state.authorization = authorization
    app.add_exception_handler(ServerError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_unrouted)
    app.middleware("http")(_authenticate)
    app.add_api_route("/", _health)
    app.include_router(router, prefix=API)
    app.add_api_route(f"{CONTROL}/scim2/Users", create_user, methods=["POST"])
    return app


# -- what requests share


async def _authenticate(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    request.state.user = None
    if request.app.state.authorization and request.url.path != "/":
        access: Access = request.app.state.access
        try:
            header = request.headers.get("authorization")
            request.state.user = access.authenticate(header, request.cookies.get("UC_TOKEN"))
        except ServerError as error:
            return _answer_error(request, error)
    return await proceed(request)


def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServerError)  # noqa: S101 - registered for this class
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": error.error_code}
    body = {"error_code": error.error_code, "message": error.message, "details": [detail]}
    return JSONResponse(body, error.status)


def _answer_unrouted(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    if status == 404 and request.app.state.authorization:
        return _answer_error(request, ServerError(500, "INTERNAL", "Couldn't unwrap service."))
    said = f"Status: {status}\nDescription: {_TEXTS.get(status, 'Bad Request')}\n"
    return PlainTextResponse(said, status)


async def _body(request: Request) -> Row:
    """Read a JSON body; fields that nobody knows are ignored later on."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise invalid("No suitable request converter found for a @RequestObject")
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise invalid(f"Failed to parse the JSON body: {error}") from None
    if not isinstance(body, dict):
        raise invalid("Cannot deserialize the body: a JSON object is expected")
    return body


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _guard(request: Request) -> Guard:
    return Guard(request.app.state.store, request.app.state.access, request.state.user)


def _force(force: str | None = None) -> bool:
    if force in (None, "true", "false", "1", "0"):
        return force in ("true", "1")
    raise invalid(f"Can't convert '{force}' to type 'Boolean'.")


def _limit(request: Request, max_results: str | None = None) -> int:
    """Read the page size: by default and at most that of the server."""
    most = _store(request).page_size
    if max_results is None:
        return most
    if not re.fullmatch(r"\d{1,9}", max_results):
        raise invalid(f"maxResults must be greater than or equal to 0: {max_results}")
    return min(int(max_results) or most, most)


def _number(version: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", version):
        raise invalid(f'For input string: "{version}"')
    return int(version)


Body = Annotated[Row, Depends(_body)]
State = Annotated[Store, Depends(_store)]
Guarded = Annotated[Guard, Depends(_guard)]
Force = Annotated[bool, Depends(_force)]
Limit = Annotated[int, Depends(_limit)]
Number = Annotated[int, Depends(_number)]


def _json(row: Row) -> Response:
    return JSONResponse({key: value for key, value in row.items() if not key.startswith("_")})


def _page(field: str, rows: list[Row], token: str | None) -> Response:
    plain = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    return JSONResponse({field: plain, "next_page_token": token})


def _ok() -> Response:
    return PlainTextResponse("200 OK")


def _health() -> Response:
    return PlainTextResponse("Hello, Unity Catalog!")


# -- registered models and their versions

router = APIRouter()


@router.post("/models")
def create_model(body: Body, store: State, guard: Guarded) -> Response:
    """Create a registered model."""
    guard.create_model(store.schema(body.get("catalog_name"), body.get("schema_name")))
    return _json(store.create_model(body, guard.user))


@router.get("/models")
def list_models(
    store: State,
    guard: Guarded,
    limit: Limit,
    catalog_name: str | None = None,
    schema_name: str | None = None,
    page_token: str | None = None,
) -> Response:
    """List the models of a schema or of all; what may not be read is taken out of the page afterwards."""
    if (catalog_name is None) != (schema_name is None):
        raise invalid("Either both or none of catalog_name and schema_name have to be given.")
    schema = store.schema(catalog_name, schema_name) if catalog_name is not None else None
    rows, token = store.list_models(schema, limit, page_token)
    return _page("registered_models", [row for row in rows if guard.can_read(row)], token)


@router.post("/models/versions")
def create_version(body: Body, store: State, guard: Guarded) -> Response:
    """Create a version, pending until it is finalized."""
    if guard.user is not None:
        full_name = f"{body.get('catalog_name')}.{body.get('schema_name')}.{body.get('model_name')}"
        guard.write(store.model(full_name, told=str(body.get("model_name"))))
    return _json(store.create_version(body, guard.user))


@router.get("/models/{full_name}")
def get_model(full_name: str, store: State, guard: Guarded) -> Response:
    """Return a registered model."""
    row = store.model(full_name)
    guard.read(row)
    return _json(row)


@router.patch("/models/{full_name}")
def update_model(full_name: str, body: Body, store: State, guard: Guarded) -> Response:
    """Change name or comment."""
    if guard.user is not None:
        guard.write(store.model(full_name))
    return _json(store.update_model(full_name, body, guard.user))


@router.delete("/models/{full_name}")
def delete_model(full_name: str, store: State, guard: Guarded, force: Force) -> Response:
    """Delete a model."""
    if guard.user is not None:
        guard.delete(store.model(full_name))
    store.delete_model(full_name, force=force)
    return _ok()


@router.get("/models/{full_name}/versions")
def list_versions(
    full_name: str, store: State, guard: Guarded, limit: Limit, page_token: str | None = None
) -> Response:
    """List the versions of a model, pending ones too."""
    model = store.model(full_name, told=full_name.rpartition(".")[2])
    guard.read(model)
    return _page("model_versions", *store.list_versions(model, limit, page_token))


@router.get("/models/{full_name}/versions/{version}")
def get_version(full_name: str, version: Number, store: State, guard: Guarded) -> Response:
    """Return a version."""
    guard.read(store.model(full_name))
    return _json(store.version(full_name, version))


@router.patch("/models/{full_name}/versions/{version}")
def update_version(full_name: str, version: Number, body: Body, store: State, guard: Guarded) -> Response:
    """Change the comment; anything else is ignored, the status too."""
    if guard.user is not None:
        guard.write(store.model(full_name))
    return _json(store.update_version(full_name, version, body, guard.user))


@router.patch("/models/{full_name}/versions/{version}/finalize")
def finalize_version(full_name: str, version: Number, body: Body, store: State, guard: Guarded) -> Response:  # noqa: ARG001 - the real one ignores it, too
    """Make a version READY: that of the body, while the path's model decides who may."""
    if guard.user is not None:
        guard.write(store.model(full_name))
    return _json(store.finalize(body.get("full_name"), _number(str(body.get("version"))), guard.user))  # type: ignore[arg-type]


@router.delete("/models/{full_name}/versions/{version}")
def delete_version(full_name: str, version: Number, store: State, guard: Guarded) -> Response:
    """Delete a version."""
    if guard.user is not None:
        guard.delete(store.model(full_name))
    store.delete_version(full_name, version)
    return _ok()


@router.post("/temporary-model-version-credentials")
def temporary_credentials(body: Body, store: State, guard: Guarded) -> Response:
    """Give credentials for cloud storage; file storage has none."""
    full_name = f"{body.get('catalog_name')}.{body.get('schema_name')}.{body.get('model_name')}"
    operation = body.get("operation")
    if operation not in ("READ_MODEL_VERSION", "READ_WRITE_MODEL_VERSION"):
        raise invalid(f"Unknown operation in the request: {operation}")
    model = store.model(full_name)
    if operation == "READ_MODEL_VERSION":
        guard.read(model)
    else:
        guard.write(model)
    location = store.version(full_name, _number(str(body.get("version"))))["storage_location"]
    if not location.startswith("s3://"):
        raise invalid(f"Unsupported URI scheme: {location.partition('://')[0]}")
    keys = {"access_key_id": "emulated", "secret_access_key": "emulated", "session_token": "emulated"}
    return JSONResponse({"aws_temp_credentials": keys, "expiration_time": None})


# -- catalogs, schemas, users and grants: enough to make the others


@router.post("/catalogs")
def create_catalog(body: Body, store: State, guard: Guarded) -> Response:
    """Create a catalog."""
    guard.admin()
    return _json(store.create_catalog(body, guard.user))


@router.get("/catalogs/{name}")
def get_catalog(name: str, store: State) -> Response:
    """Return a catalog."""
    return _json(store.catalog(name))


@router.delete("/catalogs/{name}")
def delete_catalog(name: str, store: State, guard: Guarded, force: Force) -> Response:
    """Delete a catalog."""
    guard.change_grants(store.catalog(name))
    store.delete_catalog(name, force=force)
    return _ok()


@router.post("/schemas")
def create_schema(body: Body, store: State, guard: Guarded) -> Response:
    """Create a schema."""
    guard.create_schema(store.catalog(body.get("catalog_name")))
    return _json(store.create_schema(body, guard.user))


@router.get("/schemas")
def list_schemas(catalog_name: str, store: State) -> Response:
    """List the schemas of a catalog."""
    store.catalog(catalog_name)
    rows = sorted((s for s in store.schemas if s["catalog_name"] == catalog_name), key=lambda s: str(s["name"]))
    return _page("schemas", rows, None)


@router.get("/schemas/{full_name}")
def get_schema(full_name: str, store: State) -> Response:
    """Return a schema."""
    catalog, _, name = full_name.partition(".")
    return _json(store.schema(catalog, name))


@router.delete("/schemas/{full_name}")
def delete_schema(full_name: str, store: State, guard: Guarded, force: Force) -> Response:
    """Delete a schema."""
    catalog, _, name = full_name.partition(".")
    guard.change_grants(store.schema(catalog, name))
    store.delete_schema(catalog, name, force=force)
    return _ok()


@router.get("/permissions/{kind}/{name}")
def get_grants(kind: str, name: str, request: Request, guard: Guarded) -> Response:
    """Return the grants on a securable."""
    access: Access = request.app.state.access
    return JSONResponse({"privilege_assignments": access.granted(guard.securable(kind, name))})


@router.patch("/permissions/{kind}/{name}")
def change_grants(kind: str, name: str, body: Body, request: Request, guard: Guarded) -> Response:
    """Grant and revoke."""
    access: Access = request.app.state.access
    securable = guard.securable(kind, name)
    guard.change_grants(securable)
    access.change(securable, body.get("changes") or [])
    return JSONResponse({"privilege_assignments": access.granted(securable)})


def create_user(body: Body, request: Request, guard: Guarded) -> Response:
    """Make a user, named by the e-mail address; a token comes from ``app.state.access.add_user``."""
    guard.admin()
    access: Access = request.app.state.access
    name = str(next((e.get("value") for e in body.get("emails") or []), body.get("displayName")))
    access.users.add(name)
    return JSONResponse({"id": name, "displayName": body.get("displayName"), "emails": body.get("emails")}, 201)
