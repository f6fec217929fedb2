"""What a wait logs: why it waits, when it begins and whenever that changes; not at each look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from airflow_uc_models.conditions import Condition, Outcome, Waiting
from airflow_uc_models.exceptions import UCModelsError

_KEY = "waiting"


@dataclass(frozen=True)
class StoredReason:
    """The last reason that was logged, where each look is a process of its own (``mode="reschedule"``).

    :param store: Airflow's state store of the task
    :param try_number: the try that waits; the next one begins anew
    """

    store: Any
    try_number: int

    @classmethod
    def of(cls, store: Any, try_number: int) -> Self | None:
        """Return None where Airflow has no state store (before 3.3); there, each look logs its reason."""
        return None if store is None else cls(store, try_number)

    def read(self) -> str:
        """Return the reason, empty if nothing was logged yet."""
        kept = self.store.get(_KEY)
        is_current = isinstance(kept, dict) and kept.get("try_number") == self.try_number
        return str(kept["reason"]) if is_current else ""

    def write(self, reason: str) -> None:
        """Keep a reason for the next look."""
        self.store.set(_KEY, {"try_number": self.try_number, "reason": reason})


class WaitingLog:
    """Logs the reasons of one wait, each change once.

    :param log: the logger of the sensor or trigger
    :param stored: where the last reason is kept between looks, if not here
    :param reason: what was logged already

    :ivar logged: what was logged last
    :ivar reason: why the wait goes on
    :ivar in_trouble: the last look failed
    """

    def __init__(self, log: Any, stored: StoredReason | None = None, reason: str = "") -> None:
        self._log = log
        self._stored = stored
        self.logged = self.reason = reason or (stored.read() if stored else "")
        self.in_trouble = False

    def tell(self, outcome: Outcome) -> Outcome:
        """Take note of what a look found, and return it."""
        if isinstance(outcome, Waiting):
            self.reason = outcome.reason
            if self._changes(outcome.reason):
                self._log.info("Waiting. %s", outcome.reason)
        self.in_trouble = False
        return outcome

    def ride_out(self, error: UCModelsError) -> Waiting:
        """Take note that a look failed in a way that may pass, and return that the wait goes on."""
        self.reason = str(error)
        # Times and counts in the text differ from look to look.
        if self._changes(f"{type(error).__name__} {getattr(error, 'status', None)}"):
            self._log.warning("The wait goes on in spite of an error. %s", error)
        self.in_trouble = True
        return Waiting(self.reason)

    def _changes(self, reason: str) -> bool:
        if reason == self.logged:
            return False
        self.logged = reason
        if self._stored:
            self._stored.write(reason)
        return True


def timed_out(condition: Condition, reason: str) -> str:
    """Return the message of a wait that did not end in time."""
    return f"The timeout was reached while waiting for {condition.describe()}. {reason}".rstrip()
