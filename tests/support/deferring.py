"""Deferred tasks resumed as Airflow's triggerer does it: ``dag.test`` drops what was handed to ``defer``."""

from __future__ import annotations

from typing import Any

import pytest


def keep_what_is_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``dag.test`` give the kwargs of ``defer`` to the method that resumes, along with the event."""
    from airflow.sdk.definitions import dag
    from airflow.sdk.execution_time import supervisor

    run_task, run_trigger, left = supervisor.run_task_in_process, dag._run_inline_trigger, []

    def run(*args: Any, **kwargs: Any) -> Any:
        done = run_task(*args, **kwargs)
        left.append(done.msg)
        return done

    def trigger(*args: Any, **kwargs: Any) -> Any:
        event = run_trigger(*args, **kwargs)
        if event is None:
            return None
        serialize = getattr(dag, "serialize", lambda value: value)  # Airflow 3.1 has it as it is
        left[-1].next_kwargs = {**(left[-1].next_kwargs or {}), "event": serialize(event.payload)}
        return None  # then dag.test takes what the message has

    monkeypatch.setattr(supervisor, "run_task_in_process", run)
    monkeypatch.setattr(dag, "_run_inline_trigger", trigger)
