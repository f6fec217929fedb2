"""Bytes and time of one poll of a model with 10, 1,000 and 10,000 versions, on a real MLflow server and a workspace.

Beside it what a user would do otherwise: list the versions with MlflowClient and compare. The workspace is emulated;
the MLflow server keeps its registry in SQLite, into which the versions are written directly, to have them in seconds.

    python benchmarks/poll_cost.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/: its copy.py would stand before the standard library's

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (10, 1_000, 10_000)
POLLS = 30


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    warnings.simplefilter("ignore")
    print(f"{'registry':14} {'versions':>8} {'calls':>6} {'bytes':>9} {'ms':>7}   {'listing: bytes':>14} {'ms':>8}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AIRFLOW_HOME"] = folder
        for kind, measure in (("MLflow server", on_mlflow), ("Unity Catalog", on_workspace)):
            rows = measure(Path(folder))
            for count, (calls, size, seconds, listed, listing) in rows.items():
                print(
                    f"{kind:14} {count:8,} {calls:6.1f} {size:9,.0f} {seconds * 1e3:7.1f}   {listed:14,} "
                    f"{listing * 1e3:8.1f}"
                )
            first, last = rows[COUNTS[0]], rows[COUNTS[-1]]
            print(
                f"{kind}: from {COUNTS[0]:,} to {COUNTS[-1]:,} versions, bytes x {last[1] / first[1]:.2f}, "
                f"time x {last[2] / first[2]:.2f} (goal: at most 1.5); listing x {last[3] / first[3]:.0f}, "
                f"x {last[4] / first[4]:.0f}"
            )


def on_mlflow(folder: Path) -> dict[int, tuple[float, float, float, int, float]]:
    import httpx
    from support.mlflow_server import MlflowServer

    with MlflowServer(folder) as server:
        os.environ["AIRFLOW_CONN_POLLED"] = server.connection_json()
        client = httpx.Client(base_url=f"{server.url}/api/2.0/mlflow")
        found = {}
        for count in COUNTS:
            name = f"dev.bench.m{count}"
            client.post("/registered-models/create", json={"name": name}).raise_for_status()
            body = {"name": name, "source": "s3://bucket/model"}
            client.post("/model-versions/create", json=body).raise_for_status()
            _multiply(folder / "mlflow.db", name, count)
            found[count] = (*asyncio.run(poll(name)), *listing(name, server.url, server.url))
        return found


def _multiply(database: Path, name: str, count: int) -> None:
    """Write the versions that follow the first one."""
    with sqlite3.connect(database, timeout=30) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(model_versions)")]
        first = connection.execute("SELECT * FROM model_versions WHERE name = ?", (name,)).fetchone()
        place = columns.index("version")
        rows = [[*first[:place], version, *first[place + 1 :]] for version in range(2, count + 1)]
        marks = ",".join("?" * len(columns))
        connection.executemany(f"INSERT INTO model_versions ({','.join(columns)}) VALUES ({marks})", rows)


def on_workspace(_: Path) -> dict[int, tuple[float, float, float, int, float]]:
    from airflow_uc_models.emulator import Emulator

    with Emulator() as workspace:
        os.environ["AIRFLOW_CONN_POLLED"] = workspace.connection_json()
        os.environ |= {"DATABRICKS_HOST": workspace.url, "DATABRICKS_TOKEN": workspace.token}
        found = {}
        for count in COUNTS:
            name = f"dev.bench.m{count}"
            admin, catalog = workspace.workspace.admin, workspace.workspace.catalog
            catalog.create_model(admin, name)
            for _ in range(count):
                version = catalog.create_version(admin, name, source="s3://bucket/model")
                catalog.finalize_version(admin, name, version.version)
            found[count] = (*asyncio.run(poll(name)), *listing(name, "databricks", "databricks-uc"))
        return found


async def poll(name: str) -> tuple[float, float, float]:
    """Return calls, bytes and seconds of one poll, in the middle, after a first one that reads all."""
    from airflow_uc_models.hooks import transport
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook
    from airflow_uc_models.registry.poll import Poll
    from airflow_uc_models.watches import Watch

    sizes: list[int] = []
    tries_class = transport._Tries  # noqa: SLF001 - the one place that all answers pass
    read = tries_class.read

    def counted(tries: Any, answer: Any) -> Any:
        sizes.append(len(answer.content))
        return read(tries, answer)

    tries_class.read = counted  # type: ignore[method-assign]
    try:
        watch = Watch.parse(name, "model_version.ready")
        async with ModelRegistryHook("polled").asession() as (registry, arun):
            polled = Poll(registry, watch.schema, reconcile_seconds=3600)

            async def one() -> None:
                for model in await arun(polled.begin([watch], time.monotonic())):
                    await arun(polled.look(model, time.monotonic()))

            await one()
            assert len(polled.models()[name].versions) == int(name.rpartition("m")[2])
            await one()
            sizes.clear()
            seconds = [await timed(one) for _ in range(POLLS)]
    finally:
        tries_class.read = read  # type: ignore[method-assign]
    return len(sizes) / POLLS, sum(sizes) / POLLS, statistics.median(seconds)


async def timed(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    await what()
    return time.perf_counter() - began


def listing(name: str, tracking_uri: str, registry_uri: str) -> tuple[int, float]:
    """Return bytes and seconds of listing all versions with MlflowClient."""
    import requests
    from mlflow import MlflowClient

    sizes: list[int] = []
    send = requests.Session.send

    def counted(*args: Any, **kwargs: Any) -> Any:
        answer = send(*args, **kwargs)
        sizes.append(len(answer.content))
        return answer

    requests.Session.send = counted  # type: ignore[method-assign]
    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)
        client.search_model_versions(f"name='{name}'")
        seconds = []
        for _ in range(3):
            sizes.clear()
            began = time.perf_counter()
            client.search_model_versions(f"name='{name}'")
            seconds.append(time.perf_counter() - began)
    finally:
        requests.Session.send = send  # type: ignore[method-assign]
    return sum(sizes), statistics.median(seconds)


if __name__ == "__main__":
    main()
