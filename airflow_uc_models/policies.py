"""Promotion policies: what a model version must fulfil to become champion, as an object, a dict or JSON.

A new rule is a class in rules.py and a field here, which ``PromotionPolicy.rules`` turns into it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Self

from airflow_uc_models import policy_json as read
from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.evaluation import Evaluation
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.quantities import parse_age, parse_size
from airflow_uc_models.rules import (
    AgeRule,
    ChampionRule,
    Check,
    DescriptionRule,
    Facts,
    FlavorsRule,
    Rule,
    SignatureCompatibleRule,
    SignaturePresentRule,
    SizeRule,
    SmokeTestRule,
    TagRule,
)
from airflow_uc_models.rules_metrics import MetricRule, metric_values

__all__ = ["Check", "CsvOptions", "Evaluation", "Facts", "MetricRule", "PromotionPolicy", "TagRule", "Verdict"]

ENV_MANAGERS = ("local", "uv", "virtualenv")
_FLAGS = ("require_signature", "compatible_signature", "require_champion", "smoke_test")


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of a policy; approved if each of them passed.

    :param metrics: both sides of each metric that the policy names
    """

    checks: tuple[Check, ...]
    metrics: Mapping[str, Mapping[str, float | str | None]] = field(default_factory=dict)

    @property
    def approved(self) -> bool:
        """Whether the candidate may take the champion's place; never without any check."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """What speaks against a rejected candidate, or for an approved one; each reason once."""
        return list(dict.fromkeys(check.reason for check in self.checks if check.passed == self.approved))

    def to_xcom(self) -> dict[str, Any]:
        """Return the verdict as plain JSON."""
        return {
            "approved": self.approved,
            "validation_status": "approved" if self.approved else "rejected",
            "checks": [asdict(check) for check in self.checks],
            "reasons": self.reasons,
            "metrics": {name: dict(sides) for name, sides in self.metrics.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionPolicy:
    """What a model version must fulfil to become champion; everything in it must hold.

    ::

        PromotionPolicy(
            metrics=[
                MetricRule("accuracy", min=0.9, min_gain=0.0),
                MetricRule("log_loss", max=0.4, min_relative_gain=0.05),
                MetricRule("recall", min=0.8, slices=["country=DE", "country=FR"]),
            ],
            required_tags=["reviewed_by"],
            max_size="500MB",
            max_age="30 days",
        )

    or the same as plain JSON, where an operator takes a policy::

        {"metrics": [{"name": "accuracy", "min": 0.9, "min_gain": 0.0},
                     {"name": "log_loss", "max": 0.4, "min_relative_gain": 0.05},
                     {"name": "recall", "min": 0.8, "slices": ["country=DE", "country=FR"]}],
         "required_tags": ["reviewed_by"], "max_size": "500MB", "max_age": "30 days"}

    :param metrics: conditions on metrics; also a dict of metric to ``mlflow.models.MetricThreshold``
    :param required_tags: tags of the candidate: a list of keys or TagRules, or a dict of key to the value wanted (a
        list of values: one of them)
    :param require_description: the candidate has a description; a number: of so many characters at least
    :param require_signature: the candidate has a signature with inputs and outputs
    :param compatible_signature: the candidate's signature is compatible with the champion's: it may add optional
        inputs, and drops or retypes none
    :param require_champion: there is a champion; else a mistyped name or alias of it reads as "none yet", and no gain
        over it is asked for
    :param max_size: bytes of all files of the candidate at most; a number, or text such as ``500MB`` or ``2GiB``
    :param allowed_flavors: the MLflow flavors that the candidate may be saved in, such as ``["sklearn"]``;
        ``python_function`` allows models of any code
    :param max_age: how long ago the candidate's model was made at most: a timedelta, a number of days, or text such as
        ``36 hours``. The age counts from the earliest of what is known: the version's creation, that of its logged
        model, and the begin of its run, so that a copy is as old as what it was copied from
    :param smoke_test: the candidate predicts its own input example, and its output is as its signature says
    :param evaluation: measure candidate and champion on data before they are judged; a metric that was measured is
        judged instead of one of the same name that was logged
    :param env_manager: where models run for evaluation and smoke test: ``local``, ``uv`` or ``virtualenv``, as in
        BatchInferenceOperator; by default it is chosen by each model's requirements
    """

    metrics: Sequence[MetricRule] | Mapping[str, Any] | None = None
    required_tags: Sequence[str | TagRule] | Mapping[str, str | Sequence[str]] | None = None
    require_description: bool | int = False
    require_signature: bool = True
    compatible_signature: bool = True
    require_champion: bool = False
    max_size: int | str | None = None
    allowed_flavors: Sequence[str] | None = None
    max_age: timedelta | float | str | None = None
    smoke_test: bool = False
    evaluation: Evaluation | Mapping[str, Any] | None = None
    env_manager: str | None = None

    def __post_init__(self) -> None:
        for key in ("metrics", "required_tags"):
            value = getattr(self, key)
            if isinstance(value, Sequence | Mapping) and not value:
                raise InvalidArgumentError(
                    f"{key} of the policy is empty, and so no rule. Leave it out if that is meant."
                )
        if isinstance(self.metrics, Mapping):
            object.__setattr__(self, "metrics", read.metric_rules("metrics", self.metrics))
        if self.metrics is not None and not (
            read.is_list(self.metrics) and all(isinstance(rule, MetricRule) for rule in self.metrics)
        ):
            raise InvalidArgumentError(f"metrics of a policy must be a list of MetricRule, not {self.metrics!r}.")
        for flag in _FLAGS:
            if not isinstance(getattr(self, flag), bool):
                raise InvalidArgumentError(f"{flag} of a policy must be True or False, not {getattr(self, flag)!r}.")
        if not isinstance(self.require_description, int) or self.require_description < 0:
            read.fail("require_description", "True, False or a number of characters", self.require_description)
        if self.allowed_flavors is not None and not read.is_list(self.allowed_flavors):
            read.fail("allowed_flavors", "a list of names", self.allowed_flavors)
        self._check_trials()
        if not self.rules:
            raise InvalidArgumentError("The policy has no rule: it would approve everything. Give it at least one.")

    def _check_trials(self) -> None:
        if self.evaluation is not None:
            object.__setattr__(self, "evaluation", read.evaluation("evaluation", self.evaluation))
            if not self.metrics:
                raise InvalidArgumentError("The policy has an evaluation, and no rule on a metric: give it metrics.")
        if self.env_manager is not None:
            if self.env_manager not in ENV_MANAGERS:
                read.fail("env_manager", f"one of {', '.join(ENV_MANAGERS)}", self.env_manager)
            if not self.runs_models:
                raise InvalidArgumentError("env_manager is for evaluation and smoke_test; the policy has neither.")

    @property
    def runs_models(self) -> bool:
        """Whether the candidate is loaded, in an environment of its own."""
        return self.smoke_test or self.evaluation is not None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order of the verdict's checks."""
        return (
            *self.metric_rules,
            *read.tag_rules(self.required_tags),
            *([DescriptionRule(int(self.require_description))] if self.require_description is not False else []),
            *([SignaturePresentRule()] if self.require_signature else []),
            *([SignatureCompatibleRule()] if self.compatible_signature else []),
            *([ChampionRule()] if self.require_champion else []),
            *([SizeRule(parse_size("max_size of the policy", self.max_size))] if self.max_size is not None else []),
            *([FlavorsRule(tuple(self.allowed_flavors))] if self.allowed_flavors is not None else []),
            *([AgeRule(parse_age("max_age of the policy", self.max_age))] if self.max_age is not None else []),
            *([SmokeTestRule()] if self.smoke_test else []),
        )

    @property
    def metric_rules(self) -> tuple[MetricRule, ...]:
        """The rules on metrics."""
        return tuple(self.metrics or ())  # type: ignore[arg-type]  # a dict of thresholds became rules

    @property
    def needs_signature(self) -> bool:
        """Whether any rule looks at the candidate's signature, which is expensive to get."""
        return self.require_signature or self.compatible_signature

    @property
    def needs_champion_metrics(self) -> bool:
        """Whether any rule compares metrics with the champion's."""
        return any(rule.compares for rule in self.metric_rules)

    def judge(self, candidate: Facts, champion: Facts | None) -> Verdict:
        """Return the verdict on a candidate; ``champion`` is None where there is none yet."""
        names = dict.fromkeys(name for rule in self.metric_rules for name in rule.names)
        return Verdict(
            tuple(check for rule in self.rules for check in rule.checks(candidate, champion)),
            {name: metric_values(name, candidate, champion) for name in names},
        )

    @classmethod
    def of(cls, value: PromotionPolicy | Mapping[str, Any] | str) -> PromotionPolicy:
        """Return a policy that is given as an object, as a dict, or as JSON text of a dict."""
        if isinstance(value, PromotionPolicy):
            return value
        if not isinstance(value, str):
            return cls.from_dict(value)
        try:
            return cls.from_dict(json.loads(value, object_pairs_hook=read.unique))
        except json.JSONDecodeError as error:
            raise InvalidArgumentError(
                f"The policy is not JSON ({error}): {value[:200]!r}. In a template, write a dict with | tojson."
            ) from None

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Build a policy from plain JSON; numbers and flags may be strings, as templates render them.

        Raises: InvalidArgumentError for what is unknown, missing or of a wrong type.
        """
        policy = read.known("policy", value, cls)
        if not policy:
            raise InvalidArgumentError("The policy is empty; if it comes from a template, that rendered to nothing.")
        for key in policy:
            policy[key] = _READERS[key](key, policy[key])
        return cls(**policy)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "metrics": read.metric_rules,
    "required_tags": read.required_tags,
    "require_description": read.flag_or_length,
    **dict.fromkeys(_FLAGS, read.flag),
    "max_size": read.given,
    "allowed_flavors": read.strings,
    "max_age": read.given,
    "evaluation": read.evaluation,
    "env_manager": read.given,
}
