"""Statement execution: send, look, cancel, below ``/api/2.0/sql/statements``."""

from __future__ import annotations

import re
from typing import Any

from airflow_uc_models.emulator.errors import invalid
from airflow_uc_models.emulator.routing import Call, present, route
from airflow_uc_models.emulator.warehouse import Statement
from airflow_uc_models.emulator.workspace import Workspace

_ROOT = "/api/2.0/sql/statements"
_SDK = "databricks-sdk service/sql.py, StatementExecutionAPI"
_LEAST_WAIT, _MOST_WAIT = 5, 50


class Statements:
    """Results come inline, as arrays of text, in one chunk."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @route("POST", _ROOT, source=f"{_SDK}.execute_statement")
    def execute(self, call: Call) -> Any:
        """Begin a statement; with a ``wait_timeout`` of more than 0s, wait for its end."""
        wait = _seconds(call.get("wait_timeout") or "10s")
        on_timeout = call.get("on_wait_timeout") or "CONTINUE"
        if on_timeout not in ("CONTINUE", "CANCEL"):
            raise invalid(f"on_wait_timeout must be CONTINUE or CANCEL, not {on_timeout}.")
        if wait == 0 and call.get("on_wait_timeout") == "CANCEL":
            raise invalid("on_wait_timeout CANCEL cannot be used with a wait_timeout of 0s.")
        warehouses = self.workspace.warehouses
        sent = warehouses.send(
            call.principal, call.need("warehouse_id"), call.need("statement"), call.get("parameters")
        )
        with warehouses.lock:
            while wait and not sent.is_terminal and not sent.is_held:
                sent.advance()
            if wait and not sent.is_terminal and on_timeout == "CANCEL":
                sent.is_cancelled = True
        return _described(sent)

    @route("POST", f"{_ROOT}/", source="databricks-sdk before 0.100 ends the path so")
    def execute_with_slash(self, call: Call) -> Any:
        """Do the same."""
        return self.execute(call)

    @route("GET", f"{_ROOT}/{{statement_id}}", source=f"{_SDK}.get_statement")
    def get(self, call: Call) -> Any:
        """Return a statement's state, and its result at the end; each look finds it in its next state."""
        sent = self.workspace.warehouses.find(call.principal, call.path["statement_id"])
        with self.workspace.warehouses.lock:
            answer = _described(sent)
            sent.advance()
        return answer

    @route("POST", f"{_ROOT}/{{statement_id}}/cancel", source=f"{_SDK}.cancel_execution")
    def cancel(self, call: Call) -> Any:
        """Cancel a statement; one that has ended stays as it is."""
        sent = self.workspace.warehouses.find(call.principal, call.path["statement_id"])
        with self.workspace.warehouses.lock:
            sent.is_cancelled = sent.is_cancelled or not sent.is_terminal
        return {}


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    if not found or not (int(found[1]) == 0 or _LEAST_WAIT <= int(found[1]) <= _MOST_WAIT):
        raise invalid(f"wait_timeout must be 0s, or from {_LEAST_WAIT}s to {_MOST_WAIT}s, not {text!r}.")
    return int(found[1])


def _described(sent: Statement) -> dict[str, Any]:
    status: dict[str, Any] = {"state": sent.state}
    if sent.state == "FAILED":
        status["error"] = {"error_code": sent.answer.error_code, "message": sent.answer.error}
    answer: dict[str, Any] = {"statement_id": sent.statement_id, "status": status}
    if sent.state == "SUCCEEDED":
        rows = [[None if value is None else str(value) for value in row] for row in sent.answer.rows]
        columns = [{"name": name, "position": number} for number, name in enumerate(sent.answer.columns)]
        schema = {"column_count": len(columns), "columns": columns}
        answer["manifest"] = {"format": "JSON_ARRAY", "schema": schema, "total_row_count": len(rows)}
        answer["result"] = present(data_array=rows) | {"chunk_index": 0, "row_count": len(rows), "row_offset": 0}
    return answer
