"""What lies in the database of a running Airflow, where its API does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import Any

import sqlalchemy

from scripts.demo.databases import Postgres, Sqlite


@cache
def _engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)


def rows(database: Postgres | Sqlite, query: str, **values: Any) -> list[tuple[Any, ...]]:
    """What the database answers; a list among the values stands for ``IN :name``."""
    lists = [sqlalchemy.bindparam(name, expanding=True) for name, value in values.items() if isinstance(value, list)]
    with _engine(database.url).connect() as connection:
        found = connection.execute(sqlalchemy.text(query).bindparams(*lists), values)
        return [tuple(row) for row in found]


def contents(database: Postgres | Sqlite) -> Iterator[tuple[str, bytes]]:
    """Each table with all that it holds, as it went in: PostgreSQL compresses long values on disk."""
    if isinstance(database, Sqlite):
        return  # its file holds them as they are
    raw = _engine(database.url).raw_connection()
    try:
        cursor = raw.cursor()
        for table in sqlalchemy.inspect(_engine(database.url)).get_table_names():
            content = BytesIO()
            cursor.copy_expert(f'COPY "{table}" TO STDOUT (FORMAT binary)', content)
            yield table, content.getvalue()
    finally:
        raw.close()
