"""What an approver is shown, and what an answer says: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from airflow_uc_models.approvals import Answer, ApprovalRequest, cell
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.policies import Facts, MetricRule, PromotionPolicy

VERSION = ModelVersion("dev.ml.fraud", 3)
AT = datetime(2026, 11, 22, 12, 30, 1, 999, tzinfo=timezone(timedelta(hours=2)))


def rejected():
    policy = PromotionPolicy(metrics=[MetricRule("a", min=1)], require_signature=False, compatible_signature=False)
    return {"champion": None, **policy.judge(Facts(metrics={"a": 0.5}), None).to_xcom()}


def test_a_rejection_by_the_policy_is_shown_to_who_may_overrule_it():
    body = ApprovalRequest(VERSION, verdict=rejected()).body()
    assert "| Verdict | **rejected** |" in body
    assert "| Champion | none yet |" in body
    assert r"| **FAILED** | a \>= 1 | a 0.5, required \>= 1 |" in body


def test_a_version_that_nobody_judged():
    assert "| Verdict | not validated |" in ApprovalRequest(VERSION).body()
    judged = ModelVersion("dev.ml.fraud", 3, tags={"validation_status": "rejected"})
    assert "| Verdict | **rejected** |" in ApprovalRequest(judged).body()


def test_metrics_of_both_sides():
    champion = ModelVersion("prod.ml.fraud", 1)
    shown = ApprovalRequest(VERSION, {"a": 0.5}, champion, {"b": 1e-9}, {**rejected(), "metrics": {}}).body()
    assert "| Metric | Candidate | Champion |\n| --- | --- | --- |\n| a | 0.5 |  |\n| b |  | 1e-9 |" in shown
    assert "| Champion | prod.ml.fraud version 1 |" in shown


def test_until_when_to_answer_and_what_happens_then():
    until = datetime(2026, 11, 29, 14, 5, 33, tzinfo=UTC)
    assert (
        "| Answer by | **2026-11-29 14:05 UTC**; then it counts as rejected |"
        in ApprovalRequest(VERSION, deadline=until).body()
    )
    assert "Answer by" not in ApprovalRequest(VERSION).body()


def test_what_others_wrote_is_shown_as_it_is():
    assert cell("a|b\n[x](http://y) <b> `z` **s** ~t~ !") == (r"a\|b \[x\](http://y) \<b\> \`z\` \*\*s\*\* \~t\~ \!")
    assert cell(None) == ""


@pytest.mark.parametrize(
    ("user", "by", "by_id"),
    [
        ({"id": "7", "name": "ann"}, "ann", "7"),
        ({"id": 7, "name": ""}, "7", "7"),
        ({"id": "7", "name": " ann "}, "ann", "7"),
        (None, "time-out", None),
        ({}, "time-out", None),
    ],
)
@pytest.mark.parametrize("at", [AT, AT.isoformat()])
def test_an_answer_says_who_and_when(user, by, by_id, at):
    answer = Answer.of(approved=user is not None and by == "ann", user=user, at=at)
    assert (answer.by, answer.by_id, answer.at) == (by, by_id, "2026-11-22T10:30:01+00:00")
    assert answer.timed_out is (by_id is None)
    assert answer.tags() == {f"{answer.status}_by": by, f"{answer.status}_at": answer.at}
    assert answer.to_xcom()["approval_status"] == ("approved" if by == "ann" else "rejected")
