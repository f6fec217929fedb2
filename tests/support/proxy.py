"""A reverse proxy on loopback that records each request and plays faults on demand."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import httpx


@dataclass
class Recorded:
    """One request as it went over the wire."""

    method: str
    path: str
    query: list[tuple[str, str]]
    body: Any
    headers: dict[str, str] = field(repr=False, default_factory=dict)
    status: int | None = None

    @property
    def shape(self) -> tuple[str, str, list[tuple[str, str]], Any]:
        """What two clients are compared by."""
        return self.method, self.path, sorted(self.query), self.body


@dataclass
class Fault:
    """What to do instead of a plain pass-through.

    :param match: which requests
    :param times: how many of them; None for all
    :param status: answer with this status instead of the server's
    :param after: let the server carry the request out first
    :param reset: close the connection without an answer
    :param hold: before the answer is sent, wait for this event (the request has been carried out if ``after``)
    """

    match: Callable[[Recorded], bool]
    times: int | None = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "fault"}'
    after: bool = False
    reset: bool = False
    hold: threading.Event | None = None
    seen: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Stands before ``target``; ``url`` is where clients go."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.requests: list[Recorded] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._client = httpx.Client(base_url=target, timeout=60, verify=False, trust_env=False)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def connection_json(self, **extra: Any) -> str:
        return json.dumps({"conn_type": "mlflow", "host": self.url, "extra": {"max_retry_seconds": 20} | extra})

    def fail(self, path: str, method: str | None = None, **options: Any) -> Fault:
        """Play a fault on requests whose path ends in ``path``."""
        fault = Fault(lambda r: r.path.endswith(path) and method in (None, r.method), **options)
        self.faults.append(fault)
        return fault

    def take(self) -> list[Recorded]:
        """Return what was recorded and start anew."""
        with self._lock:
            taken, self.requests = self.requests, []
        return taken

    def fault_for(self, recorded: Recorded) -> Fault | None:
        with self._lock:
            self.requests.append(recorded)
            for fault in self.faults:
                if fault.times != 0 and fault.match(recorded):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for fault in self.faults:
            if fault.hold is not None:
                fault.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self._client.close()


_HOP = {"connection", "content-length", "transfer-encoding", "content-encoding", "keep-alive", "date", "server"}


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy

    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        raw = self._read_body()
        parts = urlsplit(self.path)
        recorded = Recorded(
            self.command,
            parts.path,
            parse_qsl(parts.query, keep_blank_values=True),
            _json_or_text(raw),
            {k.lower(): v for k, v in self.headers.items()},
        )
        fault = self.proxy.fault_for(recorded)
        answer = None
        if fault is None or fault.after:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {"host", *_HOP}}
            answer = self.proxy._client.request(self.command, self.path, content=raw, headers=headers)
            recorded.status = answer.status_code
        if fault is not None:
            fault.seen.set()
            if fault.hold is not None:
                fault.hold.wait(120)
            if fault.reset:
                return self._reset()
            if fault.hold is None or answer is None:
                return self._send(fault.status, fault.headers, fault.body.encode())
        assert answer is not None
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        return self._send(answer.status_code, kept, answer.content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        try:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _reset(self) -> None:
        # linger 0 makes close() send RST
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionResetError, ValueError, OSError):
            self.close_connection = True


def _json_or_text(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        return raw[:100]
