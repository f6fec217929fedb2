"""What tells the tries of a task apart from its being run anew."""

from __future__ import annotations

from typing import Any


def series() -> int:
    """Return a number that all retries of the running task share; it changes when somebody clears the task.

    What an earlier try has left elsewhere is this one's to go on with, but not what it left before it was cleared.
    """
    ti = _task_instance()
    return int(ti.max_tries) - int(ti.task.retries or 0)


def has_more_tries() -> bool:
    """Whether Airflow will try the running task again if it fails now with an error that may pass."""
    ti = _task_instance()
    return int(ti.try_number) <= int(ti.max_tries)


def _task_instance() -> Any:
    from airflow.sdk import get_current_context

    return get_current_context()["ti"]
