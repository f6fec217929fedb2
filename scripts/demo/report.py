"""What the demo shows: progress line by line, and a table at the end; the same on a terminal and in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Report:
    """Writes to standard output."""

    def __init__(self) -> None:
        # Where nobody's window sets a width, the table gets what it needs.
        self._console = Console(width=None if sys.stdout.isatty() else 118, highlight=False)
        self._began = time.monotonic()

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line."""
        self._console.print(escape(text), style=style, soft_wrap=True)

    def heading(self, text: str) -> None:
        """Print a line that begins something new."""
        self._console.print(f"\n[bold]{escape(text)}[/bold]")

    def done(self, what: str, seconds: float, detail: str = "") -> None:
        """Print that something is done and how long it took."""
        self._console.print(f"  [green]done[/green] {_timed(what, seconds, detail)}", soft_wrap=True)

    def failed(self, what: str, seconds: float, detail: str) -> None:
        """Print that something has failed."""
        self._console.print(f"  [red]FAILED[/red] {_timed(what, seconds, detail)}", soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Any]:
        """Show on a terminal that something is going on; ``.update(text)`` says what."""
        with self._console.status(escape(text), spinner="line") as status:
            yield status

    def table(self, runs: Sequence[Mapping[str, Any]]) -> None:
        """Print the story as a table."""
        table = Table(title="What the registry says now", title_justify="left")
        for heading, options in _COLUMNS.items():
            table.add_column(heading, **options)
        for number, run in enumerate(runs, 1):
            metrics = run["metrics"]
            table.add_row(
                str(number),
                run["story"],
                _or_dash(run["candidate_version"]),
                _number(metrics.get("roc_auc")),
                _number(metrics.get("log_loss")),
                run["verdict"],
                f"{_or_dash(run['champion_before'])} -> {_or_dash(run['champion_after'])}",
                _or_dash(run["rows_scored"]),
            )
        self._console.print()
        self._console.print(table)

    def elapsed(self) -> float:
        """Return seconds since the start."""
        return time.monotonic() - self._began


_COLUMNS: dict[str, dict[str, Any]] = {
    "": {},
    "Story": {"min_width": 24},
    "Candidate\n(dev)": {"justify": "right"},
    "roc_auc": {"justify": "right"},
    "log_loss": {"justify": "right"},
    "Verdict": {},
    "Champion\n(prod)": {"justify": "right"},
    "Rows\nscored": {"justify": "right"},
}


def _timed(what: str, seconds: float, detail: str) -> str:
    return f"{escape(what):<24} {seconds:5.1f} s  {escape(detail)}".rstrip()


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
