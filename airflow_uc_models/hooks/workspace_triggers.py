"""The official provider's triggers of runs and statements, whose events have no text of an error.

Airflow logs events and keeps them in its database, and what a workspace says of an error may quote rows.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.databricks.triggers.databricks import (
    DatabricksExecutionTrigger,
    DatabricksSQLStatementExecutionTrigger,
)
from airflow.triggers.base import TriggerEvent

from airflow_uc_models.spark_failures import Failure


class RunTrigger(DatabricksExecutionTrigger):
    """Tells that a run has ended; how is asked of the workspace then."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        return f"{__name__}.{type(self).__name__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the run's id and page at its end."""
        events: Any = super().run()  # type: ignore[no-untyped-call]
        async for event in events:
            yield _event({name: event.payload[name] for name in ("run_id", "run_page_url")})


class StatementTrigger(DatabricksSQLStatementExecutionTrigger):
    """Tells how a statement has ended."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        return f"{__name__}.{type(self).__name__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the statement's state at its end."""
        events: Any = super().run()  # type: ignore[no-untyped-call]
        async for event in events:
            payload = dict(event.payload)
            state = json.loads(payload["state"])
            if message := state.get("error_message"):
                state["error_message"] = Failure.of_text(message).told
                payload["error"] = {**payload["error"], "error_message": state["error_message"]}
            yield _event({**payload, "state": json.dumps(state)})


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
