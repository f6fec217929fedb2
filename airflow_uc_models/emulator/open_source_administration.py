"""Catalogs, schemas, users and grants of the open-source flavor: enough to make models in them.

Sources: the server's ``CatalogService``, ``SchemaService``, ``PermissionService`` and ``Scim2UserService``.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from airflow_uc_models.emulator.open_source_access import Access
from airflow_uc_models.emulator.open_source_catalogs import schema_levels
from airflow_uc_models.emulator.open_source_requests import (
    CatalogChange,
    Force,
    GrantChanges,
    Guarded,
    Limit,
    NewCatalog,
    NewSchema,
    NewUser,
    SchemaChange,
    State,
    as_json,
    as_page,
    by_name,
    deleted,
)
from airflow_uc_models.emulator.open_source_rows import invalid

router = APIRouter()


@router.post("/catalogs")
def create_catalog(body: NewCatalog, store: State, guard: Guarded) -> Response:
    """Create a catalog."""
    guard.admin()
    return as_json(store.create_catalog(body, guard.user))


@router.get("/catalogs")
def list_catalogs(store: State, limit: Limit, page_token: str = "") -> Response:
    """List catalogs by name."""
    return as_page("catalogs", *by_name(store.catalogs, limit, page_token))


@router.patch("/catalogs/{name}")
def update_catalog(name: str, body: CatalogChange, store: State, guard: Guarded) -> Response:
    """Change a catalog."""
    guard.change_grants(store.catalog(name))
    return as_json(store.update_catalog(name, body, guard.user))


@router.get("/catalogs/{name}")
def get_catalog(name: str, store: State) -> Response:
    """Return a catalog."""
    return as_json(store.catalog(name))


@router.delete("/catalogs/{name}")
def delete_catalog(name: str, store: State, guard: Guarded, force: Force) -> Response:
    """Delete a catalog."""
    guard.change_grants(store.catalog(name))
    store.delete_catalog(name, force=force)
    return deleted()


@router.post("/schemas")
def create_schema(body: NewSchema, store: State, guard: Guarded) -> Response:
    """Create a schema."""
    guard.create_schema(store.catalog(body.get("catalog_name")))
    return as_json(store.create_schema(body, guard.user))


@router.get("/schemas")
def list_schemas(store: State, limit: Limit, catalog_name: str | None = None, page_token: str = "") -> Response:
    """List the schemas of a catalog by name."""
    if catalog_name is None:
        raise invalid("Mandatory parameter/header is missing: catalog_name")
    store.catalog(catalog_name)
    rows = [schema for schema in store.schemas if schema["catalog_name"] == catalog_name]
    return as_page("schemas", *by_name(rows, limit, page_token))


@router.patch("/schemas/{full_name}")
def update_schema(full_name: str, body: SchemaChange, store: State, guard: Guarded) -> Response:
    """Change a schema."""
    catalog, name = schema_levels(full_name)
    guard.change_grants(store.schema(catalog, name))
    return as_json(store.update_schema(catalog, name, body, guard.user))


@router.get("/schemas/{full_name}")
def get_schema(full_name: str, store: State) -> Response:
    """Return a schema."""
    catalog, name = schema_levels(full_name)
    return as_json(store.schema(catalog, name))


@router.delete("/schemas/{full_name}")
def delete_schema(full_name: str, store: State, guard: Guarded, force: Force) -> Response:
    """Delete a schema."""
    catalog, name = schema_levels(full_name)
    guard.change_grants(store.schema(catalog, name))
    store.delete_schema(catalog, name, force=force)
    return deleted()


@router.get("/permissions/{kind}/{name}")
def get_grants(kind: str, name: str, request: Request, guard: Guarded) -> Response:
    """Return the grants on a securable."""
    access: Access = request.app.state.access
    return JSONResponse({"privilege_assignments": access.granted(guard.securable(kind, name))})


@router.patch("/permissions/{kind}/{name}")
def change_grants(kind: str, name: str, body: GrantChanges, request: Request, guard: Guarded) -> Response:
    """Grant and revoke."""
    access: Access = request.app.state.access
    securable = guard.securable(kind, name)
    guard.change_grants(securable)
    access.change(securable, body.get("changes") or [])
    return JSONResponse({"privilege_assignments": access.granted(securable)})


def create_user(body: NewUser, request: Request, guard: Guarded) -> Response:
    """Make a user, named by the e-mail address; a token comes from ``app.state.access.add_user``."""
    guard.admin()
    access: Access = request.app.state.access
    name = str(next((e.get("value") for e in body.get("emails") or []), body.get("displayName")))
    access.users.add(name)
    return JSONResponse({"id": name, "displayName": body.get("displayName"), "emails": body.get("emails")}, 201)
