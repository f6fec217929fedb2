"""What came in: every request with its answer's status, for tests to look at."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PRINCIPAL = "uc_models.principal"
_MOST_BODY = 1 << 20
_MOST_REQUESTS = 100_000
_FILE_PATHS = ("/api/2.0/fs/files/", "/storage/", "/s3/")


@dataclass
class Recorded:
    """One request.

    :param body: the JSON or form text of the body; of files only ``size`` is kept
    :param done: nothing of it is under way any more
    :param headers: in lower case, without Authorization
    :param scheme: of Authorization, such as ``Bearer``
    """

    method: str
    path: str
    query: list[tuple[str, str]]
    body: Any = None
    principal: str | None = None
    status: int | None = None
    size: int = 0
    done: bool = False
    scheme: str = ""
    headers: dict[str, str] = field(repr=False, default_factory=dict)

    @property
    def shape(self) -> tuple[str, str, list[tuple[str, str]], Any]:
        """What two clients are compared by."""
        return self.method, self.path, sorted(self.query), self.body


class Requests:
    """The requests so far, oldest first; the oldest of very many are forgotten."""

    def __init__(self) -> None:
        self._kept: deque[Recorded] = deque(maxlen=_MOST_REQUESTS)
        self._lock = threading.Lock()

    def add(self, request: Recorded) -> None:
        """Note a request."""
        with self._lock:
            self._kept.append(request)

    def take(self) -> list[Recorded]:
        """Return all and start anew."""
        with self._lock:
            taken = list(self._kept)
            self._kept.clear()
        return taken

    def find(self, path: str, method: str | None = None) -> list[Recorded]:
        """Return those whose path contains ``path``."""
        return [request for request in self if path in request.path and method in (None, request.method)]

    def __iter__(self) -> Iterator[Recorded]:
        with self._lock:
            return iter(list(self._kept))

    def __len__(self) -> int:
        return len(self._kept)


class Recorder:
    """ASGI middleware that fills ``requests``."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self.app = app
        self.requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, noting what goes by."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        scheme = headers.pop("authorization", "").partition(" ")[0]
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        recorded = Recorded(scope["method"], scope["path"], query, headers=headers, scheme=scheme)
        keeps_body = not scope["path"].startswith(_FILE_PATHS)
        body = bytearray()
        self.requests.add(recorded)

        async def receiving() -> Message:
            message = await receive()
            piece = message.get("body", b"")
            recorded.size += len(piece)
            if keeps_body and len(body) < _MOST_BODY:
                body.extend(piece)
                recorded.body = _readable(bytes(body))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                recorded.status = message["status"]
                recorded.principal = scope.get(PRINCIPAL)
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        finally:
            recorded.done = True


def _readable(body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
