"""The rules that promotion policies are made of, but for those on metrics. Pure: no Airflow, no registry, no mlflow.

A rule is a small frozen class whose ``checks`` yields one Check per condition, whatever the facts are, so that a
verdict always lists all of them. What is unknown refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.quantities import age_text, size_text
from airflow_uc_models.signatures import Signature, compatible

# Clocks of servers differ; what is further ahead of ours is no time to rely on.
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules may know of a model version; what was not asked for is as if it were unknown.

    :param metrics: value by metric name
    :param tags: tags of the version
    :param signature: the model's signature, None if it has none
    :param model: what tells one model from another; two versions of one and the same model share it
    :param metrics_from: where metrics were looked for, in words that complete "not in ..."
    :param evaluated_on: the data on which metrics were measured for this verdict, by metric; others were logged
    :param description: the version's description
    :param size: bytes of all files of the version
    :param flavors: see flavors.py
    :param made_at: when the model was made
    :param as_of: the time for which the facts hold: the clock of the rule on age
    :param smoke_test: what is wrong with a prediction of the model's own input example; empty if nothing is
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    signature: Signature | None = None
    model: str | None = None
    metrics_from: str = "its metrics"
    evaluated_on: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    size: int | None = None
    flavors: frozenset[str] | None = None
    made_at: datetime | None = None
    as_of: datetime | None = None
    smoke_test: str | None = None

    def is_same_model(self, other: Facts) -> bool:
        """Whether both are versions of one and the same model."""
        return self.model is not None and self.model == other.model


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one condition: a reason for people, with rounded numbers, and the exact values.

    :param rule: the condition, such as ``accuracy >= 0.9``
    :param reason: why it passed or not; two numbers that differ never look the same
    :param candidate: the candidate's side of what was compared; a number that is not finite is a string here
    :param against: the other side: a threshold, the champion's value, or the wanted value
    :param champion: the champion's value, also where it was not compared with
    :param required: what was required, such as ``>= 0.9``
    :param gain: of a rule on a gain: how much better the candidate is
    """

    rule: str
    passed: bool
    reason: str
    candidate: float | str | None = None
    against: float | str | None = None
    champion: float | str | None = None
    required: str | None = None
    gain: float | None = None


class Rule(Protocol):
    """A rule of a policy."""

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:
        """Yield as many checks for any facts, in the same order."""
        ...


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
        reason += f", required {wanted}" if wanted else ", which is required" if value is None else ""
        passed = value is not None and (not self.values or value in self.values)
        yield Check(rule, passed, reason, value, wanted or None, required=wanted or "present")


@dataclass(frozen=True, slots=True)
class DescriptionRule:
    """The candidate has a description.

    :param min_length: characters it has at least, blanks at both ends not counted
    """

    min_length: int = 1

    def __post_init__(self) -> None:
        if not _is_positive(self.min_length, int):
            raise InvalidArgumentError(
                f"The least length of a description must be a whole number above 0, not {self.min_length!r}."
            )

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check the length of the description."""
        length = len((candidate.description or "").strip())
        rule = "description" + (f" >= {self.min_length} characters" if self.min_length > 1 else "")
        reason = f"the description has {length} characters, required >= {self.min_length}"
        if not length:
            reason = "the candidate has no description, which is required"
        required = f">= {self.min_length} characters" if self.min_length > 1 else "present"
        yield Check(rule, length >= self.min_length, reason, length, self.min_length, required=required)


@dataclass(frozen=True, slots=True)
class SignaturePresentRule:
    """The candidate has a signature with inputs and outputs, as Unity Catalog asks."""

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check the candidate's signature."""
        signature = candidate.signature
        if signature is None:
            yield Check("signature", False, "the candidate has no signature", "none", required="present")
            return
        missing = [part for part in ("inputs", "outputs") if not getattr(signature, part)]
        lacks = f"the candidate's signature has no {' and no '.join(missing)}"
        reason = lacks if missing else "the candidate has a signature"
        yield Check("signature", not missing, reason, "incomplete" if missing else "present", required="present")


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


@dataclass(frozen=True, slots=True)
class ChampionRule:
    """There is a champion; without this rule, the first candidate has only to keep to thresholds."""

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check that the candidate has something to be compared with."""
        missing = "there is no champion, which is required; is its model or alias mistyped?"
        reason = missing if champion is None else "there is a champion"
        yield Check("champion", champion is not None, reason, required="present")


@dataclass(frozen=True, slots=True)
class SizeRule:
    """The files of the candidate are not more than so many bytes; a size that no server tells refuses."""

    max_bytes: int

    def __post_init__(self) -> None:
        if not _is_positive(self.max_bytes, int):
            raise InvalidArgumentError(f"max_size must be a number of bytes above 0, not {self.max_bytes!r}.")

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check the sum of all files."""
        required, size = f"<= {size_text(self.max_bytes)}", candidate.size
        rule = f"size {required}"
        if size is None or size < 1:
            reason = "the size of the files is unknown: the server does not tell it for each of them"
            yield Check(rule, False, reason, size, self.max_bytes, required=required)
            return
        reason = f"the files have {size:,} bytes, required <= {self.max_bytes:,}"
        yield Check(rule, size <= self.max_bytes, reason, size, self.max_bytes, required=required)


@dataclass(frozen=True, slots=True)
class FlavorsRule:
    """The candidate was saved in allowed flavors only.

    :param allowed: such as ``("sklearn", "xgboost")``; ``python_function`` allows models of any code
    """

    allowed: tuple[str, ...]

    def __post_init__(self) -> None:
        is_names = isinstance(self.allowed, tuple) and all(isinstance(name, str) and name for name in self.allowed)
        if not is_names or not self.allowed:
            raise InvalidArgumentError(
                f"allowed_flavors must be a list of at least one name of a flavor, not {self.allowed!r}."
            )

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check each flavor of the candidate."""
        allowed, flavors = " or ".join(self.allowed), candidate.flavors
        rule = f"flavor {allowed}"
        if not flavors:
            yield Check(rule, False, "the flavors of the candidate are unknown", None, allowed, required=allowed)
            return
        named, wrong = ", ".join(sorted(flavors)), sorted(flavors - set(self.allowed))
        reason = f"{', '.join(wrong)} is not allowed, only {allowed}" if wrong else f"{named} is allowed"
        yield Check(rule, not wrong, reason, named, allowed, required=allowed)


@dataclass(frozen=True, slots=True)
class AgeRule:
    """The candidate was not made longer ago than this; a model without a known time, or from the future, refuses."""

    max_age: timedelta

    def __post_init__(self) -> None:
        if not _is_positive(self.max_age, timedelta):
            raise InvalidArgumentError(f"max_age must be a timedelta above 0, not {self.max_age!r}.")

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check the time between the making of the model and the facts."""
        limit = age_text(self.max_age)
        required, made, now = f"<= {limit}", candidate.made_at, candidate.as_of
        rule = f"age {required}"
        if made is None or now is None:
            yield Check(rule, False, "the time when the model was made is unknown", None, limit, required=required)
            return
        age = now - made
        if age < -_CLOCKS_DIFFER:
            reason = f"the model was made at {made.isoformat()}, which lies in the future: set the clocks right"
            yield Check(rule, False, reason, made.isoformat(), limit, required=required)
            return
        age = max(age, timedelta(0))
        shown = age_text(age, self.max_age)
        reason = f"the model of {made.isoformat(timespec='seconds')} is {shown} old, required {required}"
        yield Check(rule, age <= self.max_age, reason, shown, limit, required=required)


@dataclass(frozen=True, slots=True)
class SmokeTestRule:
    """The candidate, in an environment of its own, predicts its input example as its signature says."""

    def checks(self, candidate: Facts, champion: Facts | None) -> Iterator[Check]:  # noqa: ARG002
        """Check how the prediction went."""
        wrong = "it was not made" if candidate.smoke_test is None else candidate.smoke_test
        reason = wrong or "the model predicts its input example as its signature says"
        yield Check("smoke test", not wrong, reason, "failed" if wrong else "passed", required="passed")


def _is_positive(value: Any, of: type) -> bool:
    return isinstance(value, of) and not isinstance(value, bool) and value > of()
