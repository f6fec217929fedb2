"""Promotion policies: what a model version must fulfil to become champion, as an object, a dict or JSON.

A new rule is a class in rules.py and a field here, which ``PromotionPolicy.rules`` turns into it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn, Self

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.rules import (
    Check,
    Facts,
    MetricRule,
    Rule,
    SignatureCompatibleRule,
    SignaturePresentRule,
    TagRule,
    is_number,
)

__all__ = ["Check", "Facts", "MetricRule", "PromotionPolicy", "TagRule", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of a policy; approved if each of them passed."""

    checks: tuple[Check, ...]

    @property
    def approved(self) -> bool:
        """Whether the candidate may take the champion's place; never without any check."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """What speaks against a rejected candidate, or for an approved one."""
        return [check.reason for check in self.checks if check.passed == self.approved]

    def to_xcom(self) -> dict[str, Any]:
        """Return the verdict as plain JSON."""
        return {
            "approved": self.approved,
            "validation_status": "approved" if self.approved else "rejected",
            "checks": [asdict(check) for check in self.checks],
            "reasons": self.reasons,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionPolicy:
    """What a model version must fulfil to become champion; everything in it must hold.

    ::

        PromotionPolicy(
            metrics=[
                MetricRule("accuracy", min=0.9, min_gain=0.0),
                MetricRule("log_loss", max=0.4, higher_is_better=False),
            ],
            required_tags=["reviewed_by"],
        )

    or the same as plain JSON, where an operator takes a policy::

        {"metrics": [{"name": "accuracy", "min": 0.9, "min_gain": 0.0},
                     {"name": "log_loss", "max": 0.4, "higher_is_better": false}],
         "required_tags": ["reviewed_by"]}

    :param metrics: conditions on metrics
    :param required_tags: tags of the candidate: a list of keys or TagRules, or a dict of key to the value wanted (a
        list of values: one of them)
    :param require_signature: the candidate has a signature with inputs and outputs
    :param compatible_signature: the candidate's signature is compatible with the champion's
    """

    metrics: Sequence[MetricRule] = ()
    required_tags: Sequence[str | TagRule] | Mapping[str, str | Sequence[str]] = ()
    require_signature: bool = True
    compatible_signature: bool = True

    def __post_init__(self) -> None:
        if not _is_list(self.metrics) or not all(isinstance(rule, MetricRule) for rule in self.metrics):
            raise InvalidArgumentError(f"metrics of a policy must be a list of MetricRule, not {self.metrics!r}.")
        for flag in ("require_signature", "compatible_signature"):
            if not isinstance(getattr(self, flag), bool):
                raise InvalidArgumentError(f"{flag} of a policy must be True or False, not {getattr(self, flag)!r}.")
        if not self.rules:
            raise InvalidArgumentError("The policy has no rule: it would approve everything. Give it at least one.")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order of the verdict's checks."""
        return (
            *self.metrics,
            *_tag_rules(self.required_tags),
            *([SignaturePresentRule()] if self.require_signature else []),
            *([SignatureCompatibleRule()] if self.compatible_signature else []),
        )

    @property
    def needs_signature(self) -> bool:
        """Whether any rule looks at signatures, which are expensive to get."""
        return self.require_signature or self.compatible_signature

    @property
    def needs_champion_metrics(self) -> bool:
        """Whether any rule compares metrics with the champion's."""
        return any(rule.min_gain is not None for rule in self.metrics)

    def judge(self, candidate: Facts, champion: Facts | None) -> Verdict:
        """Return the verdict on a candidate; ``champion`` is None where there is none yet."""
        return Verdict(tuple(check for rule in self.rules for check in rule.checks(candidate, champion)))

    @classmethod
    def of(cls, value: PromotionPolicy | Mapping[str, Any] | str) -> PromotionPolicy:
        """Return a policy that is given as an object, as a dict, or as JSON text of a dict."""
        if isinstance(value, PromotionPolicy):
            return value
        if not isinstance(value, str):
            return cls.from_dict(value)
        try:
            return cls.from_dict(json.loads(value))
        except json.JSONDecodeError as error:
            raise InvalidArgumentError(
                f"The policy is not JSON ({error}): {value[:200]!r}. In a template, write a dict with | tojson."
            ) from None

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Build a policy from plain JSON; numbers and flags may be strings, as templates render them.

        Raises: InvalidArgumentError for what is unknown, missing or of a wrong type.
        """
        policy = _known("policy", value, cls)
        if not policy:
            raise InvalidArgumentError("The policy is empty; if it comes from a template, that rendered to nothing.")
        for flag in {"require_signature", "compatible_signature"} & set(policy):
            policy[flag] = _flag(flag, policy[flag])
        if "metrics" in policy:
            policy["metrics"] = _each("metrics", policy["metrics"], _metric_rule)
        if _is_list(policy.get("required_tags")):
            policy["required_tags"] = _each("required_tags", policy["required_tags"], _tag_rule)
        return cls(**policy)


def _metric_rule(where: str, value: Any) -> MetricRule:
    if isinstance(value, MetricRule):
        return value
    rule = _known(where, value, MetricRule)
    if "name" not in rule:
        raise InvalidArgumentError(f"{where} of the policy has no name of a metric: {value!r}.")
    for key in {"min", "max", "min_gain"} & set(rule):
        rule[key] = _number(f"{key} in {where}", rule[key])
    if "higher_is_better" in rule:
        rule["higher_is_better"] = _flag(f"higher_is_better in {where}", rule["higher_is_better"])
    return MetricRule(**rule)


def _tag_rule(where: str, value: Any) -> str | TagRule:
    if isinstance(value, str | TagRule):
        return value
    rule = _known(where, value, TagRule)
    key = rule.get("key", "")
    return TagRule(key, _values(key, rule["values"]) if "values" in rule else ())


def _tag_rules(tags: Any) -> tuple[TagRule, ...]:
    if isinstance(tags, Mapping):
        return tuple(TagRule(key, _values(key, value)) for key, value in tags.items())
    if not _is_list(tags) or not all(isinstance(tag, str | TagRule) for tag in tags):
        raise InvalidArgumentError(f"required_tags must be a list of keys or a dict of key to value, not {tags!r}.")
    return tuple(TagRule(tag) if isinstance(tag, str) else tag for tag in tags)


def _values(key: Any, value: Any) -> tuple[str, ...]:
    """Return allowed values; none at all would allow any, which must not come from an empty template."""
    values = (value,) if isinstance(value, str) else tuple(value) if _is_list(value) else ()
    if not values:
        raise InvalidArgumentError(
            f"The value of required tag {key!r} must be a string or a list of strings, not {value!r}; to allow any "
            "value, give required_tags as a list of keys."
        )
    return values


def _known(where: str, value: Any, of: type) -> dict[str, Any]:
    """Return a dict whose keys are all fields of a class."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{where} must be a dict, not {type(value).__name__}: {value!r}.")
    known = [f.name for f in fields(of)]
    if unknown := [key for key in value if key not in known]:
        raise InvalidArgumentError(
            f"Unknown key {', '.join(map(repr, unknown))} in {where}; known are {', '.join(known)}."
        )
    return dict(value)


def _each(where: str, value: Any, build: Callable[[str, Any], Any]) -> list[Any]:
    if not _is_list(value):
        _fail(where, "a list", value)
    return [build(f"{where}[{i}]", item) for i, item in enumerate(value)]


def _number(where: str, value: Any) -> float:
    """Read a number; None is none, or a template that rendered to nothing would drop a threshold."""
    try:
        return value if is_number(value) else float(str(value))
    except ValueError:
        _fail(where, "a number", value)


def _flag(where: str, value: Any) -> bool:
    flags = {"true": True, "false": False}
    text = str(value).strip().lower()
    return flags[text] if text in flags else _fail(where, "true or false", value)


def _fail(where: str, wanted: str, value: Any) -> NoReturn:
    raise InvalidArgumentError(f"{where} of the policy must be {wanted}, not {value!r}.")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
