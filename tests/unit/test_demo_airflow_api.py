"""The demo's client of Airflow's API, before a server that fails as Airflow does on a busy machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scripts.demo.airflow_api import AirflowApi
from scripts.demo.errors import DemoError

DROP = "the connection ends without an answer"


class Server(ThreadingHTTPServer):
    """Gives these answers, then 200; runs are made even when the answer is lost."""

    answers: list[Any]
    runs: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        run_id = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["dag_run_id"]
        known = run_id in self.server.runs
        if not known and (not self.server.answers or self.server.answers[0] == DROP):
            self.server.runs.append(run_id)
        self._answer(409 if known else 200)

    def do_GET(self) -> None:
        self._answer(200)

    def _answer(self, otherwise: int) -> None:
        status = self.server.answers.pop(0) if self.server.answers else otherwise
        if status == DROP:
            return
        body = json.dumps({"state": "running"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.answers, server.runs = [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(server) -> Iterator[AirflowApi]:
    api = AirflowApi(f"http://127.0.0.1:{server.server_port}", patience=10)
    yield api
    api.close()


@pytest.mark.parametrize("failure", [DROP, 500, 503, 429])
def test_what_fails_for_now_is_asked_again(server, api, failure):
    server.answers = [failure]
    assert api.run_state("a_dag", "run") == "running"


@pytest.mark.parametrize("failure", [DROP, 500])
def test_a_run_is_started_once(server, api, failure):
    server.answers = [failure]
    api.trigger("a_dag", "run", {})
    assert server.runs == ["run"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_stays_wrong_is_told_at_once(server, api, status):
    server.answers = [status]
    with pytest.raises(DemoError):
        api.run_state("a_dag", "run")
    assert server.answers == []


def test_what_fails_for_long_is_told(server):
    server.answers = [500] * 50
    api = AirflowApi(f"http://127.0.0.1:{server.server_port}", patience=0.3)
    with pytest.raises(DemoError, match="with 500"):
        api.run_state("a_dag", "run")
    api.close()
