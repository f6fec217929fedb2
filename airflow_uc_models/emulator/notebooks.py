"""Notebooks and folders of a workspace."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from airflow_uc_models.emulator.contents import cleaned, may_use
from airflow_uc_models.emulator.errors import denied, exists, invalid, missing
from airflow_uc_models.emulator.privileges import Principal
from airflow_uc_models.emulator.routing import Call, json_object, route
from airflow_uc_models.emulator.workspace import Workspace

_SDK = "databricks-sdk service/workspace.py, WorkspaceAPI"
_HEADER = b"# Databricks notebook source"


class NotebookRoutes:
    """Import and look; only Python notebooks in source form."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.notebooks = workspace.notebooks

    @route("POST", "/api/2.0/workspace/import", source=f"{_SDK}.import_; mixins/workspace.py, upload", raw=True)
    async def put(self, call: Call) -> Any:
        """Import a notebook, from JSON with base64 content or from a form with a file."""
        fields, content = await _imported(call)
        path = self._allowed(call.principal, fields.get("path"))
        if (fields.get("format") or "SOURCE", fields.get("language")) != ("SOURCE", "PYTHON"):
            raise invalid("The emulator takes Python notebooks in SOURCE format.")
        if _parent(path) not in self.notebooks.folders:
            raise missing(f"The parent folder ({_parent(path)}) does not exist.")
        if path in self.notebooks.folders:
            raise exists(f"Path ({path}) is a folder.")
        if path in self.notebooks.sources and str(fields.get("overwrite", "")).lower() != "true":
            raise exists(f"Path ({path}) already exists.")
        self.notebooks.sources[path] = content.removeprefix(_HEADER).lstrip(b"\n")
        return {}

    @route("POST", "/api/2.0/workspace/mkdirs", source=f"{_SDK}.mkdirs")
    def make_folders(self, call: Call) -> Any:
        """Make a folder and those above it."""
        path = self._allowed(call.principal, call.need("path"))
        while path != "/":
            if path in self.notebooks.sources:
                raise exists(f"Path ({path}) is a notebook.")
            self.notebooks.folders.add(path)
            path = _parent(path)
        return {}

    @route("GET", "/api/2.0/workspace/get-status", source=f"{_SDK}.get_status")
    def status(self, call: Call) -> Any:
        """Tell what is at a path."""
        path = self._allowed(call.principal, call.need("path"))
        if path in self.notebooks.folders:
            return {"object_type": "DIRECTORY", "path": path}
        if path not in self.notebooks.sources:
            raise missing(f"Path ({path}) doesn't exist.")
        return {"object_type": "NOTEBOOK", "language": "PYTHON", "path": path}

    def _allowed(self, principal: Principal, path: Any) -> str:
        clean = cleaned(str(path or ""))
        if not clean.startswith("/"):
            raise invalid(f"Path ({path}) should start with '/'.")
        if not may_use(principal, clean):
            raise denied(f"{principal.name} does not have permission on {clean}.")
        return clean


async def _imported(call: Call) -> tuple[dict[str, Any], bytes]:
    """Return the fields and the content of a request to import."""
    if call.request.headers.get("content-type", "").startswith("multipart/"):
        async with call.request.form() as form:
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
            content = form["content"]
            return fields, content.encode() if isinstance(content, str) else await content.read()
    fields = await json_object(call.request)
    try:
        return fields, base64.b64decode(fields.get("content") or "", validate=True)
    except binascii.Error:
        raise invalid("content must be base64.") from None


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"
