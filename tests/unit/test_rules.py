"""Each rule of the policy language by itself, and each value that is none: pure."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.policies import Facts, MetricRule, PromotionPolicy
from airflow_uc_models.quantities import parse_size
from airflow_uc_models.rules_metrics import slice_metric_name

NO_SIGNATURE = {"require_signature": False, "compatible_signature": False}
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def policy(**rules):
    return PromotionPolicy(**NO_SIGNATURE, **rules)


def check(rules, facts, champion=None):
    """The one check of a policy."""
    [found] = rules.judge(facts, champion).checks
    return found


# -- relative gains


@pytest.mark.parametrize(
    ("limit", "higher", "candidate", "champion", "passed"),
    [
        (0.05, True, 0.84, 0.8, True),
        (0.05, True, math.nextafter(0.84, 0), 0.8, False),
        (0.05, False, 0.76, 0.8, True),
        (0.05, False, 0.77, 0.8, False),
        (-0.05, True, 0.76, 0.8, True),
        (-0.05, True, 0.75, 0.8, False),
        # of the magnitude: from -100 to -95 is better by 5 %
        (0.05, True, -95.0, -100.0, True),
        (0.05, True, -96.0, -100.0, False),
        (0.05, True, -105.0, -100.0, False),
        (0.05, False, -105.0, -100.0, True),
        (2, True, 3.0, 1.0, True),
    ],
)
def test_a_relative_gain_is_a_fraction_of_the_champions_magnitude(limit, higher, candidate, champion, passed):
    rules = policy(metrics=[MetricRule("a", min_relative_gain=limit, higher_is_better=higher)])
    assert check(rules, Facts(metrics={"a": candidate}), Facts(metrics={"a": champion})).passed is passed


@pytest.mark.parametrize("candidate", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("limit", [-0.5, 0, 0.5])
def test_there_is_no_fraction_of_nothing(limit, candidate):
    rules = policy(metrics=[MetricRule("a", min_relative_gain=limit, higher_is_better=True)])
    found = check(rules, Facts(metrics={"a": candidate}), Facts(metrics={"a": 0.0}))
    assert not found.passed
    assert "no fraction of 0" in found.reason
    assert "min_gain" in found.reason


def test_a_relative_gain_tells_both_numbers_and_the_fraction():
    rules = policy(metrics=[MetricRule("a", min_gain=0.1, min_relative_gain=0.05, higher_is_better=True)])
    verdict = rules.judge(Facts(metrics={"a": 0.84}), Facts(metrics={"a": 0.8}))
    assert [(c.rule, c.passed, c.candidate, c.against) for c in verdict.checks] == [
        ("a gain >= 0.1", False, 0.84, 0.8),
        ("a relative gain >= 0.05", True, 0.84, 0.8),
    ]
    reason = "a 0.84, champion 0.8: relative gain 0.05, required >= 0.05"
    assert verdict.checks[1].reason == reason


@pytest.mark.parametrize(
    ("rule", "value", "champion", "reason"),
    [
        (MetricRule("a", min=0.96), 0.959961, 0.5, "a 0.95996, required >= 0.96"),
        (MetricRule("a", max=0.1), 0.100000001, 0.5, "a 0.100000001, required <= 0.1"),
        (MetricRule("a", min=0.5), 0.87654321, 0.5, "a 0.8765, required >= 0.5"),
        (
            MetricRule("a", min_gain=0, higher_is_better=True),
            0.8,
            0.80000001,
            "a 0.8, champion 0.80000001: gain -1e-8, required >= 0",
        ),
        (
            MetricRule("a", min_gain=0.1, higher_is_better=True),
            0.899999,
            0.8,
            "a 0.9, champion 0.8: gain 0.099999, required >= 0.1",
        ),
    ],
)
def test_reasons_are_rounded_and_a_refusal_never_looks_like_a_pass(rule, value, champion, reason):
    found = check(policy(metrics=[rule]), Facts(metrics={"a": value}), Facts(metrics={"a": champion}))
    assert found.reason == reason
    assert (found.candidate, found.champion) == (value, champion)  # exact


# Eighths are the same in binary and in decimals: no rounding, where MLflow and we differ by a hair.
eighths = st.integers(-40, 40).map(lambda x: x / 8)


@given(
    eighths,
    eighths.filter(bool),
    eighths,
    eighths.filter(lambda x: x > 0),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.booleans(),
)
def test_the_verdict_is_that_of_mlflows_own_validation(candidate, champion, limit, gain, relative, higher):
    import mlflow
    from mlflow.models import MetricThreshold
    from packaging.version import Version

    if Version(mlflow.__version__) < Version("3.17"):  # divides by the signed value, which turns it around below 0
        champion = abs(champion)
    threshold = MetricThreshold(limit, gain, relative, greater_is_better=higher)
    sides = [{"a": candidate}, {"a": champion}]
    try:
        mlflow.validate_evaluation_results({"a": threshold}, *(SimpleNamespace(metrics=side) for side in sides))
        theirs = True
    except mlflow.exceptions.MlflowException:
        theirs = False
    ours = policy(metrics={"a": threshold}).judge(*(Facts(metrics=side) for side in sides))
    assert ours.approved is theirs


class Threshold:
    """The public attributes of mlflow.models.MetricThreshold."""

    def __init__(self, threshold=None, min_absolute_change=None, min_relative_change=None, greater_is_better=None):
        self.threshold, self.greater_is_better = threshold, greater_is_better
        self.min_absolute_change, self.min_relative_change = min_absolute_change, min_relative_change


def test_mlflows_metric_thresholds_are_taken():
    rules = policy(
        metrics={
            "accuracy": Threshold(0.9, 0.1, 0.05, greater_is_better=True),
            "loss": Threshold(0.4, greater_is_better=False),
        }
    )
    assert rules == policy(
        metrics=[
            MetricRule("accuracy", min=0.9, min_gain=0.1, min_relative_gain=0.05),
            MetricRule("loss", max=0.4, higher_is_better=False),
        ]
    )
    with pytest.raises(InvalidArgumentError, match="dict of metric to MetricThreshold; that of 'a' is 0"):
        policy(metrics={"a": 0})


# -- slices


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("country=DE", "accuracy/country_DE"),
        ("age=18-25", "accuracy/age_18-25"),
        ("site=a/b:c", "accuracy/site_a_b_c"),
        ("name=../x", "accuracy/name_.._x"),
        ("city=Zürich", "accuracy/city_Zürich"),
    ],
)
def test_metrics_of_slices_have_names_that_mlflow_takes(part, name):
    assert slice_metric_name("accuracy", part) == name


def test_a_rule_holds_for_each_slice():
    rule = MetricRule("accuracy", min=0.8, min_gain=0, slices=["country=DE", "country=FR"])
    candidate = Facts(metrics={"accuracy": 0, "accuracy/country_DE": 0.9, "accuracy/country_FR": 0.7})
    champion = Facts(metrics={"accuracy/country_DE": 0.95, "accuracy/country_FR": 0.6})
    verdict = policy(metrics=[rule]).judge(candidate, champion)
    assert [(c.rule, c.passed, c.candidate, c.against) for c in verdict.checks] == [
        ("accuracy/country_DE >= 0.8", True, 0.9, 0.8),
        ("accuracy/country_DE gain >= 0", False, 0.9, 0.95),
        ("accuracy/country_FR >= 0.8", False, 0.7, 0.8),
        ("accuracy/country_FR gain >= 0", True, 0.7, 0.6),
    ]
    assert verdict.metrics["accuracy/country_DE"] == {"candidate": 0.9, "champion": 0.95}


def test_a_slice_without_the_metric_refuses_though_all_data_has_it():
    rules = policy(metrics=[MetricRule("accuracy", min=0.1, slices=["country=DE"])])
    found = check(rules, Facts(metrics={"accuracy": 1}))
    assert not found.passed
    assert found.reason.startswith("accuracy/country_DE of the candidate is unknown")


def test_metrics_of_slices_may_be_named_otherwise():
    rules = policy(metrics=[MetricRule("f1", min=0.1, slices=["DE"], slice_metric="eval/{slice}.{metric}")])
    assert check(rules, Facts(metrics={"eval/DE.f1": 1})).passed


# -- values that were evaluated


def test_a_reason_says_that_a_value_was_evaluated_and_on_what():
    facts = Facts(metrics={"a": 0.9}, evaluated_on={"a": "test.parquet"})
    found = check(policy(metrics=[MetricRule("a", min=0.5)]), facts)
    assert found.reason == "a 0.9 (evaluated on test.parquet), required >= 0.5"


@pytest.mark.parametrize(("one", "other"), [("x", None), (None, "x"), ("x", "y")])
def test_values_of_different_data_are_not_compared(one, other):
    sides = [
        Facts(metrics={"a": value}, evaluated_on={"a": on} if on else {}) for value, on in ((0.9, one), (0.1, other))
    ]
    found = check(policy(metrics=[MetricRule("a", min_gain=0, higher_is_better=True)]), *sides)
    assert not found.passed
    assert "a is not comparable" in found.reason


# -- description


@pytest.mark.parametrize(
    ("wanted", "description", "passed"),
    [
        (True, "x", True),
        (True, None, False),
        (True, "", False),
        (True, " \n\t", False),
        (5, "12345", True),
        (5, " 1234 ", False),
        ("5", "12345", True),
        ("true", "x", True),
    ],
)
def test_description(wanted, description, passed):
    rules = PromotionPolicy.of({"require_description": wanted, **NO_SIGNATURE})
    assert check(rules, Facts(description=description)).passed is passed


# -- size


@pytest.mark.parametrize(
    ("limit", "size", "passed"),
    [
        (100, 100, True),
        (100, 101, False),
        ("1KB", 1000, True),
        ("1KB", 1001, False),
        (100, None, False),
        (100, 0, False),
        (100, -1, False),
    ],
)
def test_size(limit, size, passed):
    found = check(policy(max_size=limit), Facts(size=size))
    assert found.passed is passed
    assert (found.candidate, found.against) == (size, parse_size("", limit))


# -- flavors


@pytest.mark.parametrize(
    ("flavors", "passed"),
    [
        ({"sklearn"}, True),
        ({"sklearn", "xgboost"}, True),
        ({"python_function"}, False),
        ({"sklearn", "python_function"}, False),
        (set(), False),
        (None, False),
    ],
)
def test_allowed_flavors(flavors, passed):
    facts = Facts(flavors=None if flavors is None else frozenset(flavors))
    assert check(policy(allowed_flavors=["sklearn", "xgboost"]), facts).passed is passed


# -- age


@pytest.mark.parametrize(
    ("limit", "age", "passed"),
    [
        (30, timedelta(days=30), True),
        (30, timedelta(days=30, seconds=1), False),
        ("36 hours", timedelta(hours=36), True),
        (timedelta(hours=36), timedelta(hours=37), False),
        (30, timedelta(0), True),
        (30, timedelta(minutes=-4), True),
        (30, timedelta(minutes=-6), False),
        (30, None, False),
    ],
)
def test_age(limit, age, passed):
    made = None if age is None else NOW - age
    assert check(policy(max_age=limit), Facts(made_at=made, as_of=NOW)).passed is passed
    assert not check(policy(max_age=limit), Facts(made_at=made)).passed  # without a clock


# -- smoke test


@pytest.mark.parametrize(("found", "passed"), [("", True), ("it broke", False), (None, False)])
def test_smoke_test(found, passed):
    assert check(policy(smoke_test=True), Facts(smoke_test=found)).passed is passed


# -- the language as a whole


def test_a_verdict_lists_every_rule_though_all_fail():
    rules = PromotionPolicy(
        metrics=[MetricRule("a", min=1, min_relative_gain=0, higher_is_better=True)],
        required_tags=["t"],
        require_description=True,
        max_size=1,
        allowed_flavors=["sklearn"],
        max_age=1,
        smoke_test=True,
    )
    verdict = rules.judge(Facts(), Facts())
    assert [c.rule for c in verdict.checks if not c.passed] == [
        "a >= 1",
        "a relative gain >= 0",
        "tag t",
        "description",
        "signature",
        "size <= 1 B",
        "flavor sklearn",
        "age <= 1 day",
        "smoke test",
    ]
    json.dumps(verdict.to_xcom(), allow_nan=False)


PLAIN = {
    "metrics": [
        {"name": "accuracy", "min_relative_gain": "0.05", "slices": ["x=1"], "slice_metric": "{slice}/{metric}"}
    ],
    "require_description": "20",
    "max_size": "500MB",
    "allowed_flavors": ["sklearn"],
    "max_age": "30 days",
    "smoke_test": "true",
}


def test_the_whole_language_as_json():
    assert PromotionPolicy.of(json.dumps(PLAIN)) == PromotionPolicy(
        metrics=[MetricRule("accuracy", min_relative_gain=0.05, slices=["x=1"], slice_metric="{slice}/{metric}")],
        require_description=20,
        max_size="500MB",
        allowed_flavors=["sklearn"],
        max_age="30 days",
        smoke_test=True,
    )


@pytest.mark.parametrize("key", PLAIN)
@pytest.mark.parametrize("nothing", [None, "", []])
def test_a_template_that_renders_to_nothing_drops_no_rule(key, nothing):
    with pytest.raises(InvalidArgumentError, match=key):
        PromotionPolicy.of({**PLAIN, key: nothing})


def rule(**options):
    return policy(metrics=[{"name": "a", "min": 1, **options}])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: policy(max_size=0), "max_size"),
        (lambda: policy(max_size="big"), "max_size"),
        (lambda: policy(max_age=0), "max_age"),
        (lambda: policy(max_age=-1), "max_age"),
        (lambda: policy(allowed_flavors=[]), "allowed_flavors"),
        (lambda: policy(allowed_flavors="sklearn"), "allowed_flavors"),
        (lambda: policy(allowed_flavors=[""]), "allowed_flavors"),
        (lambda: policy(allowed_flavors=[None]), "allowed_flavors"),
        (lambda: policy(require_description=0), "least length"),
        (lambda: policy(require_description=-1), "require_description"),
        (lambda: policy(require_description="yes"), "require_description"),
        (lambda: policy(smoke_test="yes"), "smoke_test"),
        (lambda: MetricRule(" ", min=1), "metric's name"),
        (lambda: MetricRule("a", min_relative_gain=math.nan, higher_is_better=True), "finite"),
        (lambda: MetricRule("a", min_relative_gain=-1, higher_is_better=True), "fraction"),
        (lambda: MetricRule("a", min=1, slices=[]), "at least one slice"),
        (lambda: MetricRule("a", min=1, slices="country=DE"), "list of at least one slice"),
        (lambda: MetricRule("a", min=1, slices=[" "]), "at least one slice"),
        (lambda: MetricRule("a", min=1, slices=["x=1", "x=1"]), "the same name"),
        (lambda: MetricRule("a", min=1, slices=["x=1", "x:1"]), "the same name"),
        (lambda: MetricRule("a", min=1, slice_metric="{metric}"), "each once"),
        (lambda: MetricRule("a", min=1, slice_metric="{slice}"), "each once"),
        (lambda: MetricRule("a", min=1, slice_metric="{metric}{slice}{x}"), "each once"),
        (lambda: MetricRule("a", min=1, slice_metric=None), "each once"),
        (
            lambda: PromotionPolicy.of({"metrics": [{"name": "a", "min": 1, "slices": "x=1"}]}),
            r"slices in metrics\[0\]",
        ),
        (lambda: PromotionPolicy.of({"metrics": [{"name": "a", "min_relative_gain": None}]}), "must be a number"),
        (lambda: PromotionPolicy.of({"allowed_flavors": "sklearn"}), "allowed_flavors of the policy must be a list"),
        (lambda: PromotionPolicy.of({"max_size": "{{ params.size }}"}), "max_size"),
    ],
)
def test_what_is_no_rule_is_refused(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()
