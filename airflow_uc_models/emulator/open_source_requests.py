"""Bodies and parameters of requests, as the open-source server's web framework reads them, and answers.

Source: seen by running it; the request models of its ``api/all.yaml``, read by Jackson, and Armeria's services.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from airflow_uc_models.emulator.open_source_access import Guard
from airflow_uc_models.emulator.open_source_rows import Row, invalid, public
from airflow_uc_models.emulator.open_source_store import Store

_OPERATIONS = ("READ_MODEL_VERSION", "READ_WRITE_MODEL_VERSION", "UNKNOWN_MODEL_VERSION_OPERATION")
_TOKENS: dict[type, str] = {
    list: "Array value (token `JsonToken.START_ARRAY`)",
    dict: "Object value (token `JsonToken.START_OBJECT`)",
}
_FAILED = "failed to parse a JSON document: com.fasterxml.jackson"
_TEXTS = {
    "CreateCatalog": "name comment storage_root",
    "UpdateCatalog": "new_name comment",
    "CreateSchema": "name catalog_name comment storage_root",
    "UpdateSchema": "new_name comment",
    "CreateRegisteredModel": "name catalog_name schema_name comment",
    "UpdateRegisteredModel": "new_name comment",
    "CreateModelVersion": "model_name catalog_name schema_name source run_id comment",
    "UpdateModelVersion": "comment",
    "FinalizeModelVersion": "full_name",
    "GenerateTemporaryModelVersionCredential": "catalog_name schema_name model_name",
    "UpdatePermissions": "",
    "CreateUser": "",
}


def body_of(kind: str) -> Callable[[Request], Awaitable[Row]]:
    """Return a dependency that reads a JSON body of a request model; fields that nobody knows are ignored later on."""
    texts = _TEXTS[kind].split()

    async def read(request: Request) -> Row:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip()
        if not re.fullmatch(r"application/(.+\+)?json", content_type):
            raise invalid(f"No suitable request converter found for a @RequestObject '{kind}'")
        body = _parsed(await request.body(), kind)
        fields = {key: _text(value) if key in texts else value for key, value in body.items()}
        if "version" in fields:
            fields["version"] = _long(fields["version"])
        if not isinstance(fields.get("properties"), dict | None):
            raise _mismatch("java.util.LinkedHashMap<java.lang.String,java.lang.String>", fields["properties"])
        if fields.get("operation") not in (None, *_OPERATIONS):
            raise invalid(
                f"{_FAILED}.databind.exc.ValueInstantiationException: Cannot construct instance of "
                "`io.unitycatalog.server.model.ModelVersionOperation`, problem: Unexpected value "
                f"'{fields['operation']}'"
            )
        return fields

    return read


def _parsed(content: bytes, kind: str) -> Row:
    if not content.strip():
        raise invalid(f"{_FAILED}.databind.exc.MismatchedInputException: No content to map due to end-of-input")
    try:
        body = json.loads(content)
    except ValueError as error:
        raise invalid(f"{_FAILED}.core.JsonParseException: {error}") from None
    if body is None:
        raise invalid(
            "A request converter converted the request into null, but the injection target is neither an Optional nor "
            "annotated with @Nullable"
        )
    if not isinstance(body, dict):
        raise _mismatch(f"io.unitycatalog.server.model.{kind}", body)
    return body


def _mismatch(java_type: str, value: Any) -> Exception:
    found = _TOKENS.get(type(value), f"value {value!r}")
    said = f"Cannot deserialize value of type `{java_type}` from {found}"
    return invalid(f"{_FAILED}.databind.exc.MismatchedInputException: {said}")


def _text(value: Any) -> str | None:
    """Return a text; numbers and truth values are taken for theirs."""
    if isinstance(value, list | dict):
        raise _mismatch("java.lang.String", value)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _long(value: Any) -> int | None:
    """Return a whole number; what comes after a point is cut off."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
        return int(value)
    if isinstance(value, bool | str | list | dict):
        raise _mismatch("java.lang.Long", value)
    return None if value is None else int(value)


def boolean(value: str | None) -> bool:
    """Return a parameter that is true or false, and false where it is missing."""
    known = {"": False, "true": True, "1": True, "false": False, "0": False}
    if (value or "").lower() not in known:
        raise invalid(f"Can't convert '{value}' to type 'Boolean'.")
    return known[(value or "").lower()]


def number(value: str) -> int:
    """Return a whole number of a path."""
    if not re.fullmatch(r"[+-]?\d{1,18}", value):
        raise invalid(f'For input string: "{value}"')
    return int(value)


def page_limit(value: str | None, most: int) -> int:
    """Return how many items a page has: at most and by default as many as the server gives."""
    if not value:
        return most
    if not re.fullmatch(r"[+-]?\d{1,10}", value) or not -(2**31) <= int(value) < 2**31:
        raise invalid(f'For input string: "{value}"')
    if int(value) < 0:
        raise invalid("maxResults must be greater than or equal to 0")
    return min(int(value) or most, most)


# -- what routes ask for


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _guard(request: Request) -> Guard:
    return Guard(request.app.state.store, request.app.state.access, request.state.user)


def _force(force: str | None = None) -> bool:
    return boolean(force)


def _limit(request: Request, max_results: str | None = None) -> int:
    return page_limit(max_results, _store(request).page_size)


def _number(version: str) -> int:
    return number(version)


State = Annotated[Store, Depends(_store)]
Guarded = Annotated[Guard, Depends(_guard)]
Force = Annotated[bool, Depends(_force)]
Limit = Annotated[int, Depends(_limit)]
Number = Annotated[int, Depends(_number)]
NewModel = Annotated[Row, Depends(body_of("CreateRegisteredModel"))]
NewVersion = Annotated[Row, Depends(body_of("CreateModelVersion"))]
ModelChange = Annotated[Row, Depends(body_of("UpdateRegisteredModel"))]
VersionChange = Annotated[Row, Depends(body_of("UpdateModelVersion"))]
Finalized = Annotated[Row, Depends(body_of("FinalizeModelVersion"))]
CredentialsWanted = Annotated[Row, Depends(body_of("GenerateTemporaryModelVersionCredential"))]
NewCatalog = Annotated[Row, Depends(body_of("CreateCatalog"))]
CatalogChange = Annotated[Row, Depends(body_of("UpdateCatalog"))]
NewSchema = Annotated[Row, Depends(body_of("CreateSchema"))]
SchemaChange = Annotated[Row, Depends(body_of("UpdateSchema"))]
GrantChanges = Annotated[Row, Depends(body_of("UpdatePermissions"))]
NewUser = Annotated[Row, Depends(body_of("CreateUser"))]


# -- answers


def as_json(row: Row) -> Response:
    """Answer with a row."""
    return JSONResponse(public(row))


def as_page(field: str, rows: list[Row], token: str | None) -> Response:
    """Answer with a page."""
    return JSONResponse({field: [public(row) for row in rows], "next_page_token": token})


def by_name(rows: list[Row], limit: int, token: str) -> tuple[list[Row], str | None]:
    """Return a page of rows after a name, and the token of the next one."""
    found = sorted((row for row in rows if row["name"] > token), key=lambda row: str(row["name"]))[:limit]
    return found, found[-1]["name"] if len(found) == limit else None


def deleted() -> Response:
    """Answer to a deletion, and in plain text."""
    return PlainTextResponse("200 OK")
