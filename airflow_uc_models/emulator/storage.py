"""Presigned URLs: files of model versions by URLs that need no token, whole or in parts."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import Response

from airflow_uc_models.emulator.errors import ApiError, invalid
from airflow_uc_models.emulator.files import existing, place, send
from airflow_uc_models.emulator.routing import Call, json_object, route
from airflow_uc_models.emulator.workspace import Workspace

_STORAGE = "/storage/{path:path}"
_FS = "/api/2.0/fs"
_MLFLOW = "mlflow/store/artifact/presigned_url_artifact_repo.py"
_SDK = "databricks-sdk mixins/files.py"
# Azure refuses an upload without it; clients must send back the headers they are given
_UPLOAD_HEADER = ("x-ms-blob-type", "BlockBlob")


@dataclass
class Upload:
    """A multipart upload: its parts on disk and their ETags, by number."""

    path: str
    overwrite: bool
    parts: dict[int, tuple[Path, str]] = field(default_factory=dict)


class Storage:
    """URLs signed with a key of this server's."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._key = secrets.token_bytes(32)
        self._uploads: dict[str, Upload] = {}

    # -- asking for URLs

    @route("POST", f"{_FS}/create-upload-url", source=_MLFLOW)
    def upload_url(self, call: Call) -> Any:
        """Return a URL to PUT a file to, and a header that must be sent along."""
        path = self._granted(call, "write_files")
        name, value = _UPLOAD_HEADER
        return {"url": self._sign("PUT", path), "headers": [{"name": name, "value": value}]}

    @route("POST", f"{_FS}/create-download-url", source=f"{_MLFLOW} (JSON body); {_SDK} (query)")
    def download_url(self, call: Call) -> Any:
        """Return a URL to GET a file from."""
        if not self.workspace.settings.download_urls:
            raise ApiError(404, "ENDPOINT_NOT_FOUND", "No API found for 'POST /fs/create-download-url'")
        path = self._granted(call, "read")
        existing(place(self.workspace, path, call.principal, "read").file)
        return {"url": self._sign("GET", path), "headers": []}

    def _granted(self, call: Call, operation: str) -> str:
        return place(self.workspace, str(call.need("path")), call.principal, operation).full

    # -- multipart uploads

    @route("POST", f"{_FS}/files/{{path:path}}", source=_SDK, raw=True)
    async def multipart(self, call: Call) -> Any:
        """Begin or complete a multipart upload, as ``action`` says; 404 where the settings switch it off."""
        action = call.get("action")
        if self.workspace.settings.multipart == "off" or action not in {"initiate-upload", "complete-upload"}:
            raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for 'POST {call.request.url.path}'")
        target = place(self.workspace, call.path["path"], call.principal, "write_files")
        if action == "initiate-upload":
            self.workspace.files.refuse_overwriting(target.file, overwrite=call.flag("overwrite"))
            token = uuid.uuid4().hex
            self._uploads[token] = Upload(target.full, call.flag("overwrite"))
            return {"multipart_upload": {"session_token": token}}
        upload = self._upload(call.get("session_token"), target.full)
        listed = (await json_object(call.request)).get("parts") or []
        kept = [_part(upload, item) for item in sorted(listed, key=lambda item: int(item["part_number"]))]
        if not kept:
            raise invalid("A multipart upload needs at least one part.")
        self.workspace.files.refuse_overwriting(target.file, overwrite=upload.overwrite)
        self._uploads.pop(str(call.get("session_token")))
        await asyncio.to_thread(self.workspace.files.join, kept, target.file)
        return {}

    @route("POST", f"{_FS}/create-upload-part-urls", source=_SDK)
    def part_urls(self, call: Call) -> Any:
        """Return URLs to PUT parts to."""
        path, token = self._granted(call, "write_files"), str(call.need("session_token"))
        self._upload(token, path)
        first, count = int(call.need("start_part_number")), int(call.need("count"))
        numbers = range(first, first + count)
        urls = [
            {"part_number": n, "url": self._sign("PUT", path, session=token, part=n), "headers": []} for n in numbers
        ]
        return {"upload_part_urls": urls}

    @route("POST", f"{_FS}/create-abort-upload-url", source=_SDK)
    def abort_url(self, call: Call) -> Any:
        """Return a URL that drops a multipart upload when DELETEd."""
        path, token = self._granted(call, "write_files"), str(call.need("session_token"))
        self._upload(token, path)
        return {"abort_upload_url": {"url": self._sign("DELETE", path, session=token), "headers": []}}

    def _upload(self, token: Any, path: str) -> Upload:
        upload = self._uploads.get(str(token))
        if upload is None or upload.path != path:
            raise invalid("The session token of the multipart upload is not valid.")
        return upload

    # -- the URLs themselves

    @route("PUT", _STORAGE, source="docs.aws.amazon.com, Amazon S3 PutObject, UploadPart", anonymous=True, raw=True)
    async def put(self, call: Call) -> Response:
        """Take a file, or a part of one, by a signed URL."""
        if refusal := self._refusal(call):
            return refusal
        path, pieces = call.path["path"], call.request.stream()
        target = place(self.workspace, path, self.workspace.admin, "write_files")
        etag = f'"{uuid.uuid4().hex}"'
        if not call.get("session"):
            name, value = _UPLOAD_HEADER
            if call.request.headers.get(name) != value:
                return _cloud_error(400, "MissingRequiredHeader", f"The header {name} is missing.")
            await self.workspace.files.write(target.file, pieces)
            return Response(status_code=200, headers={"ETag": etag})
        upload = self._upload(call.get("session"), target.full)
        part = self.workspace.files.temporary()
        await self.workspace.files.write(part, pieces)
        upload.parts[int(call.need("part"))] = (part, etag)
        return Response(status_code=200, headers={"ETag": etag})

    @route("GET", _STORAGE, source="docs.aws.amazon.com, Amazon S3 GetObject", anonymous=True, raw=True)
    def get(self, call: Call) -> Response:
        """Send a file, or a range of it, by a signed URL."""
        if refusal := self._refusal(call):
            return refusal
        file = place(self.workspace, call.path["path"], self.workspace.admin, "read").file
        return send(self.workspace, call.request, file)

    @route("DELETE", _STORAGE, source="docs.aws.amazon.com, AbortMultipartUpload", anonymous=True, raw=True)
    def abort(self, call: Call) -> Response:
        """Drop a multipart upload by a signed URL."""
        if refusal := self._refusal(call):
            return refusal
        upload = self._uploads.pop(str(call.get("session")), None)
        for part, _ in upload.parts.values() if upload else ():
            part.unlink(missing_ok=True)
        return Response(status_code=200)

    def _sign(self, method: str, path: str, **more: Any) -> str:
        query = {key: str(value) for key, value in more.items()}
        query["expires"] = f"{time.time() + self.workspace.settings.url_seconds:.3f}"
        query["signature"] = self._signature(method, path, query)
        return f"{self.workspace.url}/storage{quote(path)}?{urlencode(query)}"

    def _signature(self, method: str, path: str, query: dict[str, str]) -> str:
        signed = "\n".join([method, path, *(f"{k}={v}" for k, v in sorted(query.items()) if k != "signature")])
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()

    def _refusal(self, call: Call) -> Response | None:
        query = dict(call.request.query_params)
        expected = self._signature(call.request.method, f"/{call.path['path']}", query)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
            return _cloud_error(403, "SignatureDoesNotMatch", "The signature does not match.")
        if float(query["expires"]) < time.time():
            return _cloud_error(403, "AccessDenied", "Request has expired")
        return None


def _part(upload: Upload, item: dict[str, Any]) -> Path:
    number = int(item["part_number"])
    path, etag = upload.parts.get(number, (Path(), ""))
    if not etag or item.get("etag") != etag:
        raise invalid(f"Part {number} of the multipart upload was not found or has another ETag.")
    return path


def _cloud_error(status: int, code: str, message: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(body, status, media_type="application/xml")
