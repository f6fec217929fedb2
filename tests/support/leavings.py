"""Sockets that other programs leave open: they are ignored where that is known, and collected before other tests."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def ignore_open_sockets(items: list[pytest.Item], folder: Path) -> None:
    """Let no test of a folder fail for one."""
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@contextmanager
def open_sockets_collected() -> Iterator[None]:
    """Collect them at the end, lest they are found in a test that has nothing to do with them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
