"""The report of a verdict for people: one HTML page with a chart, which shows without any other file or script. Pure.

MLflow's UI shows it in a sandboxed frame, which loads nothing and follows no link; so the page has its chart as inline
SVG and spells its links out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from airflow_uc_models.quantities import number_texts

if TYPE_CHECKING:
    import jinja2

_MANY = 40
# Pixels: a metric's name, its bars, their values; and how high a metric is.
_LEFT, _PLOT, _RIGHT, _TOP, _ROW, _BAR = 230, 520, 110, 44, 66, 20
_NAME = 32
_COLORS = {"candidate": "#1f6feb", "champion": "#9aa4b2"}


def version_label(verdict: Mapping[str, Any]) -> str:
    """Return ``catalog.schema.model/3`` of a verdict, or of a version in it."""
    return f"{verdict['name']}/{verdict['version']}"


def champion_label(verdict: Mapping[str, Any]) -> str:
    """Return the version that a verdict compared with, or ``none``."""
    return version_label(verdict["champion"]) if verdict["champion"] else "none"


def report_path(name: str, version: int, key: str) -> str:
    """Return where the report of a verdict is among the artifacts of the version's run.

    :param key: tells the verdict from all others on the version
    """
    return f"validation/{name}-v{version}/{key}.html"


@dataclass(frozen=True)
class Report:
    """What the page shows.

    :param verdict: as it goes to XCom
    :param origin: what led to the verdict, by title, such as the Dag run
    :param links: address by title
    """

    verdict: Mapping[str, Any]
    origin: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """Return the page; all that is shown is escaped."""
        verdict = self.verdict
        failed = [check["reason"] for check in verdict["checks"] if not check["passed"]]
        count = len(verdict["checks"])
        summary = f"All {count} rules passed." if not failed else f"{len(failed)} of {count} rules failed."
        champion = (
            f"{verdict['champion']['name']} version {verdict['champion']['version']}"
            if verdict["champion"]
            else "none yet"
        )
        return _page(
            verdict,
            verdict["validation_status"],
            summary=summary,
            facts={"Champion": champion, **self.origin},
            failures=failed,
            rules=[_rule(check) for check in verdict["checks"]],
            chart=_chart(verdict),
            links=_safe(self.links),
        )


def unfinished(version: Mapping[str, Any], origin: Mapping[str, str]) -> str:
    """Return the page that is in the report's place until there is a verdict.

    :param version: ``name`` and ``version``
    """
    summary = "The validation has not finished yet, or was ended before it had a verdict."
    return _page(version, "running", summary=summary, facts=origin, chart=_Chart())


def _page(version: Mapping[str, Any], status: str, **content: Any) -> str:
    label = version_label(version)
    return _template().render(label=label, name=version["name"], version=version["version"], status=status, **content)


@cache
def _template() -> jinja2.Template:
    import jinja2

    source = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined).from_string(source)


def _safe(links: Mapping[str, str]) -> dict[str, str]:
    return {title: url for title, url in links.items() if url.startswith(("http://", "https://"))}


def _rule(check: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table; numbers that differ do not look the same."""
    sides = {key: check[key] for key in ("candidate", "champion")}
    numbers = [value for value in (*sides.values(), check["against"]) if _is_number(value)]
    shown = dict(zip(numbers, number_texts(*numbers), strict=True))
    texts = {key: shown[value] if _is_number(value) else "" if value is None else value for key, value in sides.items()}
    name = _subject(check)
    return {
        "name": name,
        "passed": check["passed"],
        "required": check["required"] or "",
        "reason": check["reason"],
        **texts,
    }


def _subject(check: Mapping[str, Any]) -> str:
    """Return what a rule is about: the rule without what it requires, which has a column of its own."""
    return str(check["rule"]).removesuffix(str(check["required"])).strip() or str(check["rule"])


# -- the chart


@dataclass(frozen=True)
class _Chart:
    metrics: list[dict[str, Any]] = field(default_factory=list)
    legend: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    width: int = _LEFT + _PLOT + _RIGHT
    values: int = _LEFT + _PLOT + 10

    @property
    def height(self) -> int:
        return _TOP + _ROW * len(self.metrics)


def _chart(verdict: Mapping[str, Any]) -> _Chart:
    """Return bars of the candidate's and the champion's metrics, each metric on a scale of its own."""
    metrics = list(verdict["metrics"].items())
    has_champion = bool(verdict["champion"])
    shown = [
        _metric(name, sides, _limits(verdict, name), _TOP + _ROW * i, has_champion=has_champion)
        for i, (name, sides) in enumerate(metrics[:_MANY])
    ]
    labels = {"candidate": f"candidate: version {verdict['version']}"}
    if has_champion:
        labels["champion"] = f"champion: {version_label(verdict['champion'])}"
    legend = [{"label": label, "color": _COLORS[side], "x": 230 * i} for i, (side, label) in enumerate(labels.items())]
    return _Chart(shown, legend, max(0, len(metrics) - _MANY))


def _limits(verdict: Mapping[str, Any], name: str) -> list[tuple[str, float]]:
    """Return the thresholds on a metric, as the rules say them."""
    checks = [check for check in verdict["checks"] if check["rule"] == f"{name} {check['required']}"]
    return [(check["required"], check["against"]) for check in checks if check["required"].startswith((">=", "<="))]


def _metric(
    name: str, sides: Mapping[str, Any], limits: list[tuple[str, float]], top: int, *, has_champion: bool
) -> dict[str, Any]:
    values = {side: sides.get(side) for side in _COLORS if side == "candidate" or has_champion}
    numbers = [value for value in values.values() if _is_number(value)]
    compared = [*numbers, *(limit for _, limit in limits)]
    scale, texts = _Scale(compared), dict(zip(compared, number_texts(*compared), strict=True))
    return {
        "name": name,
        "label": name if len(name) <= _NAME else f"{name[: _NAME - 1]}…",
        "y": top,
        "bars": list(_bars(values, texts, scale, top)),
        "limits": [_limit(text, scale.x(value)) for text, value in limits],
    }


def _bars(values: Mapping[str, Any], texts: Mapping[Any, str], scale: _Scale, top: int) -> Iterator[dict[str, Any]]:
    for i, (side, value) in enumerate(values.items()):
        bar = {"y": top + 1 + _BAR * i, "color": _COLORS[side], "is_candidate": side == "candidate"}
        if _is_number(value):
            ends = sorted((scale.x(0.0), scale.x(value)))
            yield {**bar, "x": ends[0], "width": round(ends[1] - ends[0], 1), "text": texts[value]}
        else:
            yield {**bar, "x": 0, "width": None, "text": "none" if value is None else value}


def _limit(text: str, x: float) -> dict[str, Any]:
    middle = _LEFT + _PLOT / 2
    return {"text": f"required {text}", "x": x, "anchor": "end" if x > middle else "start"}


class _Scale:
    """From values to pixels: 0 is always on it."""

    def __init__(self, values: list[float]) -> None:
        self._low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
        # halves, as the difference of two great floats is not finite
        self._span = (high / 2 - self._low / 2) or 1.0

    def x(self, value: float) -> float:
        return round(_LEFT + (value / 2 - self._low / 2) / self._span * _PLOT, 1)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
