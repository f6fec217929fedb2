"""What a workspace holds besides models and files: notebooks, serving endpoints, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_uc_models.emulator.privileges import Principal


class Notebooks:
    """What is in the workspace's folders; users may write below /Users/<name> and /Shared."""

    def __init__(self) -> None:
        self.sources: dict[str, bytes] = {}
        self.folders: set[str] = set()
        self.clear()

    def clear(self) -> None:
        """Forget everything but the folders that are always there."""
        self.sources.clear()
        self.folders = {"/", "/Users", "/Shared"}

    def find(self, principal: Principal, path: str) -> bytes | None:
        """Return the source of a notebook; None where there is none, or none that the principal may read."""
        clean = cleaned(path)
        return self.sources.get(clean) if may_use(principal, clean) else None


@dataclass(frozen=True)
class ServingEndpoint:
    """An endpoint.

    :param versions: what it serves: names of models with versions
    :param is_ready: it answers
    :param users: who may look at it; None for all
    :param traffic: percentages of the requests, one for each version; None if there is one only
    """

    name: str
    versions: Sequence[tuple[str, int]]
    is_ready: bool = True
    users: Sequence[str] | None = None
    traffic: Sequence[int] | None = None


class Endpoints:
    """The serving endpoints of a workspace."""

    def __init__(self) -> None:
        self.by_name: dict[str, ServingEndpoint] = {}

    def add(self, name: str, *versions: tuple[str, int], **options: Any) -> None:
        """Make an endpoint that serves these model versions; options are the other fields of ServingEndpoint."""
        self.by_name[name] = ServingEndpoint(name, versions, **options)

    def clear(self) -> None:
        """Forget all."""
        self.by_name.clear()


class Tables:
    """The tables of a workspace: their columns, no rows."""

    def __init__(self) -> None:
        self.columns: dict[str, dict[str, str]] = {}

    def add(self, name: str, columns: Mapping[str, str]) -> None:
        """Make a table with columns of these types, such as ``{"id": "bigint"}``."""
        self.columns[name.lower()] = dict(columns)

    def clear(self) -> None:
        """Forget all."""
        self.columns.clear()


def cleaned(path: str) -> str:
    """Return a path without the prefix that clients may leave out."""
    return path.removeprefix("/Workspace").rstrip("/") or "/"


def may_use(principal: Principal, path: str) -> bool:
    """Whether a principal may read and write at a path."""
    own = f"/Users/{principal.client_id or principal.name}"
    return (
        principal.is_admin or path in ("/", "/Users") or path.startswith("/Shared") or f"{path}/".startswith(f"{own}/")
    )
