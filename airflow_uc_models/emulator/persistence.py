"""Objects as JSON in a SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Database:
    """A table of objects by kind and key; each call is a transaction of its own.

    :param path: the file, made if missing
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS objects (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key))"
        )

    def save(self, kind: str, key: str, value: Any) -> None:
        """Keep an object in place of the one of that key."""
        self._connection.execute("REPLACE INTO objects VALUES (?, ?, ?)", (kind, key, json.dumps(value)))

    def delete(self, kind: str, key: str) -> None:
        """Forget an object."""
        self._connection.execute("DELETE FROM objects WHERE kind = ? AND key = ?", (kind, key))

    def clear(self) -> None:
        """Forget everything."""
        self._connection.execute("DELETE FROM objects")

    def load(self) -> Iterator[tuple[str, str, Any]]:
        """Return all objects: kind, key and value."""
        for kind, key, value in self._connection.execute("SELECT kind, key, value FROM objects").fetchall():
            yield kind, key, json.loads(value)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
