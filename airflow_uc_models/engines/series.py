"""What tells the tries of a task apart from its being run anew."""

from __future__ import annotations

from typing import Any


def series() -> int:
    """Return a number that all retries of the running task share; it changes when somebody clears the task.

    What an earlier try has left elsewhere is this one's to go on with, but not what it left before it was cleared.
    """
    from airflow.sdk import get_current_context

    ti: Any = get_current_context()["ti"]
    return int(ti.max_tries) - int(ti.task.retries or 0)
