"""Statements on the SQL warehouses of a workspace: recorded, and answered as tests say."""

from __future__ import annotations

import itertools
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_uc_models.emulator.errors import denied, invalid, missing
from airflow_uc_models.emulator.privileges import Principal

TERMINAL = ("SUCCEEDED", "FAILED", "CANCELED", "CLOSED")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a statement comes to.

    :param columns: names of the result's columns
    :param rows: the result's rows; all values are text, as in the API
    :param error: the message of a statement that fails
    :param error_code: its code
    :param states: states on the way; each look at the statement finds the next, then its end
    :param hold: an event without which the statement does not leave its first state
    """

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    error: str | None = None
    error_code: str = "BAD_REQUEST"
    states: Sequence[str] = ("PENDING", "RUNNING")
    hold: threading.Event | None = None


@dataclass
class Statement:
    """A statement that was sent.

    :param text: the SQL
    :param steps: how often it was looked at
    """

    statement_id: str
    text: str
    warehouse_id: str
    owner: str
    answer: Answer
    parameters: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    is_cancelled: bool = False

    @property
    def state(self) -> str:
        """Where the statement is now."""
        if self.is_cancelled:
            return "CANCELED"
        if self.steps < len(self.answer.states):
            return self.answer.states[self.steps]
        return "FAILED" if self.answer.error else "SUCCEEDED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in TERMINAL

    @property
    def is_held(self) -> bool:
        """Whether its answer keeps it from going on."""
        return self.answer.hold is not None and not self.answer.hold.is_set()

    def advance(self) -> None:
        """Go on by one state."""
        if not self.is_terminal and not self.is_held:
            self.steps += 1


class Warehouses:
    """The SQL warehouses of a workspace and what was sent to them.

    ``add`` makes a warehouse, ``answer`` says what becomes of statements; others succeed without a result.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._users: dict[str, set[str] | None] = {}
        self._answers: list[tuple[re.Pattern[str], Answer | Callable[[str], Answer], list[int | None]]] = []
        self._sent: dict[str, Statement] = {}
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Statement]:
        return iter(list(self._sent.values()))

    def add(self, warehouse_id: str, *, users: Sequence[str] | None = None) -> None:
        """Make a warehouse that these users, or all, may use."""
        self._users[warehouse_id] = None if users is None else set(users)

    def answer(
        self,
        pattern: str,
        answer: Callable[[str], Answer] | None = None,
        *,
        count: int | None = None,
        **fields: Any,
    ) -> None:
        """Say what becomes of statements in which a regular expression is found; the first that fits holds.

        :param answer: makes the answer of the statement's text; else ``fields`` are those of Answer
        :param count: for so many statements
        """
        made = answer or Answer(**fields)
        self._answers.append((re.compile(pattern, re.DOTALL | re.IGNORECASE), made, [count]))

    def send(self, principal: Principal, warehouse_id: str, text: str, parameters: Any) -> Statement:
        """Begin a statement."""
        if warehouse_id not in self._users:
            raise invalid(f"{warehouse_id} is not a valid endpoint id.")
        users = self._users[warehouse_id]
        if users is not None and principal.name not in users and not principal.is_admin:
            raise denied(f"{principal.name} is not authorized to use or monitor this SQL Endpoint ({warehouse_id}).")
        with self.lock:
            answer = self._answer_to(text)
            number = str(uuid.UUID(int=next(self._numbers)))
            self._sent[number] = Statement(number, text, warehouse_id, principal.name, answer, list(parameters or []))
        return self._sent[number]

    def _answer_to(self, text: str) -> Answer:
        for pattern, answer, left in self._answers:
            if left[0] != 0 and pattern.search(text):
                left[0] = None if left[0] is None else left[0] - 1
                return answer(text) if callable(answer) else answer
        return Answer()

    def find(self, principal: Principal, statement_id: str) -> Statement:
        """Return a statement; only its owner and admins may see it."""
        found = self._sent.get(statement_id)
        if found is None or (found.owner != principal.name and not principal.is_admin):
            raise missing(f"The statement {statement_id} was not found.", "NOT_FOUND")
        return found

    def clear(self) -> None:
        """Forget warehouses, statements and answers; let go of what is held."""
        with self.lock:
            for _, answer, _ in self._answers:
                if isinstance(answer, Answer) and answer.hold:
                    answer.hold.set()
            for statement in self._sent.values():
                if statement.answer.hold:
                    statement.answer.hold.set()
            self._users.clear()
            self._answers.clear()
            self._sent.clear()
