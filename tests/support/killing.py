"""Kills a task that runs in this process, as Airflow does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

from airflow_uc_models.emulator.faults import Fault


@contextmanager
def killed_at(fault: Fault) -> Generator[None, None, None]:
    """Send SIGTERM when the request of a fault is there, then let it go on if the fault holds it."""

    def kill() -> None:
        fault.seen.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)
        if fault.hold is not None:
            fault.hold.set()

    killer, before = threading.Thread(target=kill), signal.getsignal(signal.SIGTERM)
    killer.start()
    try:
        yield
    finally:
        killer.join()
        signal.signal(signal.SIGTERM, before)
