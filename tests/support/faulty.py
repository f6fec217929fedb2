"""A registry behind a proxy that plays faults, and ways to drive calls half-way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from airflow_uc_models.emulator import Emulator
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call, Request, Response
from airflow_uc_models.registry.mlflow_rest import UNITY_CATALOG, UNITY_CATALOG_PREFIX, MlflowRestRegistry
from support.mlflow_server import MlflowServer
from support.proxy import Proxy

SOURCE = "s3://bucket/model"
FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "503 before": {"status": 503},
    "503 after": {"status": 503, "after": True},
    "500 after": {"status": 500, "after": True, "body": "<html>"},
    "reset before": {"reset": True},
    "reset after": {"reset": True, "after": True},
}


class _Token(httpx.Auth):
    def __init__(self, token: str) -> None:
        self.token = token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = f"Bearer {self.token}"
        yield request


@dataclass
class Faulty:
    """A registry under test.

    :param run: drives a call through the proxy
    :param direct: drives a call past it
    :param model: reads description, tags and aliases of a model, and tags and status of its versions, by other means
    """

    registry: Registry
    proxy: Proxy
    run: Callable[[Call[Any]], Any]
    direct: Callable[[Call[Any]], Any]
    model: Callable[[str], Model]

    @property
    def uploads(self) -> bool:
        return self.registry.capabilities.uploads

    def ready(self, name: str, **options: Any) -> Call[ModelVersion]:
        """Make a READY version."""
        made = yield from self.registry.create_model_version(name, SOURCE, **options)
        if self.uploads:
            return (yield from self.registry.finalize_model_version(name, made.version))
        return made


@dataclass
class Model:
    """A model as it is stored; ``versions`` are their tags by number, ``statuses`` likewise."""

    tags: dict[str, str]
    aliases: dict[str, int]
    versions: dict[int, dict[str, str]]
    statuses: dict[int, str]


@contextmanager
def faulty_server(server: MlflowServer) -> Iterator[Faulty]:
    """An MLflow server, read with a plain MlflowClient."""
    client = server.client()

    def read(name: str) -> Model:
        model = client.get_registered_model(name)
        found = client.search_model_versions(f"name='{name}'", order_by=["version_number"])
        return Model(
            dict(model.tags),
            {alias: int(version) for alias, version in model.aliases.items()},
            {int(v.version): dict(v.tags) for v in found},
            {int(v.version): v.status for v in found},
        )

    with Proxy(server.url) as proxy:
        run = Transport(proxy.url, verify=False, max_retry_seconds=20).run
        yield Faulty(MlflowRestRegistry(), proxy, run, Transport(server.url, verify=False).run, read)


@contextmanager
def faulty_workspace(workspace: Emulator) -> Iterator[Faulty]:
    """An emulated workspace, read in its memory."""

    def read(name: str) -> Model:
        model = workspace.workspace.state.models[name]
        versions = dict(sorted(model.versions.items()))
        return Model(
            dict(model.tags),
            dict(model.aliases),
            {number: dict(v.tags) for number, v in versions.items()},
            {number: v.status for number, v in versions.items()},
        )

    auth = _Token(workspace.token)
    with Proxy(workspace.url) as proxy:
        run = Transport(proxy.url, auth=auth, verify=False, max_retry_seconds=20).run
        direct = Transport(workspace.url, auth=auth, verify=False).run
        registry = MlflowRestRegistry(UNITY_CATALOG_PREFIX, UNITY_CATALOG)
        yield Faulty(registry, proxy, run, direct, read)


def single(request: Request) -> Call[Response]:
    """One request as a call of its own."""
    return (yield request)


def crash_after(call: Call[Any], run: Callable[[Call[Any]], Any], count: int) -> bool:
    """Send the first requests of a call and abandon it, as a killed worker does; False if there were not so many."""
    try:
        request = next(call)
        for _ in range(count):
            request = call.send(run(single(request)))
    except StopIteration:
        return False
    call.close()
    return True
