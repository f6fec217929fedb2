"""Catalogs and schemas of the open-source flavor.

Sources: the server's ``CatalogRepository`` and ``SchemaRepository``.
"""

from __future__ import annotations

import threading
from typing import Any

from airflow_uc_models.emulator.open_source_rows import (
    Row,
    ServerError,
    checked,
    fits,
    internal,
    invalid,
    java,
    made,
    remove,
    storage_url,
    touched,
)

_MAX_COMMENT = 255
_NO_VALUE = (
    "not-null property references a null or transient value : io.unitycatalog.server.persist.dao.PropertyDAO.value"
)
_TOO_LONG = 'could not execute statement [Value too long for column "COMMENT CHARACTER VARYING(255)"]'


class Catalogs:
    """Catalogs and schemas, in memory."""

    def __init__(self) -> None:
        self.catalogs: list[Row] = []
        self.schemas: list[Row] = []
        self.models: list[Row] = []
        self._lock = threading.RLock()

    def create_catalog(self, body: Row, by: str | None) -> Row:
        """Create a catalog."""
        name = checked(body.get("name"))
        with self._lock:
            self._expect_free(self.catalogs, name, "catalog")
            row = {"name": name, **_contents(body, "catalogs", by)}
            _check(body, "add catalog")
            self.catalogs.append(row)
            return row

    def create_schema(self, body: Row, by: str | None) -> Row:
        """Create a schema."""
        name = checked(body.get("name"))
        with self._lock:
            catalog = self.catalog(body.get("catalog_name"))
            self._expect_free(self._schemas_of(catalog["name"]), name, "schema")
            contents = _contents(body, "schemas", by)
            row = {
                "name": name,
                "catalog_name": catalog["name"],
                "full_name": f"{catalog['name']}.{name}",
                **{key: value for key, value in contents.items() if key != "id"},
                "schema_id": contents["id"],
            }
            _check(body, "create schema")
            self.schemas.append(row)
            return row

    def catalog(self, name: Any) -> Row:
        """Return a catalog; letter case counts."""
        for row in self.catalogs:
            if row["name"] == name:
                return row
        raise ServerError(404, "CATALOG_NOT_FOUND", f"Catalog not found: {java(name)}")

    def schema(self, catalog_name: Any, name: Any) -> Row:
        """Return a schema."""
        self.catalog(catalog_name)
        for row in self._schemas_of(catalog_name):
            if row["name"] == name:
                return row
        raise ServerError(404, "SCHEMA_NOT_FOUND", f"Schema not found: {catalog_name}.{java(name)}")

    def update_catalog(self, name: str, body: Row, by: str | None) -> Row:
        """Change name, comment or properties; nothing given is no error, and the storage stays."""
        with self._lock:
            row = self.catalog(name)
            if new_name := _new_name(body):
                self._expect_free(self.catalogs, new_name, "catalog")
            _check(body, "update catalog")
            if new_name:
                for schema in self._schemas_of(name):
                    schema |= {"catalog_name": new_name, "full_name": f"{new_name}.{schema['name']}"}
                    self._rename_models(schema, catalog_name=name)
                row["name"] = new_name
            return _changed(row, body, by)

    def update_schema(self, catalog_name: str, name: str, body: Row, by: str | None) -> Row:
        """Change name, comment or properties."""
        with self._lock:
            row = self.schema(catalog_name, name)
            if new_name := _new_name(body):
                self._expect_free(self._schemas_of(catalog_name), new_name, "schema")
            _check(body, "update schema")
            if new_name:
                row |= {"name": new_name, "full_name": f"{catalog_name}.{new_name}"}
                self._rename_models(row, schema_name=name)
            return _changed(row, body, by)

    def delete_catalog(self, name: str, *, force: bool) -> None:
        """Delete a catalog, with what is in it only if forced."""
        with self._lock:
            catalog, within = self.catalog(name), self._schemas_of(name)
            if within and not force:
                said = "Cannot delete catalog with schemas. Use force=true to force deletion."
                raise ServerError(400, "FAILED_PRECONDITION", said)
            for schema in within:
                self.delete_schema(name, schema["name"], force=True)
            remove(self.catalogs, catalog)

    def delete_schema(self, catalog_name: str, name: str, *, force: bool) -> None:
        """Delete a schema, with its models only if forced."""
        with self._lock:
            schema = self.schema(catalog_name, name)
            within = [m for m in self.models if is_in(m, schema)]
            if within and not force:
                raise ServerError(400, "FAILED_PRECONDITION", "Cannot delete schema with models")
            for model in within:
                self._drop_model(model)
            remove(self.schemas, schema)

    def _schemas_of(self, catalog_name: Any) -> list[Row]:
        return [s for s in self.schemas if s["catalog_name"] == catalog_name]

    def _drop_model(self, model: Row) -> None:
        remove(self.models, model)

    def _rename_models(self, schema: Row, *, catalog_name: str | None = None, schema_name: str | None = None) -> None:
        """Let models follow a schema or catalog to its new name."""
        before = (catalog_name or schema["catalog_name"], schema_name or schema["name"])
        place = {"catalog_name": schema["catalog_name"], "schema_name": schema["name"]}
        for model in self.models:
            if (model["catalog_name"], model["schema_name"]) == before:
                model |= {**place, "full_name": f"{schema['full_name']}.{model['name']}"}
                for version in self._versions(model):
                    version.update(place)

    def _versions(self, model: Row) -> list[Row]:
        raise NotImplementedError

    @staticmethod
    def _expect_free(rows: list[Row], name: str, what: str) -> None:
        if any(row["name"] == name for row in rows):
            raise ServerError(400, f"{what.upper()}_ALREADY_EXISTS", f"{what.title()} already exists: {name}")


def is_in(model: Row, schema: Row) -> bool:
    """Whether a model is in a schema."""
    return (model["catalog_name"], model["schema_name"]) == (schema["catalog_name"], schema["name"])


def _contents(body: Row, kind: str, by: str | None) -> Row:
    new, root = made(by), body.get("storage_root")
    url = None if root is None else storage_url(root)
    return {
        "comment": body.get("comment"),
        "properties": body.get("properties") or {},
        "owner": by,
        **new,
        "storage_root": url,
        "storage_location": url and f"{url}/__unitystorage/{kind}/{new['id']}",
    }


def _check(body: Row, action: str) -> None:
    if not fits(body.get("comment"), _MAX_COMMENT):
        raise internal(f"Failed to {action}: {_TOO_LONG}")
    if None in (body.get("properties") or {}).values():
        raise internal(f"Failed to {action}: {_NO_VALUE}")


def _new_name(body: Row) -> str | None:
    return None if body.get("new_name") is None else checked(body["new_name"])


def _changed(row: Row, body: Row, by: str | None) -> Row:
    if body.get("comment") is not None:
        row["comment"] = body["comment"]
    if body.get("properties"):
        row["properties"] = body["properties"]
    return touched(row, by)


def schema_levels(full_name: str) -> tuple[str, str]:
    """Return catalog and schema of a full name."""
    levels = full_name.rstrip(".").split(".")
    if len(levels) != 2:
        raise invalid(f"Invalid schema full name: {full_name}")
    return levels[0], levels[1]
