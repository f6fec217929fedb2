"""Parts of a policy out of plain JSON; numbers and flags may be strings, as templates render them.

None is no value anywhere: a template that rendered to nothing must not drop a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.evaluation import Evaluation
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.quantities import as_switch
from airflow_uc_models.rules import TagRule
from airflow_uc_models.rules_metrics import MetricRule, is_number


def metric_rules(where: str, value: Any) -> list[MetricRule]:
    """Read a list of rules on metrics, or a dict of metric to MLflow's MetricThreshold."""
    if isinstance(value, Mapping):
        return [of_threshold(name, threshold) for name, threshold in value.items()]
    return _each(where, value, metric_rule)


def metric_rule(where: str, value: Any) -> MetricRule:
    """Read one rule on a metric."""
    if isinstance(value, MetricRule):
        return value
    rule = known(where, value, MetricRule)
    if "name" not in rule:
        raise InvalidArgumentError(f"{where} of the policy has no name of a metric: {value!r}.")
    for key in {"min", "max", "min_gain", "min_relative_gain"} & set(rule):
        rule[key] = number(f"{key} in {where}", rule[key])
    if "higher_is_better" in rule:
        rule["higher_is_better"] = flag(f"higher_is_better in {where}", rule["higher_is_better"])
    if "slices" in rule:
        rule["slices"] = strings(f"slices in {where}", rule["slices"])
    return MetricRule(**rule)


def of_threshold(name: str, threshold: Any) -> MetricRule:
    """Return the rule that asks for what an ``mlflow.models.MetricThreshold`` asks for."""
    try:
        limit, higher = threshold.threshold, threshold.greater_is_better
        gain, relative = threshold.min_absolute_change, threshold.min_relative_change
    except AttributeError:
        raise InvalidArgumentError(
            "metrics of the policy must be a list of rules, or a dict of metric to MetricThreshold; that of "
            f"{name!r} is {threshold!r}."
        ) from None
    limits = {"min" if higher else "max": limit, "min_gain": gain, "min_relative_gain": relative}
    return MetricRule(name, higher_is_better=higher, **limits)


def tag_rule(where: str, value: Any) -> str | TagRule:
    """Read one required tag."""
    if isinstance(value, str | TagRule):
        return value
    rule = known(where, value, TagRule)
    key = rule.get("key", "")
    return TagRule(key, _values(key, rule["values"]) if "values" in rule else ())


def required_tags(where: str, value: Any) -> Any:
    """Read required tags where they are a list; a dict is read as it is."""
    return _each(where, value, tag_rule) if is_list(value) else given(where, value)


def tag_rules(tags: Any) -> tuple[TagRule, ...]:
    """Return required tags as rules."""
    if tags is None:
        return ()
    if isinstance(tags, Mapping):
        return tuple(TagRule(key, _values(key, value)) for key, value in tags.items())
    if not is_list(tags) or not all(isinstance(tag, str | TagRule) for tag in tags):
        raise InvalidArgumentError(f"required_tags must be a list of keys or a dict of key to value, not {tags!r}.")
    return tuple(TagRule(tag) if isinstance(tag, str) else tag for tag in tags)


def evaluation(where: str, value: Any) -> Evaluation:
    """Read what models are measured on."""
    if isinstance(value, Evaluation):
        return value
    found = known(where, value, Evaluation)
    if missing := [key for key in ("data", "targets", "model_type") if key not in found]:
        raise InvalidArgumentError(f"{where} of the policy lacks {', '.join(missing)}: {value!r}.")
    for key in found:
        given(f"{key} in {where}", found[key])
    if "csv_options" in found:
        found["csv_options"] = CsvOptions.parse(found["csv_options"])
    if "max_rows" in found:
        rows = number(f"max_rows in {where}", found["max_rows"])
        found["max_rows"] = int(rows) if float(rows).is_integer() else rows
    return Evaluation(**found)


def known(where: str, value: Any, of: type) -> dict[str, Any]:
    """Return a dict whose keys are all fields of a class."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{where} must be a dict, not {type(value).__name__}: {value!r}.")
    names = [f.name for f in fields(of)]
    if unknown := [key for key in value if key not in names]:
        raise InvalidArgumentError(
            f"Unknown key {', '.join(map(repr, unknown))} in {where}; known are {', '.join(names)}."
        )
    return dict(value)


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON text; of a key that is there twice, Python would drop the first without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise InvalidArgumentError(f"{', '.join(map(repr, twice))} is in the policy's JSON twice, in the same object.")
    return found


def number(where: str, value: Any) -> float:
    """Read a number."""
    try:
        return value if is_number(value) else float(str(value))
    except ValueError:
        fail(where, "a number", value)


def flag(where: str, value: Any) -> bool:
    """Read true or false."""
    found = as_switch(value)
    return found if isinstance(found, bool) else fail(where, "true or false", value)


def flag_or_length(where: str, value: Any) -> bool | int:
    """Read true, false or a whole number."""
    text = str(value).strip()
    return int(text) if text.isdecimal() else flag(where, value)


def strings(where: str, value: Any) -> list[str]:
    """Read a list of strings that is not empty."""
    if not is_list(value) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        fail(where, "a list of at least one string", value)
    return list(value)


def given(where: str, value: Any) -> Any:
    """Return a value that is neither None nor blank."""
    is_blank = value is None or (isinstance(value, str) and not value.strip())
    return fail(where, "given, or left out", value) if is_blank else value


def fail(where: str, wanted: str, value: Any) -> NoReturn:
    """Raise the error for a value of a wrong kind."""
    raise InvalidArgumentError(f"{where} of the policy must be {wanted}, not {value!r}.")


def is_list(value: Any) -> bool:
    """Whether a value is a list or alike, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _values(key: Any, value: Any) -> tuple[str, ...]:
    """Return allowed values; none at all would allow any, which must not come from an empty template."""
    values = (value,) if isinstance(value, str) else tuple(value) if is_list(value) else ()
    if not values or any(isinstance(one, str) and not one.strip() for one in values):
        raise InvalidArgumentError(
            f"The value of required tag {key!r} must be a string that is not blank, or a list of such, not {value!r}; "
            "to allow any value, give required_tags as a list of keys."
        )
    return values


def _each(where: str, value: Any, build: Callable[[str, Any], Any]) -> list[Any]:
    if not is_list(value):
        fail(where, "a list", value)
    return [build(f"{where}[{i}]", item) for i, item in enumerate(value)]
