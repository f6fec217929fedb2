"""An open-source Unity Catalog server for tests: the emulator's, or the real one that UNITY_CATALOG_URI names."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from airflow_uc_models.registry.unity_catalog_rest import PREFIX


class OpenSourceServer:
    """A running server with a catalog and a schema of these tests' own.

    :param app: the emulator's application; None for the real server
    """

    def __init__(self, url: str, token: str | None = None, app: Any = None) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self.app = app
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=self.url + PREFIX, headers=headers, timeout=30, trust_env=False)
        self.catalog = f"t{uuid.uuid4().hex[:8]}"
        self.schema = f"{self.catalog}.ml"
        self.call("POST", "/catalogs", {"name": self.catalog})
        self.call("POST", "/schemas", {"name": "ml", "catalog_name": self.catalog})

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        answer = self.client.request(method, path, json=body, **options)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.text != "200 OK" else None

    def new_name(self) -> str:
        return f"{self.schema}.m{uuid.uuid4().hex[:10]}"

    def make(self, name: str, comments: tuple[str | None, ...] = (), *, ready: bool = True) -> str:
        """Register a model with one version for each comment."""
        catalog, schema, model = name.split(".")
        place = {"catalog_name": catalog, "schema_name": schema}
        self.call("POST", "/models", {"name": model, **place})
        for comment in comments:
            self.add(name, comment, ready=ready)
        return name

    def add(self, name: str, comment: str | None = None, *, ready: bool = True) -> dict[str, Any]:
        catalog, schema, model = name.split(".")
        body = {"model_name": model, "catalog_name": catalog, "schema_name": schema, "source": "s", "comment": comment}
        made = self.call("POST", "/models/versions", body)
        if ready:
            path = f"/models/{name}/versions/{made['version']}/finalize"
            made = self.call("PATCH", path, {"full_name": name, "version": made["version"]})
        return dict(made)

    def versions(self, name: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/models/{name}/versions")["model_versions"])

    def connection_json(self, url: str | None = None, **extra: Any) -> str:
        connection = {"conn_type": "unity_catalog", "host": url or self.url, "extra": {"max_retry_seconds": 5} | extra}
        return json.dumps(connection | ({"password": self.token} if self.token else {}))

    def close(self) -> None:
        self.client.delete(f"/catalogs/{self.catalog}", params={"force": "true"})
        self.client.close()


@contextmanager
def flavour(root: Path | str | None, **options: Any) -> Iterator[OpenSourceServer]:
    """The emulator's open-source flavour."""
    # fastapi takes a while to import, and most tests do without
    from airflow_uc_models.emulator.open_source import create_app
    from airflow_uc_models.emulator.server import LoopbackServer

    app = create_app(root, **options)
    token = app.state.access.admin_token if options.get("authorization") else None
    with LoopbackServer(app) as running:
        server = OpenSourceServer(running.url, token, app)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def open_source_server(root: Path) -> Iterator[OpenSourceServer]:
    """The real server where the environment names one, else the flavour."""
    if uri := os.environ.get("UNITY_CATALOG_URI"):
        server = OpenSourceServer(uri, os.environ.get("UNITY_CATALOG_TOKEN"))
        try:
            yield server
        finally:
            server.close()
    else:
        with flavour(root) as server:
            yield server
