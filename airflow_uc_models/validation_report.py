"""The report of a verdict for people: Markdown with a table of all checks, and a chart of the metrics as SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

REPORT, CHART = "report.md", "chart.svg"
_MANY = 40
_ROW, _BAR, _LEFT, _PLOT, _RIGHT, _TOP = 46, 15, 250, 360, 90, 40
_COLORS = {"candidate": "#1f77b4", "champion": "#9e9e9e"}
_MARKUP = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#"})


def version_label(verdict: Mapping[str, Any]) -> str:
    """Return ``catalog.schema.model/3`` of a verdict, or of a version in it."""
    return f"{verdict['name']}/{verdict['version']}"


def champion_label(verdict: Mapping[str, Any]) -> str:
    """Return the version that a verdict compared with, or ``none``."""
    return version_label(verdict["champion"]) if verdict["champion"] else "none"


def folder(verdict: Mapping[str, Any]) -> str:
    """Return the folder of a version's report among its run's artifacts."""
    return f"validation/{verdict['name']}-v{verdict['version']}"


def texts(verdict: Mapping[str, Any]) -> dict[str, str]:
    """Return the report as text by file name; there is a chart only if a rule is about a metric."""
    chart = svg(verdict)
    return {REPORT: markdown(verdict)} | ({CHART: chart} if chart else {})


def markdown(verdict: Mapping[str, Any]) -> str:
    """Return the report; it says the same for the same verdict."""
    against = "there is no champion yet" if not verdict["champion"] else _text(champion_label(verdict))
    lines = [
        f"# {_text(version_label(verdict))}: {verdict['validation_status']}",
        "",
        f"Champion: {against}",
        "",
        "| | Rule | Candidate | Against | Reason |",
        "|---|---|---|---|---|",
    ]
    for check in verdict["checks"]:
        cells = (check["rule"], check["candidate"], check["against"], check["reason"])
        lines.append(f"| {'passed' if check['passed'] else '**FAILED**'} | {' | '.join(map(_text, cells))} |")
    if verdict["metrics"]:
        lines += ["", f"![Metrics of candidate and champion]({CHART})"]
    return "\n".join([*lines, ""])


def svg(verdict: Mapping[str, Any]) -> str:
    """Return bars of the candidate's and the champion's metrics, each metric on a scale of its own."""
    metrics = list(verdict["metrics"].items())[:_MANY]
    if not metrics:
        return ""
    height = _TOP + _ROW * len(metrics)
    size = f'width="{_LEFT + _PLOT + _RIGHT}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, (side, color) in enumerate(_COLORS.items()):
        label = version_label(verdict) if side == "candidate" else champion_label(verdict)
        parts.append(f'<rect x="{10 + 350 * i}" y="12" width="12" height="12" fill="{color}"/>')
        parts.append(_label(28 + 350 * i, 22, f"{side}: {label}"))
    for i, (name, sides) in enumerate(metrics):
        parts += _bars(name, sides, _TOP + _ROW * i)
    return "\n".join([*parts, "</svg>", ""])


def _bars(name: str, sides: Mapping[str, Any], top: int) -> list[str]:
    values = [value for value in sides.values() if isinstance(value, int | float)]
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    # halves, as the difference of two great floats is not finite
    span = (high / 2 - low / 2) or 1.0
    parts = [_label(10, top + _BAR + 4, name if len(name) <= _MANY else name[: _MANY - 3] + "...")]
    for i, (side, color) in enumerate(_COLORS.items()):
        value, y = sides.get(side), top + _BAR * i
        if not isinstance(value, int | float):
            parts.append(_label(_LEFT, y + 11, "none" if value is None else str(value), color))
            continue
        x, width = ((min(value, 0.0) / 2 - low / 2) / span * _PLOT, abs(value) / 2 / span * _PLOT)
        parts.append(f'<rect x="{_LEFT + x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{color}"/>')
        parts.append(_label(_LEFT + _PLOT + 6, y + 11, f"{value:.6g}", color))
    return parts


def _label(x: int, y: int, text: str, color: str = "black") -> str:
    return f'<text x="{x}" y="{y}" fill="{color}">{escape(text)}</text>'


def _text(value: Any) -> str:
    """Return a value as text that Markdown shows as it is, in one line."""
    return "" if value is None else " ".join(str(value).split()).translate(_MARKUP)
