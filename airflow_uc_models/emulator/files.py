"""Files of model versions below ``/Models/<catalog>/<schema>/<model>/<version>``: the Files API."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from airflow_uc_models.emulator.errors import ApiError, invalid, missing, wrong_state
from airflow_uc_models.emulator.routing import Call, route
from airflow_uc_models.emulator.state import PENDING
from airflow_uc_models.emulator.workspace import Workspace

_FILES, _DIRECTORIES = "/api/2.0/fs/files/{path:path}", "/api/2.0/fs/directories/{path:path}"
_SDK = "databricks-sdk service/files.py, FilesAPI"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MOST_ENTRIES = 1000


@dataclass(frozen=True)
class Place:
    """Where a path below /Models leads to.

    :param full: the path as clients name it
    :param file: the path on disk
    """

    full: str
    file: Path


def place(workspace: Workspace, call_path: str, principal: Any, operation: str) -> Place:
    """Resolve a path after a check of privileges and state."""
    full = f"/{call_path.strip('/')}"
    parts = full.split("/")[1:]
    if parts[0] != "Models" or len(parts) < 5:
        raise invalid(f"{full} is not a path of a model version: /Models/<catalog>/<schema>/<model>/<version>/...")
    model, version = workspace.catalog.version(principal, ".".join(parts[1:4]), parts[4], operation)
    writing = operation == "write_files"
    if writing and version.status != PENDING and not workspace.settings.write_ready_versions:
        raise wrong_state(f"The files of model version {parts[4]} of '{model.name}' cannot change: it is READY.")
    return Place(full, workspace.files.path(model.id, version.version, "/".join(parts[5:])))


class Files:
    """Files and directories by path; a directory is there once a file is in it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route("PUT", _FILES, source=f"{_SDK}.upload", raw=True)
    async def upload(self, call: Call) -> Response:
        """Write a file of a pending version; without overwrite=true an existing one is ALREADY_EXISTS."""
        target = self._place(call, "write_files")
        await self.workspace.files.write(target.file, call.request.stream(), overwrite=call.flag("overwrite"))
        return Response(status_code=204)

    @route("HEAD", _FILES, source=f"{_SDK}.get_metadata", raw=True)
    def metadata(self, call: Call) -> Response:
        """Answer with the size and time of a file in headers."""
        file = existing(self._place(call, "read").file)
        return Response(headers=file_headers(file))

    @route("GET", _FILES, source=f"{_SDK}.download", raw=True)
    def download(self, call: Call) -> Response:
        """Send a file, or the range asked for."""
        return send(self.workspace, call.request, self._place(call, "read").file)

    @route("DELETE", _FILES, source=f"{_SDK}.delete", raw=True)
    def delete(self, call: Call) -> Response:
        """Delete a file of a pending version."""
        existing(self._place(call, "write_files").file).unlink()
        return Response(status_code=204)

    @route("HEAD", _DIRECTORIES, source=f"{_SDK}.get_directory_metadata", raw=True)
    def directory_metadata(self, call: Call) -> Response:
        """Say whether a directory exists."""
        found = self._place(call, "read")
        self._listable(found)
        return Response()

    @route(
        "GET", _DIRECTORIES, source=f"{_SDK}.list_directory_contents; mlflow presigned_url_artifact_repo.py", raw=True
    )
    def list_directory(self, call: Call) -> Any:
        """List a directory, at most 1000 entries a page."""
        found = self._place(call, "read")
        entries = self._listable(found)
        size = min(
            int(call.get("page_size") or 0) or _MOST_ENTRIES, self.workspace.settings.page_limit or _MOST_ENTRIES
        )
        after = str(call.get("page_token") or "")
        rest = [entry for entry in entries if entry.name > after]
        contents = []
        for entry in rest[:size]:
            item: dict[str, Any] = {"path": f"{found.full}/{entry.name}", "name": entry.name}
            item |= {"is_directory": entry.is_directory, "last_modified": entry.modified}
            contents.append(item if entry.is_directory else item | {"file_size": entry.size})
        token = {"next_page_token": rest[size - 1].name} if len(rest) > size else {}
        return {"contents": contents} | token if contents else {}

    @route("PUT", _DIRECTORIES, source=f"{_SDK}.create_directory", raw=True)
    def create_directory(self, call: Call) -> Response:
        """Make a directory and those above it."""
        self._place(call, "write_files").file.mkdir(parents=True, exist_ok=True)
        return Response(status_code=204)

    def _listable(self, found: Place) -> list[Any]:
        is_root = found.full.count("/") == 5
        return [] if is_root and not found.file.exists() else self.workspace.files.entries(found.file)

    def _place(self, call: Call, operation: str) -> Place:
        return place(self.workspace, call.path["path"], call.principal, operation)


def existing(file: Path) -> Path:
    """Return the file if it is one."""
    if not file.is_file():
        raise missing("The file being accessed is not found.", "NOT_FOUND")
    return file


def file_headers(file: Path) -> dict[str, str]:
    """Return the headers that describe a file."""
    stat = file.stat()
    return {
        "content-length": str(stat.st_size),
        "content-type": "application/octet-stream",
        "last-modified": formatdate(stat.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
    }


def send(workspace: Workspace, request: Request, path: Path) -> Response:
    """Send a file or the range of it that the request asks for."""
    file = existing(path)
    size = file.stat().st_size
    start, end, status = 0, size, 200
    headers = file_headers(file)
    if (asked := request.headers.get("range")) and (match := _RANGE.fullmatch(asked)):
        start, end = _span(match[1], match[2], size)
        status = 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    return StreamingResponse(_pieces(workspace, file, start, end), status, headers)


async def _pieces(workspace: Workspace, file: Path, start: int, end: int) -> AsyncIterator[bytes]:
    for piece in workspace.files.read(file, start, end):
        yield piece


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last or 0)), size
    start, end = int(first), min(int(last) + 1 if last else size, size)
    if start >= end:
        raise ApiError(416, "INVALID_PARAMETER_VALUE", "The requested range is not satisfiable.")
    return start, end
