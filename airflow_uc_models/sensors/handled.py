"""What a task handled in earlier runs of its Dag: where a new run goes on from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_HELD = "handled"
_RUN_ID = "run_id"


class FoundByAnotherTry(Exception):  # noqa: N818 - says what happened; it ends in an answer, not in a failure
    """Another try of the same task instance has found what this Dag run waits for.

    :param kept: what it kept as handled
    """

    def __init__(self, kept: dict[str, Any]) -> None:
        super().__init__(kept)
        self.kept = kept

    def __str__(self) -> str:
        version = f"version {self.kept['version']} of " if "version" in self.kept else ""
        return f"Another try of this task has found {version}{self.kept['name']}; it is what this Dag run found"


@dataclass(frozen=True)
class Handled:
    """The last thing handled, kept as a dict in an XCom of the task's own.

    A Dag run goes on from what *earlier* runs kept. What it kept itself says that the run has found what it waited for:
    Airflow deletes the XComs of a task when a try starts, so only a try that overlaps this one can have kept it since.

    :param context: the context of the task
    :param kind: what was handled, such as ``version``; the XCom is named after it
    :param subject: what it belongs to, such as connection and model: each has a memory of its own
    """

    context: Context
    kind: str
    subject: tuple[str, ...]

    def keep(self, value: dict[str, Any]) -> None:
        """Keep a thing as handled, for later Dag runs."""
        ti = self.context["ti"]
        ti.xcom_push(key=self._key(self._is_dated()), value={**value, _RUN_ID: ti.run_id})

    def last(self, order: Callable[[dict[str, Any]], Any], *, hold: bool) -> dict[str, Any] | None:
        """Return what was handled last in earlier Dag runs, None if nothing was.

        :param order: the key by which the later of two is told
        :param hold: keep to the first answer while this try of the task is rescheduled; Airflow can from 3.3 on

        Raises: FoundByAnotherTry.
        """
        store = self.context.get("task_state_store") if hold else None
        if store is None:
            return self._last(order)
        try_number = self.context["ti"].try_number
        kept = store.get(_HELD)
        if not isinstance(kept, dict) or kept.get("try_number") != try_number:
            kept = {"try_number": try_number, "value": self._last(order)}
            store.set(_HELD, kept)
        value = kept["value"]
        return value if isinstance(value, dict) else None

    def _last(self, order: Callable[[dict[str, Any]], Any]) -> dict[str, Any] | None:
        """Ask Airflow.

        It gives the XCom of one run up to this one, and sorts runs without a logical date before all others or after
        all others, depending on the database. So each kind has a key of its own, and ``order`` decides between the
        two. The map index must be named, or the values of all runs come back in no order.

        This run is asked for last, and by its id: another run may hide its XCom, and one that is written between two
        questions is known by the id in it.
        """
        earlier = [value for dated in (True, False) if (value := self._pull(dated, include_prior_dates=True))]
        run_id = self.context["ti"].run_id
        own = next((value for value in earlier if value.get(_RUN_ID) == run_id), None) or self._pull(self._is_dated())
        if own is not None:
            raise FoundByAnotherTry(own)
        return max(earlier, key=order, default=None)

    def _pull(self, dated: bool, **options: Any) -> dict[str, Any] | None:
        ti = self.context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        value: dict[str, Any] | None = ti.xcom_pull(key=self._key(dated), map_indexes=map_index, **options)
        return value

    def _is_dated(self) -> bool:
        return self.context["dag_run"].logical_date is not None

    def _key(self, dated: bool) -> str:
        """Return the XCom key; hashed because a model name may hold what a URL may not."""
        digest = hashlib.sha256("\x1f".join(self.subject).encode()).hexdigest()[:16]
        return f"handled_{self.kind}_{digest}" if dated else f"handled_{self.kind}_{digest}_undated"
