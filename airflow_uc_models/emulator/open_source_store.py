"""What an open-source Unity Catalog server holds, and the rules by which it changes.

Each rule and text is that of the server of version 0.7.0-SNAPSHOT (August 2026), seen by running it. Rows are the
JSON of its answers; what starts with an underscore is kept for ourselves.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from airflow_uc_models.emulator.open_source_races import Numbering, Row, Twins

PENDING, READY = "PENDING_REGISTRATION", "READY"
PAGE = 100
_NAME = re.compile(r"[a-zA-Z0-9_@-]+")
_MAX_NAME = _MAX_SOURCE = 255
_TURNS = count()


class ServerError(Exception):
    """An answer other than 200, as the server words it."""

    def __init__(self, status: int, error_code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message


def invalid(message: str) -> ServerError:
    """Build the answer to an invalid argument."""
    return ServerError(400, "INVALID_ARGUMENT", message)


class Store:
    """Catalogs, schemas, models and versions, in memory; files under ``root``.

    :param root: what the property ``storage-root.models`` names; None where it is not set
    :param numbering: how simultaneous creates go
    :param twins: which row comes first of those that share a name or a number
    :param page_size: how many rows a page has at most
    """

    def __init__(
        self,
        root: Path | str | None,
        numbering: Numbering | None = None,
        *,
        twins: Twins | None = None,
        page_size: int = PAGE,
    ) -> None:
        self.root = str(root) if root is not None else None
        self.numbering = numbering or Numbering()
        self.twins = twins or Twins()
        self.page_size = page_size
        self.catalogs: list[Row] = []
        self.schemas: list[Row] = []
        self.models: list[Row] = []
        self.versions: list[Row] = []
        self._lock = threading.RLock()

    # -- catalogs and schemas

    def create_catalog(self, body: Row, by: str | None) -> Row:
        """Create a catalog."""
        name = _checked(body.get("name"))
        with self._lock:
            if any(c["name"] == name for c in self.catalogs):
                raise ServerError(400, "CATALOG_ALREADY_EXISTS", f"Catalog already exists: {name}")
            row = {
                "name": name,
                "comment": body.get("comment"),
                "properties": body.get("properties") or {},
                "storage_root": body.get("storage_root"),
                **_made(by, owner=True),
            }
            self.catalogs.append(row)
            return row

    def create_schema(self, body: Row, by: str | None) -> Row:
        """Create a schema."""
        name = _checked(body.get("name"))
        with self._lock:
            catalog = self.catalog(body.get("catalog_name"))
            full_name = f"{catalog['name']}.{name}"
            if any(s["full_name"] == full_name for s in self.schemas):
                raise ServerError(400, "SCHEMA_ALREADY_EXISTS", f"Schema already exists: {full_name}")
            row = {
                "name": name,
                "catalog_name": catalog["name"],
                "full_name": full_name,
                "comment": body.get("comment"),
                "properties": body.get("properties") or {},
                "storage_root": body.get("storage_root"),
                **_made(by, owner=True),
            }
            self.schemas.append(row)
            return row

    def catalog(self, name: Any) -> Row:
        """Return a catalog; letter case counts."""
        for row in self.catalogs:
            if row["name"] == name:
                return row
        raise ServerError(404, "CATALOG_NOT_FOUND", f"Catalog not found: {_java(name)}")

    def schema(self, catalog_name: Any, name: Any) -> Row:
        """Return a schema."""
        self.catalog(catalog_name)
        for row in self.schemas:
            if (row["catalog_name"], row["name"]) == (catalog_name, name):
                return row
        raise ServerError(404, "SCHEMA_NOT_FOUND", f"Schema not found: {catalog_name}.{_java(name)}")

    def delete_catalog(self, name: str, *, force: bool) -> None:
        """Delete a catalog, with what is in it only if forced."""
        with self._lock:
            catalog = self.catalog(name)
            within = [s for s in self.schemas if s["catalog_name"] == name]
            if within and not force:
                raise ServerError(400, "FAILED_PRECONDITION", "Cannot delete catalog with schemas")
            for schema in within:
                self.delete_schema(name, schema["name"], force=True)
            _remove(self.catalogs, catalog)

    def delete_schema(self, catalog_name: str, name: str, *, force: bool) -> None:
        """Delete a schema, with its models only if forced."""
        with self._lock:
            schema = self.schema(catalog_name, name)
            within = [m for m in self.models if (m["catalog_name"], m["schema_name"]) == (catalog_name, name)]
            if within and not force:
                raise ServerError(400, "FAILED_PRECONDITION", "Cannot delete schema with models")
            for model in within:
                self._drop_model(model)
            _remove(self.schemas, schema)

    # -- registered models

    def create_model(self, body: Row, by: str | None) -> Row:
        """Create a registered model; where it will lie is decided now."""
        name = _checked(body.get("name"))
        catalog_name, schema_name = body.get("catalog_name"), body.get("schema_name")
        full_name = f"{catalog_name}.{schema_name}.{name}"
        with self._unguarded():
            schema = self.schema(catalog_name, schema_name)
            storage = self._storage(schema)
            if self._find(catalog_name, schema_name, name):
                raise ServerError(409, "ALREADY_EXISTS", f"Registered model already exists: {full_name}")
        with self._lock:
            made = _made(by, owner=True)
            row = {
                "name": name,
                "catalog_name": catalog_name,
                "schema_name": schema_name,
                "full_name": full_name,
                "storage_location": f"{storage}/models/{made['id']}",
                "comment": body.get("comment"),
                **made,
                "_last": 0,
            }
            self.models.append(row)
            return row

    def model(self, full_name: str, *, told: str | None = None) -> Row:
        """Return a registered model.

        :param told: how the message names it, where not by its full name
        """
        catalog_name, schema_name, name = _three(full_name)
        self.schema(catalog_name, schema_name)
        row = self._find(catalog_name, schema_name, name)
        if row is None:
            raise ServerError(404, "NOT_FOUND", f"Registered model not found: {told or full_name}")
        return row

    def update_model(self, full_name: str, body: Row, by: str | None) -> Row:
        """Change name or comment; identity, place and versions stay."""
        catalog_name, schema_name, _ = _three(full_name)
        new_name, comment = body.get("new_name"), body.get("comment")
        if new_name is not None:
            _checked(new_name)
        if new_name is None and comment is None:
            raise invalid("No updated fields defined.")
        with self._lock:
            self.schema(catalog_name, schema_name)
            if new_name is not None and self._find(catalog_name, schema_name, new_name):
                new_full = f"{catalog_name}.{schema_name}.{new_name}"
                raise ServerError(409, "ALREADY_EXISTS", f"Registered model already exists: {new_full}")
            row = self.model(full_name)
            if new_name is not None:
                for version in self._versions(row):
                    version["model_name"] = new_name
                row |= {"name": new_name, "full_name": f"{catalog_name}.{schema_name}.{new_name}"}
            if comment is not None:
                row["comment"] = comment
            return _touched(row, by)

    def delete_model(self, full_name: str, *, force: bool) -> None:
        """Delete a model; files stay where they are."""
        with self._lock:
            row = self.model(full_name, told=full_name.rpartition(".")[2])
            if self._versions(row) and not force:
                said = f"Unable to delete a registered model with existing model versions: {row['name']}"
                raise ServerError(409, "ABORTED", said)
            self._drop_model(row)

    def list_models(self, schema: Row | None, limit: int, token: str | None) -> tuple[list[Row], str | None]:
        """Return a page: of a schema by name, of all by id."""
        key, rank = "name" if schema else "id", Twins.rank(self.twins.listed)
        with self._lock:
            rows = [m for m in self.models if schema is None or _is_in(m, schema)]
        if schema is None and token is not None:
            token = _uuid(token)
        after = sorted((m for m in rows if token is None or m[key] > token), key=lambda m: (m[key], rank(m)))[:limit]
        return after, after[-1][key] if len(after) == limit else None

    # -- versions

    def create_version(self, body: Row, by: str | None) -> Row:
        """Create a version in PENDING_REGISTRATION and make the folder for its files."""
        name = body.get("model_name")
        full_name = f"{body.get('catalog_name')}.{body.get('schema_name')}.{name}"
        self.schema(body.get("catalog_name"), body.get("schema_name"))
        with self._unguarded():
            model = self.model(full_name, told=_java(name))
            number = model["_last"] + 1
        with self._lock:
            made = _made(by)
            location = f"{model['storage_location']}/versions/{made['id']}"
            if location.startswith("file://"):
                Path(location.removeprefix("file://")).mkdir(parents=True)
            if len(body.get("source") or "") > _MAX_SOURCE:
                raise ServerError(500, "INTERNAL", f"Error creating model version for model: {full_name}")
            row = {
                "model_name": name,
                "catalog_name": body["catalog_name"],
                "schema_name": body["schema_name"],
                "version": number,
                "source": body.get("source"),
                "run_id": body.get("run_id"),
                "status": PENDING,
                "storage_location": location,
                "comment": body.get("comment"),
                **made,
                "_model": model["id"],
            }
            model["_last"] = number  # where a slow one lowers it, the next one is given out again, too
            self.versions.append(row)
            return row

    def version(self, full_name: str, number: int) -> Row:
        """Return a version; one of them, where a number is not unique."""
        model = self.model(full_name)
        if found := [v for v in self._versions(model) if v["version"] == number]:
            return min(found, key=Twins.rank(self.twins.reached))
        raise ServerError(404, "NOT_FOUND", f"Model version not found: {full_name}/{number}")

    def finalize(self, full_name: str, number: int, by: str | None) -> Row:
        """Declare a pending version complete; nobody looks for files."""
        with self._lock:
            row = self.version(full_name, number)
            if row["status"] != PENDING:
                raise invalid(f"Model version not in a pending registration state: {full_name}/{number}")
            row["status"] = READY
            return _touched(row, by)

    def update_version(self, full_name: str, number: int, body: Row, by: str | None) -> Row:
        """Change the comment."""
        if body.get("comment") is None:
            raise invalid("No updated fields defined.")
        with self._lock:
            row = self.version(full_name, number)
            row["comment"] = body["comment"]
            return _touched(row, by)

    def delete_version(self, full_name: str, number: int) -> None:
        """Delete a version; where the number is not unique, one of them."""
        with self._lock:
            _remove(self.versions, self.version(full_name, number))

    def list_versions(self, model: Row, limit: int, token: str | None) -> tuple[list[Row], str | None]:
        """Return a page, ascending."""
        after = -1 if token is None else _number(token, "page_token")
        rank = Twins.rank(self.twins.listed)
        rows = [v for v in self._versions(model) if v["version"] > after]
        rows = sorted(rows, key=lambda v: (v["version"], rank(v)))[:limit]
        return rows, str(rows[-1]["version"]) if len(rows) == limit else None

    # -- helpers

    @contextmanager
    def _unguarded(self) -> Iterator[None]:
        """Read the state as the server does before it writes: with nothing that keeps others from doing the same."""
        with self._lock:
            yield
        self.numbering.meet()

    def _find(self, catalog_name: Any, schema_name: Any, name: str) -> Row | None:
        wanted = (catalog_name, schema_name, name)
        found = [m for m in self.models if (m["catalog_name"], m["schema_name"], m["name"]) == wanted]
        return min(found, key=Twins.rank(self.twins.reached), default=None)

    def _versions(self, model: Row) -> list[Row]:
        return [v for v in self.versions if v["_model"] == model["id"]]

    def _drop_model(self, model: Row) -> None:
        self.versions = [v for v in self.versions if v["_model"] != model["id"]]
        _remove(self.models, model)

    def _storage(self, schema: Row) -> str:
        """Return the managed location: of the schema, else of its catalog, else of the server."""
        catalog = self.catalog(schema["catalog_name"])
        for kind, owner in (("schemas", schema), ("catalogs", catalog)):
            if owner["storage_root"]:
                return f"{_url(owner['storage_root'])}/__unitystorage/{kind}/{owner['id']}"
        if self.root:
            return f"{_url(self.root)}/__unitystorage"
        raise ServerError(
            400,
            "FAILED_PRECONDITION",
            "None of catalog, schema or storage-root.tables server property has managed location configured.",
        )


def _checked(name: Any) -> str:
    if not name:
        raise invalid("Name cannot be empty")
    if len(name) > _MAX_NAME:
        raise invalid("Name cannot be longer than 255 characters")
    if not _NAME.fullmatch(name):
        raise invalid("Name cannot contain a period, space, forward-slash, or control characters")
    return str(name)


def _three(full_name: Any) -> list[str]:
    levels = str(full_name).split(".")
    if len(levels) != 3:
        raise invalid(f"Invalid registered model name: {full_name}")
    return levels


def _made(by: str | None, *, owner: bool = False) -> Row:
    now = int(time.time() * 1000)
    made = {"created_at": now, "created_by": by, "updated_at": now, "updated_by": by, "id": str(uuid.uuid4())}
    turn = next(_TURNS)
    return made | ({"owner": by} if owner else {}) | {"_made": turn, "_changed": turn}


def _touched(row: Row, by: str | None) -> Row:
    row |= {"updated_at": int(time.time() * 1000), "updated_by": by, "_changed": next(_TURNS)}
    return row


def _remove(rows: list[Row], row: Row) -> None:
    rows[:] = [r for r in rows if r is not row]


def _is_in(model: Row, schema: Row) -> bool:
    return (model["catalog_name"], model["schema_name"]) == (schema["catalog_name"], schema["name"])


def _number(text: str, what: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise invalid(f"Invalid {what}: {text}")
    return int(text)


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise invalid(f"Invalid UUID string: {text}") from None


def _url(root: str) -> str:
    root = root.rstrip("/")
    return root if "://" in root else f"file://{Path(root).absolute()}"


def _java(value: Any) -> str:
    return "null" if value is None else str(value)
