"""What all parts of the open-source flavor share: rows, errors, names, and addresses of storage."""

from __future__ import annotations

import re
import time
import uuid
from itertools import count
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_NAME = re.compile(r"[a-zA-Z0-9_@-]+")
_MAX_NAME = 255
_TURNS = count()
_SCHEMES = ("file", "s3", "gs", "abfs", "abfss")


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


def internal(message: str) -> ServerError:
    """Build the answer to what the server does not expect, such as a text that its column does not take."""
    return ServerError(500, "INTERNAL", message)


def checked(name: Any) -> str:
    """Return a name that is allowed (``ValidationUtils.validateSqlObjectName``)."""
    if not name:
        raise invalid("Name cannot be empty")
    if len(name) > _MAX_NAME:
        raise invalid("Name cannot be longer than 255 characters")
    if not _NAME.fullmatch(name):
        raise invalid("Name cannot contain a period, space, forward-slash, or control characters")
    return str(name)


def fits(text: str | None, most: int) -> bool:
    """Whether a column of so many characters takes a text; its database counts as Java does."""
    return len((text or "").encode("utf-16-le", "surrogatepass")) // 2 <= most


def levels_of(full_name: Any, count: int, what: str) -> list[str]:
    """Split a full name as Java does, which drops what is empty at the end."""
    levels = str(full_name).rstrip(".").split(".")
    if len(levels) != count:
        raise invalid(f"Invalid {what} name: {full_name}")
    return levels


def made(by: str | None) -> Row:
    """Return the fields that every new row has."""
    now, turn = int(time.time() * 1000), next(_TURNS)
    row = {"created_at": now, "created_by": by, "updated_at": now, "updated_by": by, "id": str(uuid.uuid4())}
    return row | {"_made": turn, "_changed": turn}


def touched(row: Row, by: str | None) -> Row:
    """Note a change of a row, and return it."""
    row |= {"updated_at": int(time.time() * 1000), "updated_by": by, "_changed": next(_TURNS)}
    return row


def remove(rows: list[Row], row: Row) -> None:
    """Take one row out of a list, and no other that is equal to it."""
    rows[:] = [r for r in rows if r is not row]


def storage_url(root: str) -> str:
    """Return an address of storage in the form that the server gives it (``NormalizedURL``)."""
    if not root:
        raise invalid("Path cannot be null or empty")
    scheme, separator, _ = root.partition(":/")
    if not separator:
        if "/" not in root:
            raise invalid(f"Ambiguous path: {root}")
        return f"file://{Path(root).absolute()}"
    if scheme not in _SCHEMES:
        raise invalid(f"Unsupported URI scheme: {scheme}")
    return root.rstrip("/")


def java(value: Any) -> str:
    """Return a value as Java puts it into a text."""
    return "null" if value is None else str(value)


def public(row: Row) -> Row:
    """Return a row as it is answered."""
    return {key: value for key, value in row.items() if not key.startswith("_")}
