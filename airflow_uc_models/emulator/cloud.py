"""Cloud storage behind vended credentials: as much of Amazon S3 as mlflow's client needs, below ``/s3``."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from xml.sax.saxutils import escape

from starlette.responses import Response

from airflow_uc_models.emulator.credentials import Vended
from airflow_uc_models.emulator.files import file_headers, send
from airflow_uc_models.emulator.routing import Call, route
from airflow_uc_models.emulator.workspace import Workspace

_BUCKET = "/s3/{bucket}"
_OBJECT = f"{_BUCKET}/{{key:path}}"
_DOCS = "docs.aws.amazon.com, Amazon S3 API"
_KEY_ID = re.compile(r"Credential=([^/]+)/")
_REGION = {"x-amz-bucket-region": "us-east-1"}


class Cloud:
    """Objects are the files of model versions; credentials reach those of one version, for a while."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route("HEAD", _BUCKET, source=f"{_DOCS}, HeadBucket", anonymous=True, raw=True)
    def region(self, _: Call) -> Response:
        """Say in which region the bucket is."""
        return Response(headers=_REGION)

    @route("GET", _BUCKET, source=f"{_DOCS}, ListObjectsV2", anonymous=True, raw=True)
    def list_objects(self, call: Call) -> Response:
        """List the objects below a prefix, on one page."""
        prefix = str(call.get("prefix") or "")
        root = self._file(call, prefix)
        if isinstance(root, Response):
            return root
        items = []
        for entry in self.workspace.files.entries(root) if root.is_dir() else []:
            name = escape(prefix + entry.name)
            if entry.is_directory:
                items.append(f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>")
            else:
                items.append(f"<Contents><Key>{name}</Key><Size>{entry.size}</Size></Contents>")
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
        return Response(body, media_type="application/xml")

    @route("HEAD", _OBJECT, source=f"{_DOCS}, HeadObject", anonymous=True, raw=True)
    def metadata(self, call: Call) -> Response:
        """Answer with the size of an object in headers."""
        file = self._file(call, call.path["key"])
        if isinstance(file, Response):
            return file
        return Response(headers={**file_headers(file), "etag": '"0"'}) if file.is_file() else Response(status_code=404)

    @route("GET", _OBJECT, source=f"{_DOCS}, GetObject", anonymous=True, raw=True)
    def get(self, call: Call) -> Response:
        """Send an object, or a range of it."""
        file = self._file(call, call.path["key"])
        if isinstance(file, Response):
            return file
        if not file.is_file():
            return _refusal(404, "NoSuchKey", "The specified key does not exist.")
        return send(self.workspace, call.request, file)

    @route("PUT", _OBJECT, source=f"{_DOCS}, PutObject", anonymous=True, raw=True)
    async def put(self, call: Call) -> Response:
        """Take an object, also in signed chunks."""
        file = self._file(call, call.path["key"], write=True)
        if isinstance(file, Response):
            return file
        pieces = call.request.stream()
        is_chunked = "aws-chunked" in call.request.headers.get("content-encoding", "")
        await self.workspace.files.write(file, _unchunked(pieces) if is_chunked else pieces)
        return Response(headers={"etag": '"0"'})

    def _file(self, call: Call, key: str, *, write: bool = False) -> Path | Response:
        """Return the file of an object, or why these credentials do not reach it."""
        headers = call.request.headers
        found = _KEY_ID.search(headers.get("authorization", ""))
        vended: Vended | None = self.workspace.vended.get(found[1]) if found else None
        if vended is None:
            return _refusal(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
        if headers.get("x-amz-security-token") != vended.session_token:
            return _refusal(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
        if vended.until < time.time():
            return _refusal(400, "ExpiredToken", "The provided token has expired.")
        location = f"s3://{call.path['bucket']}/{key}".rstrip("/")
        if not f"{location}/".startswith(f"{vended.location}/") or (write and not vended.write):
            return _refusal(403, "AccessDenied", "Access Denied")
        relative = location.removeprefix(vended.location)
        return self.workspace.files.path(vended.model_id, vended.version, relative)


def _refusal(status: int, code: str, message: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(body, status, headers=_REGION, media_type="application/xml")


async def _unchunked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what a body in the content encoding ``aws-chunked`` holds; small files, so it is read first."""
    body = b"".join([piece async for piece in pieces])
    while body:
        head, _, body = body.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if not size:
            return
        yield body[:size]
        body = body[size + 2 :]
