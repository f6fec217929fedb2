"""The ports of a demo: chosen once for each folder, so that links in the runs of yesterday work today."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scripts.demo.errors import DemoError


@dataclass(frozen=True)
class Ports:
    """Loopback ports: of the registry, of the receiver of webhooks, of Airflow's three servers and of its database."""

    mlflow: int
    workspace: int
    airflow: int
    worker_logs: int
    trigger_logs: int
    database: int
    receiver: int

    @classmethod
    def free(cls, preferred: Mapping[str, int] | None = None) -> Ports:
        """Choose free ports, these if they are free."""
        taken: set[int] = set()
        wanted = preferred or {}
        return cls(**{f.name: _free(taken, [wanted[f.name]] if f.name in wanted else ()) for f in fields(cls)})

    @classmethod
    def kept(cls, file: Path) -> tuple[Ports, dict[str, tuple[int, int]]]:
        """Return the ports that a folder has had, with those that had to change: name, old, new; keep them all."""
        before = _read(file)
        ports = cls.free(before)
        now = asdict(ports)
        file.write_text(json.dumps(now) + "\n")
        return ports, {name: (before[name], now[name]) for name in before if before[name] != now[name]}


def _read(file: Path) -> dict[str, int]:
    """Return what a file keeps; nothing if it is missing or damaged."""
    try:
        kept: Any = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    names = {f.name for f in fields(Ports)}
    if not isinstance(kept, dict):
        return {}
    return {name: port for name, port in kept.items() if name in names and type(port) is int and 0 < port < 65_536}


def _free(taken: set[int], preferred: Iterable[int] = ()) -> int:
    # Below the ranges from which systems draw ports for outgoing connections: none of those can slip in before the
    # server that gets this port has bound it.
    for port in (*preferred, *random.sample(range(20_000, 32_000), 200)):
        if port not in taken and _is_free(port):
            taken.add(port)
            return port
    raise DemoError("No free port was found between 20000 and 32000.")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
