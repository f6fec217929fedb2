"""A thousand watchers of a thousand models, against a thousand deferred sensors and against poking with MlflowClient.

Each way listens to the same models in an emulated workspace, a process of its own on loopback, while versions are
registered at random. Measured are the calls per interval, CPU and memory of the process that listens, and the delay
from a version READY to its event. Watchers and sensors run on an event loop as a triggerer runs them: watchers on
Airflow's own shared streams, each sensor's trigger by itself. What Airflow does around both (one process for triggers,
another that stores events) is the same and left out. A poking PythonSensor is a process of its own for each model;
twenty are measured and scaled.

    python benchmarks/watchers.py [--models 1000] [--interval 10] [--seconds 60]
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/: its copy.py would stand before the standard library's

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = 10
POKED = 20
VERSIONS_PER_SECOND = 3.0
answers = sys.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=LISTENERS, help="measure one way of listening")
    parser.add_argument("--listen", choices=LISTENERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        listen(options)
        return
    print(f"{options.models} models in {SCHEMAS} schemas, looked at every {options.interval:.0f} s")
    print(f"{'':22} {'calls/interval':>14} {'cores':>6} {'MB':>6} {'median s':>9} {'p99 s':>7} {'told':>9}")
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for how in [options.only] if options.only else LISTENERS:
            results[how] = found = measure(how, options, Path(folder))
            print(
                f"{how:22} {found['calls']:14,.0f} {found['cores']:6.2f} {found['mb']:6,.0f} {found['median']:9.1f} "
                f"{found['p99']:7.1f} {found['told']:4}/{found['made']}",
                flush=True,
            )
    if options.only:
        return
    watchers, sensors = results["watchers"], results["deferred sensors"]
    print(
        f"watchers against sensors: calls {watchers['calls'] / sensors['calls']:.2f}, CPU "
        f"{watchers['cores'] / sensors['cores']:.2f}, memory {watchers['mb'] / sensors['mb']:.2f}"
    )
    print(
        f"goals: calls at most {options.models + SCHEMAS:,}; p99 at most {1.5 * options.interval:.0f} s; "
        "under half a core"
    )


def names(count: int) -> list[str]:
    return [f"dev.schema{number % SCHEMAS}.m{number}" for number in range(count)]


# -- the side that registers and counts


def measure(how: str, options: Any, folder: Path) -> dict[str, float]:
    """Run one way of listening in a process of its own, and register versions meanwhile."""
    sys.path.insert(0, str(ROOT))
    from airflow_uc_models.emulator import Emulator

    with Emulator() as workspace:
        scale = POKED / options.models if how == "poking MlflowClient" else 1.0
        count = round(options.models * scale)
        catalog, admin = workspace.workspace.catalog, workspace.workspace.admin
        for name in names(count):
            catalog.create_model(admin, name)
            register(workspace, name)
        environment = {**os.environ, "AIRFLOW_HOME": str(folder), "AIRFLOW_CONN_WS": workspace.connection_json()}
        environment |= {"DATABRICKS_HOST": workspace.url, "DATABRICKS_TOKEN": workspace.token}
        command = [sys.executable, __file__, "--listen", how, "--models", str(count)]
        command += ["--interval", str(options.interval), "--seconds", str(options.seconds)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        ) as listener:
            assert listener.stdout
            assert listener.stdin
            assert listener.stdout.readline() == "listening\n"
            workspace.requests.take()
            made, asked = register_versions(workspace, names(count), options.seconds, scale)
            calls = len(asked)
            time.sleep(2 * options.interval)  # for the last ones to be told
            found = json.loads(listener.communicate("stop\n")[0])
    delays = [found["events"][key] - at for key, at in made.items() if key in found["events"]]
    return {
        "calls": calls / options.seconds * options.interval / scale,
        "cores": found["cores"] / scale,
        "mb": found["mb"] * (options.models if how == "poking MlflowClient" else 1),
        "median": statistics.median(delays),
        "p99": statistics.quantiles(delays, n=100)[98] if len(delays) > 1 else delays[0],
        "told": len(delays),
        "made": len(made),
    }


def register_versions(
    workspace: Any, models: list[str], seconds: float, scale: float
) -> tuple[dict[str, float], list[Any]]:
    """Register versions for some time; return when each was READY, and what was asked meanwhile."""
    dice, made, end = random.Random(1), {}, time.monotonic() + seconds
    while time.monotonic() < end:
        name = dice.choice(models)
        number = register(workspace, name)
        made[f"{name}/{number}"] = time.time()
        time.sleep(dice.expovariate(VERSIONS_PER_SECOND * max(scale, 0.1)))
    return made, workspace.requests.take()


def register(workspace: Any, name: str) -> int:
    catalog, admin = workspace.workspace.catalog, workspace.workspace.admin
    version = catalog.create_version(admin, name, source="s3://bucket/model")
    catalog.finalize_version(admin, name, version.version)
    return int(version.version)


# -- the side that listens


def listen(options: Any) -> None:
    """Listen until told to stop; print what was heard and what it took."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    global answers  # noqa: PLW0603 - what a listener says to who measures it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # logs, which nobody would read: a full pipe stops who writes to it
    import psutil

    events: dict[str, float] = {}
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    took = asyncio.run(LISTENERS[options.listen](names(options.models), options, events, stop))
    memory = psutil.Process().memory_info().rss / 1e6
    print(json.dumps({"events": events, "mb": memory, **took}), file=answers, flush=True)


async def until_stopped(ready: Callable[[], bool], stop: threading.Event) -> dict[str, float]:
    """Tell when listening has begun, and measure the CPU from then on."""
    while not ready():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.1)
    print("listening", file=answers, flush=True)
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.to_thread(stop.wait)
    return {"cores": (time.process_time() - cpu) / (time.monotonic() - began)}


async def stopped(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks that would listen for ever, and show what ended one before."""
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def watchers(
    models: list[str], options: Any, events: dict[str, float], stop: threading.Event
) -> dict[str, float]:
    from support.triggerer import Store, Triggerer

    from airflow_uc_models.events import ModelEvent

    class Told(list[ModelEvent]):
        def append(self, event: ModelEvent) -> None:
            events.setdefault(f"{event.model_name}/{event.version}", time.time())

    async with Triggerer() as triggerer:
        stores = [Store() for _ in models]
        for name, store in zip(models, stores, strict=True):
            number = triggerer.start(store, model_name=name, registry_conn_id="ws", poll_interval=options.interval)
            triggerer.events[number] = Told()
        return await until_stopped(lambda: all(store.values for store in stores), stop)


async def sensors(models: list[str], options: Any, events: dict[str, float], stop: threading.Event) -> dict[str, float]:
    from airflow_uc_models.conditions import NewModelVersion
    from airflow_uc_models.triggers import ConditionTrigger

    begun: set[str] = set()

    async def wait(name: str) -> None:
        """Wait for one version after another, as a sensor in a @continuous Dag does."""
        await asyncio.sleep(random.random() * options.interval)  # tasks are deferred one after another
        last = 1
        while True:
            begun.add(name)
            trigger = ConditionTrigger(
                condition=NewModelVersion(name, after_version=last).to_json(),
                registry_conn_id="ws",
                poll_interval=options.interval,
            )
            async for event in trigger.run():
                last = event.payload["version"]["version"]
                events.setdefault(f"{name}/{last}", time.time())

    tasks = [asyncio.create_task(wait(name)) for name in models]
    took = await until_stopped(lambda: len(begun) == len(models), stop)
    await stopped(tasks)
    return took


async def poking(models: list[str], options: Any, events: dict[str, float], stop: threading.Event) -> dict[str, float]:
    """Poke from one process: what a sensor's process needs by itself is this one's memory; CPU is shared out."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri="databricks", registry_uri="databricks-uc")
    last = dict.fromkeys(models, 1)

    def poke(name: str) -> None:
        for version in client.search_model_versions(f"name='{name}'"):
            if int(version.version) > last[name]:
                events.setdefault(f"{name}/{version.version}", time.time())
        last[name] = max([last[name], *(int(key.rpartition("/")[2]) for key in events if key.startswith(f"{name}/"))])

    async def wait(name: str) -> None:
        await asyncio.sleep(random.random() * options.interval)
        while True:
            await asyncio.to_thread(poke, name)
            await asyncio.sleep(options.interval)

    poke(models[0])
    tasks = [asyncio.create_task(wait(name)) for name in models]
    took = await until_stopped(lambda: True, stop)
    await stopped(tasks)
    return took


LISTENERS: dict[str, Callable[..., Awaitable[dict[str, float]]]] = {
    "watchers": watchers,
    "deferred sensors": sensors,
    "poking MlflowClient": poking,
}


if __name__ == "__main__":
    main()
