"""Several workers on one open-source Unity Catalog server, whose requests are let through one at a time, as told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from airflow_uc_models.emulator.open_source_rows import ServerError
from airflow_uc_models.emulator.open_source_store import Store
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.call import Call, Request, Response
from airflow_uc_models.registry.unity_catalog_rest import PREFIX, UnityCatalogRestRegistry


class Killed(BaseException):
    """The worker is gone: it does nothing more, not even clean up."""


class Server:
    """A store with the routes that registration uses, without sockets.

    :ivar stale: names of workers whose next create reads the last number as it was before any of them created one
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.stale: set[str] = set()
        self._first: int | None = None
        self._clock = int(time.time() * 1000)

    def answer(self, request: Request, who: str = "") -> Response:
        """Carry out a request."""
        try:
            body = self._answer(request, who)
        except ServerError as error:
            return Response(error.status, json.dumps({"error_code": error.error_code, "message": error.message}))
        return Response(200, "200 OK" if body is None else json.dumps(body))

    def _answer(self, request: Request, who: str) -> Any:
        store, query, body = self.store, dict(request.params or {}), dict(request.json or {})
        path = request.path.removeprefix(PREFIX)
        if (request.method, path) == ("POST", "/models/versions"):
            return self._create(body, who)
        model, number, finalize = cast(
            "Any", re.fullmatch(r"/models/([^/]+)(?:/versions(?:/(\d+)(/finalize)?)?)?", path)
        ).groups()
        if request.method == "GET" and path.endswith("/versions"):
            limit = min(int(query["max_results"]), store.page_size)
            rows, token = store.list_versions(store.model(model), limit, query.get("page_token"))
            return {"model_versions": rows, "next_page_token": token}
        if request.method == "GET":
            return store.version(model, int(number)) if number else store.model(model)
        if request.method == "DELETE":
            return store.delete_version(model, int(number))
        assert finalize, request
        return store.finalize(body["full_name"], body["version"], None)

    def _create(self, body: dict[str, Any], who: str) -> dict[str, Any]:
        model = self.store.model(self.name)
        if self._first is None:
            self._first = model["_last"]
        if who in self.stale:
            self.stale.discard(who)
            model["_last"] = self._first
        made = self.store.create_version(body, None)
        self._clock += 1  # between two creates and an upload more than a millisecond passes
        made["created_at"] = made["updated_at"] = self._clock
        return made


@dataclass
class _Worker:
    thread: threading.Thread
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    stopped: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    requests: int = 0
    killed_at: int | None = None
    result: Any = None
    error: BaseException | None = None
    done: bool = False


class Lockstep:
    """Runs workers, one request at a time.

    :param server: what answers
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.workers: dict[str, _Worker] = {}

    def start(self, who: str, work: Callable[[ModelRegistryHook], Any], *, killed_at: int | None = None) -> None:
        """Start a worker; it stops before its first request.

        :param killed_at: the worker dies instead of its request of this number
        """
        worker = _Worker(threading.Thread(target=lambda: self._run(who, work), daemon=True), killed_at=killed_at)
        self.workers[who] = worker
        worker.thread.start()
        assert worker.stopped.acquire(timeout=60)

    def run(self, schedule: Iterable[str]) -> None:
        """Let one request through for each name, then let all workers finish, one after the other."""
        for who in schedule:
            self._step(self.workers[who])
        for worker in self.workers.values():
            while not worker.done:
                self._step(worker)

    def _step(self, worker: _Worker) -> None:
        if not worker.done:
            worker.go.release()
            assert worker.stopped.acquire(timeout=60)

    def _run(self, who: str, work: Callable[[ModelRegistryHook], Any]) -> None:
        worker = self.workers[who]
        endpoint = SimpleNamespace(
            transport=_Gate("http://lockstep", lockstep=self, who=who),
            registry=UnityCatalogRestRegistry(),
            is_same_server=lambda _: False,
            ca_bundle=None,
        )
        hook = ModelRegistryHook("lockstep")
        hook._endpoint = cast("Any", endpoint)
        try:
            worker.result = work(hook)
        except BaseException as error:  # what a worker raises is looked at afterwards
            worker.error = error
        worker.done = True
        worker.stopped.release()

    def send(self, who: str, request: Request) -> Response:
        """Wait for the turn of a worker and answer its request."""
        worker = self.workers[who]
        worker.stopped.release()
        worker.go.acquire()
        worker.requests += 1
        if worker.killed_at is not None and worker.requests >= worker.killed_at:
            raise Killed
        return self.server.answer(request, who)


@dataclass(frozen=True)
class _Gate(Transport):
    """Sends requests through a lockstep."""

    lockstep: Any = None
    who: str = ""

    def run(self, call: Call[Any]) -> Any:
        return drive(call, lambda request: self.lockstep.send(self.who, request))


def drive(call: Call[Any], send: Callable[[Request], Response]) -> Any:
    """Drive a call to its end and return what it returns."""
    response = None
    while True:
        try:
            request = next(call) if response is None else call.send(response)
        except StopIteration as stop:
            return stop.value
        response = send(request)
