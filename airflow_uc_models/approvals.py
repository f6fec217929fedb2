"""Approvals of model versions: what an approver is shown, in Markdown, and what an answer leaves as tags. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.quantities import number_texts

STATUS_TAG = "approval_status"
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"
ANSWER_TAGS = ("approved_by", "approved_at", "rejected_by", "rejected_at")
BY_TIME_OUT = "time-out"
TIME_FORMAT = "%Y-%m-%d %H:%M %Z"


@dataclass(frozen=True, slots=True)
class Answer:
    """An approver's answer, or the one that a time-out gives.

    :param by: name of the user; ``time-out`` if nobody answered in time
    :param by_id: id of the user, None after a time-out
    :param at: when, in ISO 8601, UTC
    """

    approved: bool
    by: str
    by_id: str | None
    at: str

    @classmethod
    def of(cls, *, approved: bool, user: Mapping[str, Any] | None, at: datetime | str) -> Answer:
        """Read what Airflow knows of a response."""
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        text = moment.astimezone(UTC).isoformat(timespec="seconds")
        if not user:
            return cls(approved, BY_TIME_OUT, None, text)
        # without blanks at the ends, which Unity Catalog takes in no tag
        name = str(user.get("name") or "").strip()
        return cls(approved, name or str(user.get("id")), str(user.get("id")), text)

    @classmethod
    def from_xcom(cls, value: Mapping[str, Any]) -> Answer:
        """Return the answer that ``to_xcom`` made this of."""
        return cls(value["approved"], value["by"], value["by_id"], value["at"])

    @property
    def status(self) -> str:
        """The value of the tag ``approval_status``."""
        return APPROVED if self.approved else REJECTED

    @property
    def timed_out(self) -> bool:
        """Whether nobody answered."""
        return self.by_id is None

    def tags(self) -> dict[str, str]:
        """Return who and when, as tags."""
        return {f"{self.status}_by": self.by, f"{self.status}_at": self.at}

    def to_xcom(self) -> dict[str, Any]:
        """Return the answer as plain JSON."""
        return {**asdict(self), STATUS_TAG: self.status, "timed_out": self.timed_out}


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What an approver is shown about a version.

    :param verdict: what a validation operator left in XCom
    :param links: address by title; empty addresses are left out
    :param deadline: when the version counts as rejected without an answer; None for never
    """

    version: ModelVersion
    metrics: Mapping[str, float] = field(default_factory=dict)
    champion: ModelVersion | None = None
    champion_metrics: Mapping[str, float] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    deadline: datetime | None = None

    def subject(self) -> str:
        """Return the headline."""
        return f"Approve {self.version.name} version {self.version.version}?"

    def body(self, note: str | None = None) -> str:
        """Return all that is known, as Markdown.

        :param note: Markdown that comes first
        """
        parts = [note or "", self._facts(), self._metrics(), self._checks()]
        return "\n\n".join(part for part in parts if part)

    def _facts(self) -> str:
        status = (self.verdict or {}).get("validation_status") or self.version.tags.get("validation_status")
        champion = f"{self.champion.name} version {self.champion.version}" if self.champion else "none yet"
        rows = {
            "Version": cell(self.version.version),
            "Description": cell(self.version.description),
            "Verdict": f"**{cell(status)}**" if status else "not validated",
            "Champion": cell(champion) if self.verdict else "",
            "Answer by": f"**{self.deadline:{TIME_FORMAT}}**; then it counts as rejected" if self.deadline else "",
            "Links": ", ".join(f"[{title}](<{url}>)" for title, url in self.links.items() if url),
        }
        return table(("Model", cell(self.version.name)), [(key, value) for key, value in rows.items() if value])

    def _metrics(self) -> str:
        names = sorted({*self.metrics, *self.champion_metrics})
        if not names:
            return ""
        if self.champion is None:
            return table(("Metric", "Candidate"), [(cell(name), *numbers(self.metrics.get(name))) for name in names])
        rows = [(cell(n), *numbers(self.metrics.get(n), self.champion_metrics.get(n))) for n in names]
        return table(("Metric", "Candidate", "Champion"), rows)

    def _checks(self) -> str:
        rows = [
            ("passed" if check["passed"] else "**FAILED**", cell(check["rule"]), cell(check["reason"]))
            for check in (self.verdict or {}).get("checks", ())
        ]
        return table(("Check", "Rule", "Reason"), rows) if rows else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; what cells contain is Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Return text as it is, without any meaning in Markdown or in a table: others may have written it."""
    text = " ".join(str("" if value is None else value).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", text)


def numbers(*values: float | None) -> list[str]:
    """Return numbers as people read them; two that differ do not look the same, and what is missing is empty."""
    texts = iter(number_texts(*(value for value in values if value is not None)))
    return ["" if value is None else next(texts) for value in values]
