"""A workspace per session, emptied for each test, and ways to reach it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from airflow_uc_models.emulator import Emulator, Principal, Settings
from airflow_uc_models.emulator.plugin import uc_workspace, uc_workspace_server  # noqa: F401

LEGACY = "/api/2.0/mlflow/unity-catalog"
NATIVE = "/api/2.1/unity-catalog"


@pytest.fixture
def emulator(uc_workspace: Emulator) -> Emulator:  # noqa: F811
    return uc_workspace


@pytest.fixture
def other_emulator() -> Iterator[Callable[..., Emulator]]:
    """Start workspaces with other settings."""
    started: list[Emulator] = []

    def start(**settings: object) -> Emulator:
        started.append(Emulator(Settings(**settings)).start())  # type: ignore[arg-type]
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def name() -> str:
    return f"dev.ml_team.m{uuid.uuid4().hex[:8]}"


class Api:
    """Calls of one principal; ``ok`` wants success, ``error`` returns status and code of a refusal."""

    def __init__(self, emulator: Emulator, principal: Principal | None = None) -> None:
        token = principal.token if principal else emulator.token
        self.client = httpx.Client(
            base_url=emulator.url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        )

    def call(self, method: str, path: str, /, **arguments: object) -> httpx.Response:
        """Send arguments as the legacy dialect does: in the query of GET, in the body of all else."""
        where = {"params": arguments} if method == "GET" else {"json": arguments}
        path = path if path.startswith("/api") else f"{LEGACY}/{path}"
        return self.client.request(method, path, **where)  # type: ignore[arg-type]

    def ok(self, method: str, path: str, /, **arguments: object) -> dict:
        answer = self.call(method, path, **arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def error(self, method: str, path: str, /, **arguments: object) -> tuple[int, str, str]:
        answer = self.call(method, path, **arguments)
        assert answer.status_code >= 400, answer.text
        return answer.status_code, answer.json()["error_code"], answer.json()["message"]

    def put(self, model: str, version: int, path: str, content: bytes, **query: str) -> httpx.Response:
        where = f"/Models/{model.replace('.', '/')}/{version}/{path}"
        return self.client.put(f"/api/2.0/fs/files{where}", content=content, params=query)

    def make_version(self, model: str, **arguments: object) -> int:
        """Register the model if need be, and make a READY version of it."""
        self.call("POST", "registered-models/create", name=model)
        made = self.ok("POST", "model-versions/create", name=model, source="x", **arguments)["model_version"]
        assert self.put(model, made["version"], "MLmodel", b"flavors: {}").status_code == 204
        self.ok("POST", "model-versions/finalize", name=model, version=made["version"])
        return int(made["version"])


@pytest.fixture
def connect() -> Iterator[Callable[..., Api]]:
    """Open a client of a workspace, closed after the test."""
    opened: list[Api] = []

    def make(emulator: Emulator, principal: Principal | None = None) -> Api:
        opened.append(Api(emulator, principal))
        return opened[-1]

    yield make
    for api in opened:
        api.client.close()


@pytest.fixture
def api(emulator: Emulator, connect: Callable[..., Api]) -> Api:
    """The admin's calls."""
    return connect(emulator)
