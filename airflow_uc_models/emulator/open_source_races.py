"""What an open-source Unity Catalog server does wrong when requests come at once: twins, and what they are in lists.

Seen by running the server, and its ``ModelRepository``: it reads the last number of a model and writes the next one in
one transaction that keeps nobody out, and no index of its tables is unique.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from airflow_uc_models.emulator.open_source_rows import Row


class Numbering:
    """Whether simultaneous creates see each other: on the real server they do not.

    :param width: so many creates at once read the state before any of them writes; 1 for one after the other
    """

    def __init__(self, width: int = 1) -> None:
        self._barrier = threading.Barrier(width) if width > 1 else None

    def meet(self) -> None:
        """Wait for the others; alone after a while, go on."""
        if self._barrier is not None:
            try:
                self._barrier.wait(0.3)
            except threading.BrokenBarrierError:
                self._barrier.reset()


Order = Literal["oldest", "newest", "changed"]


@dataclass(frozen=True, slots=True)
class Twins:
    """Which row comes first of those that share a name or a number: none of the server's queries says.

    :param listed: the first one in lists: the oldest, the newest, or the one that was changed the longest time ago, as
        in databases where an update writes the row anew
    :param reached: the first one for calls on the name or number, and so the only one that they reach
    """

    listed: Order = "oldest"
    reached: Order = "oldest"

    @staticmethod
    def rank(order: Order) -> Callable[[Row], int]:
        """Return the sort key of an order."""
        if order == "changed":
            return lambda row: int(row["_changed"])
        return lambda row: int(row["_made"]) * (-1 if order == "newest" else 1)
