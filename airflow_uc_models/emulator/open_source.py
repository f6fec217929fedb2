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

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from airflow_uc_models.emulator import open_source_administration as administration
from airflow_uc_models.emulator.open_source_access import Access
from airflow_uc_models.emulator.open_source_races import Numbering, Twins
from airflow_uc_models.emulator.open_source_requests import (
    CredentialsWanted,
    Finalized,
    Force,
    Guarded,
    Limit,
    ModelChange,
    NewModel,
    NewVersion,
    Number,
    State,
    VersionChange,
    as_json,
    as_page,
    deleted,
)
from airflow_uc_models.emulator.open_source_rows import ServerError, internal, invalid, java
from airflow_uc_models.emulator.open_source_store import PAGE, READY, Store

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
    app.add_api_route("/", _health, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    app.include_router(router, prefix=API)
    app.include_router(administration.router, prefix=API)
    app.add_api_route(f"{CONTROL}/scim2/Users", administration.create_user, methods=["POST"])
    return app


# -- what requests share


async def _authenticate(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    request.state.user = None
    if request.method == "HEAD":  # as GET, without the body
        request.scope["method"] = "GET"
        answer = await _authenticate(request, proceed)
        return Response(status_code=answer.status_code, media_type=answer.headers.get("content-type"))
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


def _health() -> Response:
    return PlainTextResponse("Hello, Unity Catalog!")


# -- registered models and their versions

router = APIRouter()


@router.post("/models")
def create_model(body: NewModel, store: State, guard: Guarded) -> Response:
    """Create a registered model."""
    guard.create_model(store.schema(body.get("catalog_name"), body.get("schema_name")))
    return as_json(store.create_model(body, guard.user))


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
    for one, other, said in (
        (catalog_name, schema_name, "catalog w/o schema"),
        (schema_name, catalog_name, "schema w/o catalog"),
    ):
        if one and not other:
            raise invalid(f"Cannot specify {said} for list registered models.")
    schema = store.schema(catalog_name, schema_name) if catalog_name else None
    rows, token = store.list_models(schema, limit, page_token)
    return as_page("registered_models", [row for row in rows if guard.can_read(row)], token)


@router.post("/models/versions")
def create_version(body: NewVersion, store: State, guard: Guarded) -> Response:
    """Create a version, pending until it is finalized."""
    if guard.user is not None:
        full_name = f"{body.get('catalog_name')}.{body.get('schema_name')}.{body.get('model_name')}"
        guard.write(store.model(full_name, told=str(body.get("model_name"))))
    return as_json(store.create_version(body, guard.user))


@router.get("/models/{full_name}")
def get_model(full_name: str, store: State, guard: Guarded) -> Response:
    """Return a registered model."""
    row = store.model(full_name)
    guard.read(row)
    return as_json(row)


@router.patch("/models/{full_name}")
def update_model(full_name: str, body: ModelChange, store: State, guard: Guarded) -> Response:
    """Change name or comment."""
    if guard.user is not None:
        guard.write(store.model(full_name))
    return as_json(store.update_model(full_name, body, guard.user))


@router.delete("/models/{full_name}")
def delete_model(full_name: str, store: State, guard: Guarded, force: Force) -> Response:
    """Delete a model."""
    if guard.user is not None:
        guard.delete(store.model(full_name))
    store.delete_model(full_name, force=force)
    return deleted()


@router.get("/models/{full_name}/versions")
def list_versions(
    full_name: str, store: State, guard: Guarded, limit: Limit, page_token: str | None = None
) -> Response:
    """List the versions of a model, pending ones too."""
    model = store.model(full_name, told=full_name.rpartition(".")[2])
    guard.read(model)
    return as_page("model_versions", *store.list_versions(model, limit, page_token))


@router.get("/models/{full_name}/versions/{version}")
def get_version(full_name: str, version: Number, store: State, guard: Guarded) -> Response:
    """Return a version."""
    guard.read(store.model(full_name))
    return as_json(store.version(full_name, version))


@router.patch("/models/{full_name}/versions/{version}")
def update_version(full_name: str, version: Number, body: VersionChange, store: State, guard: Guarded) -> Response:
    """Change the comment; anything else is ignored, the status too."""
    if guard.user is not None:
        guard.write(store.model(full_name))
    return as_json(store.update_version(full_name, version, body, guard.user))


@router.patch("/models/{full_name}/versions/{version}/finalize")
def finalize_version(full_name: str, body: Finalized, store: State, guard: Guarded) -> Response:
    """Make a version READY: that of the body, while the path's model decides who may."""
    if guard.user is not None:
        guard.write(store.model(full_name))
    return as_json(store.finalize(body.get("full_name"), body.get("version"), guard.user))


@router.delete("/models/{full_name}/versions/{version}")
def delete_version(full_name: str, version: Number, store: State, guard: Guarded) -> Response:
    """Delete a version."""
    if guard.user is not None:
        guard.delete(store.model(full_name))
    store.delete_version(full_name, version)
    return deleted()


@router.post("/temporary-model-version-credentials")
def temporary_credentials(body: CredentialsWanted, store: State, guard: Guarded) -> Response:
    """Give credentials for cloud storage; file storage has none."""
    full_name = ".".join(java(body.get(level)) for level in ("catalog_name", "schema_name", "model_name"))
    writes = body.get("operation") == "READ_WRITE_MODEL_VERSION"
    if guard.user is not None:
        (guard.write if writes else guard.read)(store.model(full_name))
    if body.get("version") is None:
        raise internal('Cannot invoke "java.lang.Long.longValue()" because the version is null')
    version = store.version(full_name, body["version"])
    location, number = version["storage_location"], f"{full_name}/{version['version']}"
    if location.startswith("file:"):
        raise invalid(f"Cannot request credentials on a model version with a file based storage location: {number}")
    if writes and version["status"] == READY:
        said = "Cannot request read/write credentials on a model version that has been finalized"
        raise invalid(f"{said}: {number}")
    if body.get("operation") is None:
        raise internal('Cannot invoke "ModelVersionOperation.ordinal()" because it is null')
    if not (store.root or "").startswith("s3:") or not location.startswith(f"{store.root}/"):
        raise ServerError(400, "FAILED_PRECONDITION", "S3 bucket configuration not found.")
    keys = {"access_key_id": "emulated", "secret_access_key": "emulated", "session_token": "emulated"}
    others = dict.fromkeys(("azure_user_delegation_sas", "gcp_oauth_token", "url", "expiration_time"))
    return JSONResponse({"aws_temp_credentials": keys, **others})
