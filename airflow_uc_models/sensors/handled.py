"""What a task handled in earlier runs of its Dag: where a new run goes on from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_HELD = "handled"


@dataclass(frozen=True)
class Handled:
    """The last thing handled, kept as a dict in an XCom of the task's own.

    :param context: the context of the task
    :param kind: what was handled, such as ``version``; the XCom is named after it
    :param subject: what it belongs to, such as connection and model: each has a memory of its own
    """

    context: Context
    kind: str
    subject: tuple[str, ...]

    def keep(self, value: dict[str, Any]) -> None:
        """Keep a thing as handled, for later Dag runs."""
        dated = self.context["dag_run"].logical_date is not None
        self.context["ti"].xcom_push(key=self._key(dated), value=value)

    def last(self, order: Callable[[dict[str, Any]], Any], *, hold: bool) -> dict[str, Any] | None:
        """Return what was handled last in earlier Dag runs, None if nothing was.

        :param order: the key by which the later of two is told
        :param hold: keep to the first answer while this try of the task is rescheduled; Airflow can from 3.3 on
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

        It gives the XCom of one earlier run, and sorts runs without a logical date before all others or after all
        others, depending on the database. So each kind has a key of its own, and ``order`` decides between the two.
        The map index must be named, or the values of all runs come back in no order.
        """
        ti = self.context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        found = (
            ti.xcom_pull(key=self._key(dated), include_prior_dates=True, map_indexes=map_index)
            for dated in (True, False)
        )
        return max((value for value in found if value is not None), key=order, default=None)

    def _key(self, dated: bool) -> str:
        """Return the XCom key; hashed because a model name may hold what a URL may not."""
        digest = hashlib.sha256("\x1f".join(self.subject).encode()).hexdigest()[:16]
        return f"handled_{self.kind}_{digest}" if dated else f"handled_{self.kind}_{digest}_undated"
