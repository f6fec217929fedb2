"""What an open-source Unity Catalog server holds, and the rules by which it changes.

Each rule and text is that of the server of version 0.7.0-SNAPSHOT (August 2026), seen by running it; source: its
``ModelRepository``. Rows are the JSON of its answers; what starts with an underscore is kept for ourselves.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_uc_models.emulator.open_source_catalogs import Catalogs, is_in
from airflow_uc_models.emulator.open_source_races import Numbering, Twins
from airflow_uc_models.emulator.open_source_rows import (
    Row,
    ServerError,
    checked,
    fits,
    internal,
    invalid,
    java,
    levels_of,
    made,
    remove,
    storage_url,
    touched,
)

PENDING, READY = "PENDING_REGISTRATION", "READY"
PAGE = 100
_MAX_COMMENT, _MAX_TEXT = 65_535, 255


class Store(Catalogs):
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
        super().__init__()
        self.root = (
            None if root is None else storage_url(str(Path(root).absolute() if isinstance(root, Path) else root))
        )
        self.numbering = numbering or Numbering()
        self.twins = twins or Twins()
        self.page_size = page_size
        self.versions: list[Row] = []

    # -- registered models

    def create_model(self, body: Row, by: str | None) -> Row:
        """Create a registered model; where it will lie is decided now."""
        name = checked(body.get("name"))
        catalog_name, schema_name = body.get("catalog_name"), body.get("schema_name")
        full_name = f"{catalog_name}.{schema_name}.{name}"
        with self._unguarded():
            schema = self.schema(catalog_name, schema_name)
            storage = self._storage(schema)
            if self._find(catalog_name, schema_name, name):
                raise ServerError(409, "ALREADY_EXISTS", f"Registered model already exists: {full_name}")
        with self._lock:
            new = made(by)
            if not fits(body.get("comment"), _MAX_COMMENT):
                raise internal(f"Error creating registered model: {full_name}")
            row = {
                "name": name,
                "catalog_name": catalog_name,
                "schema_name": schema_name,
                "full_name": full_name,
                "storage_location": f"{storage}/models/{new['id']}",
                "comment": body.get("comment"),
                "owner": by,
                **new,
                "_last": 0,
            }
            self.models.append(row)
            return row

    def model(self, full_name: str, *, told: str | None = None) -> Row:
        """Return a registered model.

        :param told: how the message names it, where not by its full name
        """
        catalog_name, schema_name, name = levels_of(full_name, 3, "registered model")
        self.schema(catalog_name, schema_name)
        row = self._find(catalog_name, schema_name, name)
        if row is None:
            raise ServerError(404, "NOT_FOUND", f"Registered model not found: {told or full_name}")
        return row

    def update_model(self, full_name: str, body: Row, by: str | None) -> Row:
        """Change name or comment; identity, place and versions stay."""
        catalog_name, schema_name, _ = levels_of(full_name, 3, "registered model")
        new_name, comment = body.get("new_name"), body.get("comment")
        if new_name is not None:
            checked(new_name)
        if new_name is None and comment is None:
            raise invalid("No updated fields defined.")
        with self._lock:
            self.schema(catalog_name, schema_name)
            if new_name is not None and self._find(catalog_name, schema_name, new_name):
                new_full = f"{catalog_name}.{schema_name}.{new_name}"
                raise ServerError(409, "ALREADY_EXISTS", f"Registered model already exists: {new_full}")
            row = self.model(full_name)
            if not fits(comment, _MAX_COMMENT):
                raise internal(f"Error updating registered model: {full_name}")
            if comment is not None:
                row["comment"] = comment
            if new_name is not None:
                for version in self._versions(row):
                    version["model_name"] = new_name
                row |= {"name": new_name, "full_name": f"{catalog_name}.{schema_name}.{new_name}"}
            return touched(row, by)

    def delete_model(self, full_name: str, *, force: bool) -> None:
        """Delete a model; files stay where they are."""
        with self._lock:
            row = self.model(full_name)
            if self._versions(row) and not force:
                said = f"Unable to delete a registered model with existing model versions: {row['name']}"
                raise ServerError(409, "ABORTED", said)
            self._drop_model(row)

    def list_models(self, schema: Row | None, limit: int, token: str | None) -> tuple[list[Row], str | None]:
        """Return a page: of a schema by name, of all by id."""
        key, rank = "name" if schema else "id", Twins.rank(self.twins.listed)
        with self._lock:
            rows = [m for m in self.models if schema is None or is_in(m, schema)]
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
            model = self.model(full_name, told=java(name))
            number = model["_last"] + 1
        with self._lock:
            new = made(by)
            location = f"{model['storage_location']}/versions/{new['id']}"
            if location.startswith("file://"):
                Path(location.removeprefix("file://")).mkdir(parents=True)
            short = all(fits(body.get(field), _MAX_TEXT) for field in ("source", "run_id"))
            if not (short and fits(body.get("comment"), _MAX_COMMENT)):
                raise internal(f"Error creating model version for model: {full_name}")
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
                **new,
                "_model": model["id"],
            }
            model["_last"] = number  # where a slow one lowers it, the next one is given out again, too
            self.versions.append(row)
            return row

    def version(self, full_name: str, number: int, *, told: str | None = None) -> Row:
        """Return a version; one of them, where a number is not unique.

        :param told: how the message names a missing model, where not by its full name
        """
        model = self.model(full_name, told=told)
        if found := [v for v in self._versions(model) if v["version"] == number]:
            return min(found, key=Twins.rank(self.twins.reached))
        raise ServerError(404, "NOT_FOUND", f"Model version not found: {full_name}/{number}")

    def finalize(self, full_name: str | None, number: int | None, by: str | None) -> Row:
        """Declare a pending version complete; nobody looks for files."""
        if full_name is None:
            raise invalid("No three tier full name specified.")
        if number is None:
            raise invalid("No version specified.")
        with self._lock:
            row = self.version(full_name, number, told=full_name.rpartition(".")[2])
            if row["status"] != PENDING:
                raise invalid(f"Model version not in a pending registration state: {full_name}/{number}")
            row["status"] = READY
            return touched(row, by)

    def update_version(self, full_name: str, number: int, body: Row, by: str | None) -> Row:
        """Change the comment."""
        if number < 1:
            raise invalid(f"No valid model version specified: {number}")
        if body.get("comment") is None:
            raise invalid("No updated fields defined.")
        with self._lock:
            row = self.version(full_name, number, told=full_name.rpartition(".")[2])
            if not fits(body["comment"], _MAX_COMMENT):
                raise internal(f"Error updating model version: {full_name}/{number}")
            row["comment"] = body["comment"]
            return touched(row, by)

    def delete_version(self, full_name: str, number: int) -> None:
        """Delete a version; where the number is not unique, one of them."""
        with self._lock:
            remove(self.versions, self.version(full_name, number, told=full_name.rpartition(".")[2]))

    def list_versions(self, model: Row, limit: int, token: str | None) -> tuple[list[Row], str | None]:
        """Return a page, ascending."""
        after = -1 if token is None else _number(token)
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
        remove(self.models, model)

    def _storage(self, schema: Row) -> str:
        """Return the managed location: of the schema, else of its catalog, else of the server."""
        for owner in (schema, self.catalog(schema["catalog_name"])):
            if owner["storage_location"]:
                return str(owner["storage_location"])
        if self.root:
            return f"{self.root}/__unitystorage"
        raise ServerError(
            400,
            "FAILED_PRECONDITION",
            "None of catalog, schema or storage-root.tables server property has managed location configured.",
        )


def _number(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise invalid(f"Invalid page token received: {text}")
    return int(text)


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise invalid(f"Invalid page token received: {text}") from None
