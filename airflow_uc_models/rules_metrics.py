"""The rule on metrics: thresholds, gains over the champion, slices. Pure.

Numbers are compared by ``>=`` and ``<=`` on their shortest decimal form, without any tolerance: from 0.8 to 0.9 is
a gain of exactly 0.1, though the binary difference is a little less. What is unknown or not finite refuses.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, TypeGuard

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.metric_directions import is_higher_better
from airflow_uc_models.quantities import number_text, number_texts
from airflow_uc_models.rules import Check, Facts

# Enough digits for the exact difference of any two floats, and for the product of it and a third.
_EXACT = Context(prec=1100)
_SHOWN = Context(prec=60)
_MANY = 10
_LIMITS = ("min", "max", "min_gain", "min_relative_gain")
# What MLflow takes in a metric's name everywhere; slashes make groups of metrics.
_NOT_IN_NAMES = re.compile(r"[^\w.\- ]")
SLICE_METRIC = "{metric}/{slice}"


def slice_metric_name(metric: str, slice_name: str, template: str = SLICE_METRIC) -> str:
    """Return the name of the metric of one slice: ``accuracy/country_DE`` for ``accuracy`` and ``country=DE``.

    Characters of the slice that MLflow does not take in names of metrics, and slashes, become ``_``.
    """
    safe = _NOT_IN_NAMES.sub("_", slice_name)
    return template.replace("{slice}", safe, 1).replace("{metric}", metric, 1)


def check_slice_metric(where: str, template: Any) -> None:
    """Raise unless metric and slice are in a template: without one of them, slices would read one and the same metric.

    :param where: whose template it is, for the error
    """
    parts = re.findall(r"\{metric\}|\{slice\}|[{}]", template) if isinstance(template, str) else []
    if sorted(parts) != ["{metric}", "{slice}"]:
        raise InvalidArgumentError(
            f"slice_metric of {where} must have {{metric}} and {{slice}} in it, each once, not {template!r}."
        )


@dataclass(frozen=True, slots=True)
class MetricRule:
    """Conditions on one metric; at least one of ``min``, ``max``, ``min_gain`` and ``min_relative_gain``.

    An unknown metric fails every condition on it. Without a champion, or where the candidate is the champion's own
    model, gains pass as long as the metric is known.

    :param name: the metric
    :param min: the candidate's value is at least this
    :param max: the candidate's value is at most this
    :param min_gain: the candidate is better than the champion by at least this, in units of the metric: 0 for "not
        worse", less than 0 for how much worse it may be
    :param min_relative_gain: the same as a fraction of the magnitude of the champion's value: 0.05 is better by 5 %,
        -0.05 worse by 5 % at most; a champion's value of 0 refuses, as there is no fraction of it
    :param higher_is_better: whether a greater value is a gain; False for errors and losses. By default it follows from
        the name for the metrics of MLflow and scikit-learn, such as ``log_loss``, ``val_rmse`` or ``f1_macro``
        (``metric_directions``); for any other name, a rule on a gain must set it
    :param slices: the conditions hold for each of these parts of the data, such as ``["country=DE", "country=FR"]``,
        instead of for all of it; a slice without the metric refuses
    :param slice_metric: how the metric of a slice is named, with ``{metric}`` and ``{slice}`` in it; the default
        reads ``accuracy/country_DE``, see ``slice_metric_name``
    """

    name: str
    min: float | None = None
    max: float | None = None
    min_gain: float | None = None
    min_relative_gain: float | None = None
    higher_is_better: bool | None = None
    slices: Sequence[str] | None = None
    slice_metric: str = SLICE_METRIC

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidArgumentError(f"The name of a metric rule must be a metric's name, not {self.name!r}.")
        self._check_limits()
        self._set_direction()
        self._check_slices()

    def _set_direction(self) -> None:
        if self.higher_is_better is None:
            object.__setattr__(self, "higher_is_better", is_higher_better(self.name))
        if self.higher_is_better is None and self.compares:
            raise InvalidArgumentError(
                f"It is not known whether a greater {self.name!r} is better, which a rule on a gain must know. Set "
                "higher_is_better=True in the rule, or higher_is_better=False for an error or a loss."
            )
        if not isinstance(self.higher_is_better, bool | None):
            raise InvalidArgumentError(f"higher_is_better of metric {self.name!r} must be True or False.")

    def _check_limits(self) -> None:
        limits = {key: getattr(self, key) for key in _LIMITS}
        for key, limit in limits.items():
            if limit is not None and not (is_number(limit) and abs(limit) <= sys.float_info.max):
                raise InvalidArgumentError(f"{key} of metric {self.name!r} must be a finite number, not {limit!r}.")
        if all(limit is None for limit in limits.values()):
            raise InvalidArgumentError(
                f"The rule for metric {self.name!r} could refuse nothing: give it {', '.join(_LIMITS[:-1])} or "
                f"{_LIMITS[-1]}."
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise InvalidArgumentError(f"min of metric {self.name!r} is greater than its max: nothing could pass.")
        if self.min_relative_gain is not None and self.min_relative_gain <= -1:
            raise InvalidArgumentError(
                f"min_relative_gain of metric {self.name!r} is a fraction of the champion's value, above -1: -0.05 "
                f"for worse by 5 % at most, not {self.min_relative_gain!r}."
            )

    def _check_slices(self) -> None:
        check_slice_metric(f"metric {self.name!r}", self.slice_metric)
        if self.slices is None:
            return
        is_list = isinstance(self.slices, Sequence) and not isinstance(self.slices, str | bytes)
        if not is_list or not self.slices or not all(isinstance(part, str) and part.strip() for part in self.slices):
            raise InvalidArgumentError(
                f"slices of metric {self.name!r} must be a list of at least one slice, not {self.slices!r}; leave it "
                "out for a metric of all data."
            )
        if len(set(self.names)) < len(self.slices):
            raise InvalidArgumentError(f"Two slices of metric {self.name!r} have the same name: {self.names}.")

    @property
    def names(self) -> list[str]:
        """The metrics that the conditions hold for."""
        if self.slices is None:
            return [self.name]
        return [slice_metric_name(self.name, part, self.slice_metric) for part in self.slices]

    @property
    def compares(self) -> bool:
        """Whether a condition compares with the champion."""
        return self.min_gain is not None or self.min_relative_gain is not None

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:
        """Check the thresholds, then the gains, for one slice after the other."""
        for name in self.names:
            if self.min is not None:
                yield _threshold(name, candidate, champion, ">=", self.min)
            if self.max is not None:
                yield _threshold(name, candidate, champion, "<=", self.max)
            if self.min_gain is not None:
                yield self._gain(name, candidate, champion, self.min_gain, relative=False)
            if self.min_relative_gain is not None:
                yield self._gain(name, candidate, champion, self.min_relative_gain, relative=True)

    def _gain(self, name: str, candidate: Facts, champion: Facts | None, limit: float, *, relative: bool) -> Check:
        kind, value = "relative gain" if relative else "gain", candidate.metrics.get(name)
        before = champion.metrics.get(name) if champion else None
        required = f"{kind} >= {_exactly(limit)}"

        def check(passed: bool, reason: str, gain: float | None = None) -> Check:
            sides = _plain(value), _plain(before)
            return Check(f"{name} {required}", passed, reason, *sides, champion=sides[1], required=required, gain=gain)

        if not _is_usable(value):
            return check(False, _no_value("the candidate", name, candidate))
        if champion is None:
            return check(True, f"{name} {number_text(value)}, no champion yet")
        if candidate.is_same_model(champion):
            return check(True, f"{name}: the candidate is the champion's own model")
        if not _is_usable(before):
            return check(False, f"{_no_value('the champion', name, champion)}; there is nothing to compare with")
        if other := _other_data(name, candidate, champion):
            return check(False, other)
        better, worse = (value, before) if self.higher_is_better else (before, value)
        gain = _EXACT.subtract(_decimal(better), _decimal(worse))
        sides = number_texts(value, before)
        shown = f"{name} {sides[0]}, champion {sides[1]}{_measured(name, candidate)}"
        if relative and before == 0:
            return check(False, f"{shown}: there is no fraction of 0, so the gain is unknown; use min_gain instead")
        whole = abs(_decimal(before)) if relative else Decimal(1)
        fraction = _SHOWN.divide(gain, whole) if relative else gain
        gains = number_texts(fraction, limit)
        lower = "" if self.higher_is_better else " (lower is better)"
        reason = f"{shown}: {kind} {gains[0]}{lower}, required >= {gains[1]}"
        return check(gain >= _EXACT.multiply(_decimal(limit), whole), reason, float(fraction))


def _threshold(name: str, candidate: Facts, champion: Facts | None, sign: str, limit: float) -> Check:
    required, value = f"{sign} {_exactly(limit)}", candidate.metrics.get(name)
    before = _plain(champion.metrics.get(name)) if champion else None
    if not _is_usable(value):
        passed, reason = False, _no_value("the candidate", name, candidate)
    else:
        passed = value >= limit if sign == ">=" else value <= limit
        shown = number_texts(value, limit)
        reason = f"{name} {shown[0]}{_measured(name, candidate)}, required {sign} {shown[1]}"
    return Check(f"{name} {required}", passed, reason, _plain(value), limit, champion=before, required=required)


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def metric_values(name: str, candidate: Facts, champion: Facts | None) -> dict[str, float | str | None]:
    """Return both sides of a metric as plain JSON; None for what is unknown."""
    return {
        "candidate": _plain(candidate.metrics.get(name)),
        "champion": _plain(champion.metrics.get(name)) if champion else None,
    }


def _measured(name: str, facts: Facts) -> str:
    """Say where a value comes from, if some were measured for this verdict."""
    data = facts.evaluated_on.get(name)
    return f" (evaluated on {data})" if data else " (logged)" if facts.evaluated_on else ""


def _other_data(name: str, candidate: Facts, champion: Facts) -> str | None:
    """Say why two values cannot be compared, if one was measured for this verdict and the other elsewhere."""
    one, other = candidate.evaluated_on.get(name), champion.evaluated_on.get(name)
    if one == other:
        return None
    sides = [f"the {who}'s {f'was evaluated on {data}' if data else 'was logged'}" for who, data in
             (("candidate", one), ("champion", other))]  # fmt: skip
    return f"{name} is not comparable: {' and '.join(sides)}"


def _is_usable(value: float | None) -> TypeGuard[float]:
    """Whether a metric can be compared: not NaN, nor infinite, which an MLflow server stores as the greatest float."""
    return value is not None and abs(value) < sys.float_info.max


def _no_value(whose: str, name: str, facts: Facts) -> str:
    value = facts.metrics.get(name)
    if value is not None:
        return f"{name} of {whose} is {value}{_measured(name, facts)}, which cannot be compared"
    known = sorted(facts.metrics)
    more = ", ..." if len(known) > _MANY else ""
    return (
        f"{name} of {whose} is unknown: not in {facts.metrics_from} (known: {', '.join(known[:_MANY]) or 'none'}{more})"
    )


def _plain(value: float | None) -> float | str | None:
    """Return what plain JSON can hold."""
    return value if value is None or math.isfinite(value) else str(value)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _exactly(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
