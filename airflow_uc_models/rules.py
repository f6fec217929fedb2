"""The rules that promotion policies are made of. Pure: no Airflow, no registry, no mlflow.

A rule is a small frozen class whose ``checks`` yields one Check per condition, whatever the facts are, so that a
verdict always lists all of them.

Numbers are compared by ``>=`` and ``<=`` on their shortest decimal form, without any tolerance: from 0.8 to 0.9 is
a gain of exactly 0.1, though the binary difference is a little less. What is unknown or not finite refuses.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Protocol, TypeGuard

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.signatures import Signature, compatible

# Enough digits for the exact difference of any two floats.
_EXACT = Context(prec=1100)
_MANY = 10


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules may know of a model version.

    :param metrics: value by metric name
    :param tags: tags of the version
    :param signature: the model's signature, None if it has none
    :param model: what tells one model from another; two versions of one and the same model share it
    :param metrics_from: where metrics were looked for, in words that complete "not in ..."
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    signature: Signature | None = None
    model: str | None = None
    metrics_from: str = "its metrics"

    def is_same_model(self, other: Facts) -> bool:
        """Whether both are versions of one and the same model."""
        return self.model is not None and self.model == other.model


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one condition.

    :param rule: the condition, such as ``accuracy >= 0.9``
    :param reason: why it passed or not
    :param candidate: the candidate's side of what was compared; a number that is not finite is a string here
    :param against: the other side: a threshold, the champion's value, or the wanted value
    """

    rule: str
    passed: bool
    reason: str
    candidate: float | str | None = None
    against: float | str | None = None


class Rule(Protocol):
    """A rule of a policy."""

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:
        """Yield as many checks for any facts, in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class MetricRule:
    """Conditions on one metric; at least one of ``min``, ``max`` and ``min_gain``.

    An unknown metric fails every condition on it. Without a champion, or where the candidate is the champion's own
    model, ``min_gain`` passes as long as the metric is known.

    :param name: the metric
    :param min: the candidate's value is at least this
    :param max: the candidate's value is at most this
    :param min_gain: the candidate is better than the champion by at least this, in units of the metric: 0 for "not
        worse", less than 0 for how much worse it may be
    :param higher_is_better: whether a greater value is a gain; False for errors and losses
    """

    name: str
    min: float | None = None
    max: float | None = None
    min_gain: float | None = None
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidArgumentError(f"The name of a metric rule must be a metric's name, not {self.name!r}.")
        limits = {"min": self.min, "max": self.max, "min_gain": self.min_gain}
        for key, limit in limits.items():
            if limit is not None and not (is_number(limit) and math.isfinite(limit)):
                raise InvalidArgumentError(f"{key} of metric {self.name!r} must be a finite number, not {limit!r}.")
        if not isinstance(self.higher_is_better, bool):
            raise InvalidArgumentError(f"higher_is_better of metric {self.name!r} must be True or False.")
        if all(limit is None for limit in limits.values()):
            raise InvalidArgumentError(
                f"The rule for metric {self.name!r} could refuse nothing: give it min, max or min_gain."
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise InvalidArgumentError(f"min of metric {self.name!r} is greater than its max: nothing could pass.")

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:
        """Check the thresholds, then the gain."""
        if self.min is not None:
            yield self._threshold(candidate, self.min, ">=", "at least")
        if self.max is not None:
            yield self._threshold(candidate, self.max, "<=", "at most")
        if self.min_gain is not None:
            yield self._gain(candidate, champion, self.min_gain)

    def _threshold(self, candidate: Facts, limit: float, sign: str, words: str) -> Check:
        rule, value = f"{self.name} {sign} {_shown(limit)}", candidate.metrics.get(self.name)
        if not _is_usable(value):
            return Check(rule, False, _no_value("the candidate", self.name, candidate), _plain(value), limit)
        passed = value >= limit if sign == ">=" else value <= limit
        return Check(rule, passed, f"{self.name} is {_shown(value)}, {words} {_shown(limit)} is asked", value, limit)

    def _gain(self, candidate: Facts, champion: Facts | None, limit: float) -> Check:
        rule, value = f"{self.name} gain >= {_shown(limit)}", candidate.metrics.get(self.name)
        if not _is_usable(value):
            return Check(rule, False, _no_value("the candidate", self.name, candidate), _plain(value))
        if champion is None:
            return Check(rule, True, f"{self.name} is {_shown(value)}, and there is no champion yet", value)
        before = champion.metrics.get(self.name)
        if candidate.is_same_model(champion):
            return Check(rule, True, f"{self.name}: the candidate is the champion's own model", value, _plain(before))
        if not _is_usable(before):
            reason = _no_value("the champion", self.name, champion)
            return Check(rule, False, f"{reason}; there is nothing to compare with", value, _plain(before))
        better, worse = (value, before) if self.higher_is_better else (before, value)
        gain = _EXACT.subtract(_decimal(better), _decimal(worse))
        reason = (
            f"{self.name} is {_shown(value)} against the champion's {_shown(before)}: a gain of {_shown(gain)}"
            f"{'' if self.higher_is_better else ' (lower is better)'}, at least {_shown(limit)} is asked"
        )
        return Check(rule, gain >= _decimal(limit), reason, value, before)


@dataclass(frozen=True, slots=True)
class TagRule:
    """The candidate carries a tag.

    :param key: the tag's key
    :param values: the values allowed; none given: any value
    """

    key: str
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise InvalidArgumentError(f"The key of a required tag must be a tag's key, not {self.key!r}.")
        if not isinstance(self.values, tuple) or not all(isinstance(value, str) for value in self.values):
            raise InvalidArgumentError(f"values of required tag {self.key!r} must be strings, not {self.values!r}.")

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check that the tag is there and has an allowed value."""
        value, wanted = candidate.tags.get(self.key), " or ".join(map(repr, self.values))
        rule = f"tag {self.key}" + (f" = {wanted}" if wanted else "")
        reason = f"tag {self.key!r} is " + ("missing" if value is None else repr(value))
        reason += f", {wanted} is asked" if wanted else ", which is required" if value is None else ""
        passed = value is not None and (not self.values or value in self.values)
        yield Check(rule, passed, reason, value, wanted or None)


@dataclass(frozen=True, slots=True)
class SignaturePresentRule:
    """The candidate has a signature with inputs and outputs, as Unity Catalog asks."""

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check the candidate's signature."""
        signature = candidate.signature
        if signature is None:
            yield Check("signature", False, "the candidate has no signature", "none")
            return
        missing = [part for part in ("inputs", "outputs") if not getattr(signature, part)]
        lacks = f"the candidate's signature has no {' and no '.join(missing)}"
        yield Check("signature", not missing, lacks if missing else "the candidate has a signature", "present")


@dataclass(frozen=True, slots=True)
class SignatureCompatibleRule:
    """Callers of the champion can call the candidate; see signatures.py. Passes without a champion."""

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:
        """Check the candidate's signature against the champion's."""
        rule = "signature compatible"
        if champion is None:
            yield Check(rule, True, "there is no champion yet whose signature must be kept")
        elif champion.signature is None:
            yield Check(rule, True, "the champion has no signature to keep")
        else:
            reasons = compatible(candidate.signature, champion.signature)
            yield Check(rule, not reasons, "; ".join(reasons) or "the signature is compatible with the champion's")


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_usable(value: float | None) -> TypeGuard[float]:
    """Whether a metric can be compared: not NaN, nor infinite, which an MLflow server stores as the greatest float."""
    return value is not None and abs(value) < sys.float_info.max


def _no_value(whose: str, name: str, facts: Facts) -> str:
    value = facts.metrics.get(name)
    if value is not None:
        return f"{name} of {whose} is {value}, which compares with nothing"
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


def _shown(value: float | Decimal) -> str:
    return repr(float(value)).removesuffix(".0")
