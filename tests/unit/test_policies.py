"""Promotion rules and policies: pure, so tested by example and by property."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.policies import Facts, MetricRule, PromotionPolicy, TagRule
from airflow_uc_models.signatures import Field, Signature

DOUBLE, LONG = {"type": "double"}, {"type": "long"}
SIGNATURE = Signature(inputs=(Field("x", DOUBLE),), outputs=(Field(None, LONG),))
METRIC_NAMES = ("accuracy", "loss", "auc")


def metric_policy(*rules, **options):
    none = {"require_signature": False, "compatible_signature": False}
    return PromotionPolicy(metrics=rules or None, **none | options)


def judge(policy, candidate, champion=None):
    """The verdict on metrics alone; champion=None is no champion."""
    return policy.judge(Facts(metrics=candidate), None if champion is None else Facts(metrics=champion))


# -- metrics


@pytest.mark.parametrize(
    ("rule", "candidate", "champion", "approved"),
    [
        (MetricRule("a", min=0.9), 0.9, None, True),
        (MetricRule("a", min=0.9), math.nextafter(0.9, 0), None, False),
        (MetricRule("a", max=0.3), 0.3, None, True),
        (MetricRule("a", max=0.3), math.nextafter(0.3, 1), None, False),
        (MetricRule("a", min=0.2, max=0.3), 0.25, 9, True),
        (MetricRule("a", min_gain=0, higher_is_better=True), 0.5, None, True),
        (MetricRule("a", min_gain=0, higher_is_better=True), 0.5, 0.5, True),
        (MetricRule("a", min_gain=0, higher_is_better=True), 0.4, 0.5, False),
        (MetricRule("a", min_gain=0.1, higher_is_better=True), 0.9, 0.8, True),
        (MetricRule("a", min_gain=0.1, higher_is_better=True), math.nextafter(0.9, 0), 0.8, False),
        (MetricRule("a", min_gain=-0.1, higher_is_better=True), 0.8, 0.9, True),
        (MetricRule("a", min_gain=-0.1, higher_is_better=True), 0.79, 0.9, False),
        (MetricRule("a", min_gain=0, higher_is_better=False), 0.5, 0.5, True),
        (MetricRule("a", min_gain=0, higher_is_better=False), 0.6, 0.5, False),
        (MetricRule("a", min_gain=0.1, higher_is_better=False), 0.8, 0.9, True),
        (MetricRule("a", max=0.3, min_gain=0.1, higher_is_better=False), 0.4, 0.9, False),
        (MetricRule("a", min_gain=1e-300, higher_is_better=True), 1e308, -1e308, True),
    ],
)
def test_one_metric(rule, candidate, champion, approved):
    verdict = judge(metric_policy(rule), {"a": candidate}, None if champion is None else {"a": champion})
    assert verdict.approved is approved


def test_binary_difference_would_have_refused_a_gain_of_a_tenth():
    assert 0.9 - 0.8 < 0.1
    verdict = judge(metric_policy(MetricRule("a", min_gain=0.1, higher_is_better=True)), {"a": 0.9}, {"a": 0.8})
    assert verdict.reasons == ["a 0.9, champion 0.8: gain 0.1, required >= 0.1"]


def test_every_condition_yields_a_check_with_both_numbers():
    policy = metric_policy(
        MetricRule("accuracy", min=0.9, min_gain=0.05),
        MetricRule("loss", max=0.2, min_gain=0, higher_is_better=False),
        required_tags=["reviewed_by"],
    )
    verdict = judge(policy, {"accuracy": 0.92, "loss": 0.3}, {"accuracy": 0.9, "loss": 0.35})
    assert [(c.rule, c.passed, c.candidate, c.against) for c in verdict.checks] == [
        ("accuracy >= 0.9", True, 0.92, 0.9),
        ("accuracy gain >= 0.05", False, 0.92, 0.9),
        ("loss <= 0.2", False, 0.3, 0.2),
        ("loss gain >= 0", True, 0.3, 0.35),
        ("tag reviewed_by", False, None, None),
    ]
    assert not verdict.approved
    assert verdict.reasons == [
        "accuracy 0.92, champion 0.9: gain 0.02, required >= 0.05",
        "loss 0.3, required <= 0.2",
        "tag 'reviewed_by' is missing, which is required",
    ]


def test_reasons_of_an_approval_are_what_speaks_for_it():
    verdict = judge(metric_policy(MetricRule("a", min=0.5), required_tags={"qa": ["ok", "fine"]}), {"a": 1})
    assert not verdict.approved
    verdict = metric_policy(MetricRule("a", min=0.5), required_tags={"qa": ["ok", "fine"]}).judge(
        Facts(metrics={"a": 1}, tags={"qa": "fine"}), None
    )
    assert verdict.approved
    assert verdict.reasons == ["a 1, required >= 0.5", "tag 'qa' is 'fine', required 'ok' or 'fine'"]


@pytest.mark.parametrize("limits", [{"min": 0.1}, {"max": 0.9}, {"min_gain": -1}])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1.7976931348623157e308])
@pytest.mark.parametrize("champion", [None, {"a": 0.5}])
def test_a_candidate_metric_that_is_unknown_or_not_finite_refuses(limits, value, champion):
    candidate = {} if value is None else {"a": value}
    verdict = judge(metric_policy(MetricRule("a", **limits, higher_is_better=True)), candidate, champion)
    assert not verdict.approved
    json.dumps(verdict.to_xcom(), allow_nan=False)


def test_an_unknown_metric_says_where_it_was_looked_for_and_what_is_known():
    facts = Facts(metrics={"acc": 1.0, "loss": 2.0}, metrics_from="run 7")
    verdict = metric_policy(MetricRule("accuracy", min=0, min_gain=0)).judge(facts, None)
    assert len(verdict.checks) == 2
    assert verdict.reasons == ["accuracy of the candidate is unknown: not in run 7 (known: acc, loss)"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_champion_metric_that_is_unknown_or_not_finite_refuses_a_gain(value):
    policy = metric_policy(MetricRule("a", min_gain=0, higher_is_better=True))
    champion = Facts(metrics={} if value is None else {"a": value}, metrics_from="run 7")
    verdict = policy.judge(Facts(metrics={"a": 1}), champion)
    assert not verdict.approved
    assert "nothing to compare with" in verdict.reasons[0]
    thresholds_alone = metric_policy(MetricRule("a", min=0)).judge(Facts(metrics={"a": 1}), champion)
    assert thresholds_alone.approved


def test_the_first_candidate_needs_no_gain_and_still_its_thresholds():
    policy = metric_policy(MetricRule("a", min=0.5, min_gain=0.1, higher_is_better=True))
    good, bad = judge(policy, {"a": 0.6}), judge(policy, {"a": 0.4})
    assert good.approved
    assert "no champion yet" in good.reasons[1]
    assert not bad.approved


def test_the_champion_need_not_be_better_than_itself():
    policy = metric_policy(MetricRule("a", min=0.5, min_gain=0.1, higher_is_better=True))
    one, other = (Facts(metrics={"a": 0.6}, model=model) for model in ("m-1", "m-2"))
    assert policy.judge(one, one).approved
    assert not policy.judge(one, other).approved
    assert not policy.judge(Facts(metrics={"a": 0.6}), Facts(metrics={"a": 0.6})).approved  # nobody knows
    assert not policy.judge(Facts(metrics={"a": 0.4}, model="m-1"), one).approved


numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
metrics = st.dictionaries(st.sampled_from(METRIC_NAMES), st.floats(width=32))
rules = st.builds(
    MetricRule,
    st.sampled_from(METRIC_NAMES),
    min=st.none() | numbers,
    min_gain=numbers,
    higher_is_better=st.booleans(),
)


@given(st.lists(rules, min_size=1), metrics, st.none() | metrics, st.data())
def test_a_better_metric_never_turns_approval_into_rejection(rules, candidate, champion, data):
    rule = data.draw(st.sampled_from(rules))
    ups = [r.higher_is_better for r in rules if r.name == rule.name]
    has_floor = any(r.min is not None for r in rules if r.name == rule.name)
    if len(set(ups)) > 1 or (has_floor and not ups[0]):
        return  # rules that pull one metric both ways
    policy = metric_policy(*rules)
    before = judge(policy, candidate, champion)
    value = candidate.get(rule.name, math.nan)
    if not before.approved or math.isnan(value):
        return
    better = data.draw(numbers.filter(lambda x: x >= value if ups[0] else x <= value))
    assert judge(policy, {**candidate, rule.name: better}, champion).approved


@given(st.lists(rules, min_size=1), metrics, st.none() | metrics)
def test_every_verdict_of_a_policy_lists_the_same_rules(rules, candidate, champion):
    policy = PromotionPolicy(metrics=rules, required_tags=["t"])
    verdict = judge(policy, candidate, champion)
    assert [c.rule for c in verdict.checks] == [c.rule for c in judge(policy, {}, None).checks]
    assert len(verdict.checks) == sum(1 + (r.min is not None) for r in rules) + 3
    assert verdict.approved == all(c.passed for c in verdict.checks)
    assert all(c.reason for c in verdict.checks)
    json.dumps(verdict.to_xcom(), allow_nan=False)


@given(numbers, numbers)
def test_no_worse_means_exactly_that(candidate, champion):
    verdict = judge(
        metric_policy(MetricRule("a", min_gain=0, higher_is_better=True)), {"a": candidate}, {"a": champion}
    )
    assert verdict.approved == (candidate >= champion)


# -- tags and signatures


@pytest.mark.parametrize(
    ("required", "tags", "approved"),
    [
        (["a"], {"a": ""}, True),
        (["a"], {"b": "1"}, False),
        (["a", "b"], {"a": "1"}, False),
        ({"a": "1"}, {"a": "1"}, True),
        ({"a": "1"}, {"a": "2"}, False),
        ({"a": ["1", "2"]}, {"a": "2"}, True),
        ([TagRule("a"), TagRule("b", ("1",))], {"a": "x", "b": "1"}, True),
        ([TagRule("a"), TagRule("b", ("1",))], {"a": "x", "b": "2"}, False),
    ],
)
def test_required_tags(required, tags, approved):
    assert metric_policy(required_tags=required).judge(Facts(tags=tags), Facts(tags={})).approved is approved


def test_signatures_are_required_and_kept_unless_told_otherwise():
    policy = PromotionPolicy()
    none, dropped = Facts(), Facts(signature=Signature(inputs=(), outputs=SIGNATURE.outputs))
    good = Facts(signature=SIGNATURE)
    assert policy.judge(good, None).approved
    assert policy.judge(good, good).approved
    assert policy.judge(good, none).approved
    assert policy.judge(none, None).reasons == ["the candidate has no signature"]
    assert not policy.judge(none, good).approved
    assert not policy.judge(dropped, good).approved
    assert not PromotionPolicy(require_signature=False).judge(none, good).approved
    assert PromotionPolicy(require_signature=False).judge(none, none).approved
    assert PromotionPolicy(compatible_signature=False).judge(Facts(signature=SIGNATURE), none).approved


def test_a_champion_is_required_only_if_told():
    gain = [MetricRule("accuracy", min_gain=0.1)]
    candidate, champion = Facts(metrics={"accuracy": 0.9}), Facts(metrics={"accuracy": 0.5})
    relaxed, strict = (
        PromotionPolicy(metrics=gain, require_signature=False, require_champion=required) for required in (False, True)
    )
    assert relaxed.judge(candidate, None).approved
    assert strict.judge(candidate, None).reasons == [
        "there is no champion, which is required; is its model or alias mistyped?"
    ]
    assert strict.judge(candidate, champion).approved
    assert PromotionPolicy.of({"require_champion": "true"}).require_champion


def test_a_signature_without_outputs_is_no_signature():
    verdict = PromotionPolicy().judge(Facts(signature=Signature(inputs=SIGNATURE.inputs)), None)
    assert verdict.reasons == ["the candidate's signature has no outputs"]


def test_signatures_are_looked_at_only_where_a_rule_needs_them():
    assert not metric_policy(MetricRule("a", min=0)).needs_signature
    assert metric_policy(compatible_signature=True).needs_signature
    assert metric_policy(require_signature=True).needs_signature
    assert not metric_policy(MetricRule("a", min=0)).needs_champion_metrics
    assert metric_policy(MetricRule("a", min_gain=0, higher_is_better=True)).needs_champion_metrics


# -- policies that are none


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MetricRule("a"), "could refuse nothing"),
        (lambda: MetricRule("", min=1), "must be a metric's name"),
        (lambda: MetricRule("a", min=math.nan), "finite number"),
        (lambda: MetricRule("a", max=math.inf), "finite number"),
        (lambda: MetricRule("a", max=10**400), "finite number"),
        (lambda: MetricRule("a", min="0.9"), "finite number"),
        (lambda: MetricRule("a", min=True), "finite number"),
        (lambda: MetricRule("a", min=2, max=1), "nothing could pass"),
        (lambda: MetricRule("a", min=2, higher_is_better="no"), "higher_is_better"),
        (lambda: TagRule(""), "tag's key"),
        (lambda: TagRule("a", "b"), "must be strings"),
        (metric_policy, "no rule"),
        (lambda: metric_policy(required_tags={}), "no rule"),
        (lambda: PromotionPolicy(metrics=MetricRule("a", min=1)), "list of MetricRule"),
        (lambda: PromotionPolicy(metrics=[{"name": "a"}]), "list of MetricRule"),
        (lambda: PromotionPolicy(required_tags="reviewed"), "required_tags"),
        (lambda: PromotionPolicy(required_tags={"a": None}), "required tag 'a'"),
        (lambda: PromotionPolicy(required_tags={"a": []}), "required tag 'a'"),
        (lambda: PromotionPolicy(required_tags=[]), "required_tags of the policy is empty"),
        (lambda: PromotionPolicy(metrics=[]), "metrics of the policy is empty"),
        (lambda: PromotionPolicy(require_signature="yes"), "require_signature"),
    ],
)
def test_what_cannot_refuse_or_makes_no_sense_is_not_built(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()


def test_a_policy_from_a_dict_and_from_json():
    expected = PromotionPolicy(
        metrics=[MetricRule("accuracy", min=0.9, min_gain=0), MetricRule("loss", max=0.4, higher_is_better=False)],
        required_tags=["reviewed_by", TagRule("qa", ("ok",))],
        compatible_signature=False,
    )
    plain = {
        "metrics": [
            {"name": "accuracy", "min": 0.9, "min_gain": 0},
            {"name": "loss", "max": 0.4, "higher_is_better": False},
        ],
        "required_tags": ["reviewed_by", {"key": "qa", "values": ["ok"]}],
        "compatible_signature": False,
    }
    assert PromotionPolicy.of(plain) == expected
    assert PromotionPolicy.of(json.dumps(plain)) == expected
    assert PromotionPolicy.of(expected) is expected


def test_numbers_and_flags_may_be_strings_as_templates_render_them():
    rendered = {
        "metrics": [{"name": "loss", "max": " 0.4", "higher_is_better": "False"}],
        "require_signature": "true",
        "required_tags": {"qa": "ok"},
    }
    assert PromotionPolicy.of(rendered) == PromotionPolicy(
        metrics=[MetricRule("loss", max=0.4, higher_is_better=False)], required_tags={"qa": "ok"}
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({}, "policy is empty"),
        ("", "not JSON"),
        ("{'metrics': []}", "tojson"),
        ("[]", "policy must be a dict"),
        (None, "policy must be a dict"),
        (MetricRule("a", min=1), "policy must be a dict"),
        ({"metric": []}, "Unknown key 'metric' in policy; known are metrics, required_tags"),
        ({"metrics": {"name": "a"}}, "metrics of the policy must be a list"),
        ({"metrics": [{"min": 1}]}, r"metrics\[0\] of the policy has no name"),
        ({"metrics": ["a"]}, r"metrics\[0\] must be a dict"),
        ({"metrics": [{"name": "a", "minimum": 1}]}, r"Unknown key 'minimum' in metrics\[0\]"),
        ({"metrics": [{"name": "a", "min": "high"}]}, r"min in metrics\[0\] of the policy must be a number"),
        ({"metrics": [{"name": "a", "min": ""}]}, "must be a number"),
        ({"metrics": [{"name": "a", "min": None, "min_gain": 0}]}, "must be a number"),
        ({"metrics": [{"name": "a", "min": True}]}, "must be a number"),
        ({"metrics": [{"name": "a", "min": "nan"}]}, "finite"),
        ({"metrics": [{"name": "a", "min": 1, "higher_is_better": "maybe"}]}, "true or false"),
        ({"require_signature": 1}, "true or false"),
        ({"required_tags": [{"value": "a"}]}, "Unknown key 'value'"),
        ({"required_tags": [{"values": ["a"]}]}, "tag's key"),
        ({"required_tags": [{"key": "a", "values": []}]}, "required tag 'a'"),
        ({"required_tags": {"a": " "}}, "required tag 'a' must be a string that is not blank"),
        ({"required_tags": [{"key": "a", "values": ["x", ""]}]}, "required tag 'a'"),
        ('{"max_size": 1, "metrics": [{"name": "a", "min": 1, "min": 0}]}', "'min' is in the policy's JSON twice"),
        ('{"max_size": 1, "max_size": 9}', "'max_size' is in the policy's JSON twice"),
        ({"required_tags": "a"}, "required_tags must be a list"),
        ({"require_signature": False, "compatible_signature": False}, "no rule"),
    ],
)
def test_a_dict_that_is_no_policy_says_why(policy, message):
    with pytest.raises(InvalidArgumentError, match=message):
        PromotionPolicy.of(policy)
