"""The calls of a Databricks workspace's Files API about addresses and folders; the files go to the addresses."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from airflow_uc_models.exceptions import NotFoundError
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.mlflow_rest import MlflowRestRegistry

_FS = "/api/2.0/fs"


@dataclass(frozen=True, slots=True)
class Address:
    """A presigned address, which is a credential, and the headers to send along."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of a folder; ``size`` is 0 where it is not told."""

    path: str
    is_directory: bool
    size: int


def upload_address(registry: MlflowRestRegistry, path: str, needs: str) -> Call[Address]:
    """Return where to PUT a file."""
    return _address(registry, "create-upload-url", path, f"get an address to upload {path}", needs)


def download_address(registry: MlflowRestRegistry, path: str, needs: str) -> Call[Address]:
    """Return where to GET a file."""
    return _address(registry, "create-download-url", path, f"get an address to download {path}", needs)


def _address(registry: MlflowRestRegistry, verb: str, path: str, action: str, needs: str) -> Call[Address]:
    return registry.ask("POST", f"{_FS}/{verb}", {"path": path}, action, needs, _read_address)


def _read_address(body: Mapping[str, Any]) -> Address:
    return Address(body["url"], {header["name"]: header["value"] for header in body.get("headers") or []})


def directory(registry: MlflowRestRegistry, path: str, needs: str) -> Generator[Any, Any, list[Entry]]:
    """List a folder; a file, or what does not exist, holds nothing."""
    query: dict[str, Any] = {}
    found: list[Entry] = []
    while True:
        try:
            entries, token = yield from registry.ask(
                "GET", f"{_FS}/directories{quote(path)}", query, f"list the folder {path}", needs, _read_directory
            )
        except NotFoundError as error:
            if error.error_code == "NOT_FOUND":
                return []
            raise
        found += entries
        if not token or token == query.get("page_token"):
            return found
        query = {"page_token": token}


def _read_directory(body: Mapping[str, Any]) -> tuple[list[Entry], str | None]:
    listed = body.get("contents") or []
    entries = [Entry(i["path"], bool(i.get("is_directory")), int(i.get("file_size") or 0)) for i in listed]
    return entries, body.get("next_page_token")
