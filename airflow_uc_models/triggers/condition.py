"""The trigger that deferred sensors wait with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_uc_models.exceptions import UCModelsError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook

if TYPE_CHECKING:
    from airflow_uc_models.conditions import Condition
    from airflow_uc_models.registry.watch import Looked
    from airflow_uc_models.triggers.waiting_log import WaitingLog


class ConditionTrigger(BaseTrigger):
    """Look at a registry until a condition is met, and send one event that says how it ended.

    * ``{"outcome": "met", "version": {...}}``: the version's dict, as it goes to XCom; or ``{"outcome": "met",
      "model": {...}}``, where a registered model was waited for;
    * ``{"outcome": "failed", "message": ..., "version": {...} or None}``: waiting cannot mend it;
    * ``{"outcome": "timeout", "message": ...}``: the deadline has passed.

    A registry that gives no answer for a while is ridden out with a warning; unknown errors propagate. There is no
    ``on_kill``: a wait leaves nothing behind that had to be stopped.

    :param condition: what to wait for, as ``Condition.to_json()`` gives it
    :param registry_conn_id: connection of the registry; the triggerer reads its credentials from there
    :param reason: why the sensor waits, as its log says already
    :param poll_interval: seconds between two looks
    :param deadline: when to give up, in seconds since the epoch, so that a restart of the triggerer does not
        start the wait anew; None for never
    :param max_poll_interval: if set, the interval doubles from look to look up to this many seconds
    """

    def __init__(
        self,
        *,
        condition: dict[str, Any],
        registry_conn_id: str,
        reason: str = "",
        poll_interval: float = 60.0,
        deadline: float | None = None,
        max_poll_interval: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.condition = condition
        self.registry_conn_id = registry_conn_id
        self.reason = reason
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.max_poll_interval = max_poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that rebuild the trigger; there are no credentials in them."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "condition": self.condition,
                "registry_conn_id": self.registry_conn_id,
                "reason": self.reason,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "max_poll_interval": self.max_poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        from airflow_uc_models.conditions import condition_from_json
        from airflow_uc_models.registry.watch import Looked
        from airflow_uc_models.triggers.waiting_log import WaitingLog, timed_out

        condition = condition_from_json(self.condition)
        hook = ModelRegistryHook(self.registry_conn_id)
        interval, looked, waiting = self.poll_interval, Looked(), WaitingLog(self.log, reason=self.reason)
        while True:
            if self.deadline is not None and time.time() >= self.deadline:
                looked = Looked()  # the last look leaves nothing out
            event = await self._look(hook, condition, looked, waiting)
            # The last look comes after the deadline, never before it.
            left = None if self.deadline is None else self.deadline - time.time()
            if event is None and left is not None and left <= 0:
                event = {"outcome": "timeout", "message": timed_out(condition, waiting.reason)}
            if event is not None:
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(interval if left is None else min(interval, left))
            if self.max_poll_interval is not None:
                interval = min(interval * 2, self.max_poll_interval)

    async def _look(
        self, hook: ModelRegistryHook, condition: Condition, looked: Looked, waiting: WaitingLog
    ) -> dict[str, Any] | None:
        """Return the event that ends the wait, None if it goes on."""
        from airflow_uc_models.conditions import Failed, Waiting
        from airflow_uc_models.registry.watch import evaluate

        try:
            endpoint = await hook.aendpoint()
            outcome = await hook.arun(evaluate(endpoint.registry, condition, looked), quiet=waiting.in_trouble)
        except UCModelsError as error:
            if error.permanent:
                failed = Failed(error.used(f"connection {self.registry_conn_id!r}"))
                return failed.to_event()
            waiting.ride_out(error)
            return None
        outcome = waiting.tell(outcome)
        return None if isinstance(outcome, Waiting) else outcome.to_event(endpoint.connection_label)
