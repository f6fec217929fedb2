"""What the tries of a task instance leave to each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskMemory:
    """A value in Airflow's store for the state of a task, which outlives tries and clears (Airflow 3.3).

    It saves work and nothing rests on it: before Airflow 3.3, or where the store cannot be reached, it is empty.

    :param key: names the value
    """

    context: Context
    key: str

    def get(self) -> Mapping[str, Any]:
        """Return the value that was kept last, or an empty one."""
        store: Any = self.context.get("task_state_store")
        try:
            kept = store.get(self.key) if store is not None else None
        except Exception as error:
            log.debug("The state of the task cannot be read: %s", error)
            return {}
        return kept if isinstance(kept, dict) else {}

    def set(self, value: Mapping[str, Any]) -> None:
        """Keep a value."""
        store: Any = self.context.get("task_state_store")
        try:
            if store is not None:
                store.set(self.key, dict(value))
        except Exception as error:
            log.debug("The state of the task cannot be kept: %s", error)
