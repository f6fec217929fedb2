"""A webhook's receiver: an HTTP server that keeps what it is sent."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SECRET, AUTHORIZATION, PATH = (
    "the-shared-secret-of-both",
    "Bearer what-else-it-wants",
    "/services/T0/an-address-to-hide",
)


class Receiver:
    """Listens between entry and exit; ``refuse`` is how many requests it answers with an error first."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.refuse = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                refused = receiver.refuse > 0 or self.path != PATH
                if refused:
                    receiver.refuse -= 1
                else:
                    receiver.requests.append((dict(self.headers.items()), body))
                self.send_response(503 if refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{PATH}"

    def connection_json(self) -> str:
        """The connection of the example Dag."""
        extra = {"authorization": AUTHORIZATION}
        return json.dumps({"conn_type": "http", "host": self.url, "password": SECRET, "extra": extra})

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What it was sent, in order."""
        return [json.loads(body) for _, body in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
