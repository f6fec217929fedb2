"""Answers required actions while a Dag runs in this process, as Airflow's API server and its scheduler do."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

ANN = {"id": "7", "name": "ann"}
_TIMED_OUT = {"error": "The response timeout has passed.", "error_type": "timeout"}  # as Airflow tells it
_SHOWN = ("subject", "body", "options", "defaults", "params", "assignees")


@contextmanager
def answering(
    *answers: str | None, user: Mapping[str, str] = ANN, before: Callable[[], Any] = lambda: None
) -> Generator[list[dict[str, Any]], None, None]:
    """Answer each required action that comes up, in this order; None is a time-out. Yields what was asked.

    What comes up after all answers were given is rejected.

    :param before: called while a task waits, before it is answered
    """
    # Here, as two threads that import them at the same time get half a module.
    from airflow.models import dagrun, hitl, taskinstance, trigger  # noqa: F401

    asked: list[dict[str, Any]] = []
    done = threading.Event()
    left = list(answers)
    if not hasattr(hitl.HITLDetail, "as_resume_event_payload"):
        with _answering_triggers(left, user, asked, before):
            yield asked
        return

    def work() -> None:
        while not done.wait(0.2):
            if _answer(left[0] if left else "Reject", user, asked, before):
                del left[:1]
            _resume_again()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield asked
    finally:
        done.set()
        worker.join()


@contextmanager
def _answering_triggers(left: list[str | None], user: Mapping[str, str], asked: Any, before: Any) -> Any:
    """The same before Airflow 3.3, whose dag.test knows no answers: its trigger gives them itself."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.providers.standard.triggers.hitl import HITLTrigger
    from airflow.triggers.base import TriggerEvent
    from airflow.utils.session import create_session

    async def run(self: Any) -> Any:
        before()
        with create_session() as session:
            ti_id = HITLDetail.ti_id.type.python_type(str(self.ti_id))  # text before Airflow 3.2, a UUID in it
            detail = session.get(HITLDetail, ti_id)
            map_index = session.get(TaskInstance, ti_id).map_index
            asked.append({"map_index": map_index, **{key: getattr(detail, key) for key in _SHOWN}})
        answer = left.pop(0) if left else "Reject"
        if answer is None and self.defaults is None:
            yield TriggerEvent(_TIMED_OUT)
            return
        event = {"chosen_options": [answer or self.defaults[0]], "params_input": {}, "responded_at": datetime.now(UTC)}
        yield TriggerEvent({**event, "responded_by_user": answer and dict(user), "timedout": answer is None})

    real, HITLTrigger.run = HITLTrigger.run, run
    try:
        yield
    finally:
        HITLTrigger.run = real


def _answer(
    answer: str | None, user: Mapping[str, str], asked: list[dict[str, Any]], before: Callable[[], Any]
) -> bool:
    """Answer one that waits; whether there was one. The Dag, in another thread, may have locked the database."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    try:
        with create_session() as session:
            query = select(HITLDetail).join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
            waits = TaskInstance.state == "awaiting_input"
            detail = session.scalars(query.where(HITLDetail.responded_at.is_(None), waits)).first()
            if detail is None:
                return False
            before()
            ti = session.get(TaskInstance, detail.ti_id)
            shown = {"map_index": ti.map_index, **{key: getattr(detail, key) for key in _SHOWN}}
            detail.chosen_options = [answer] if answer else []
            detail.params_input = {}
            detail.responded_by = None if answer is None else dict(user)
            detail.responded_at = datetime.now(UTC)
    except Exception:  # the Dag would wait for ever for a thread that is dead
        traceback.print_exc()
        return False
    asked.append(shown)
    return True


def _resume_again() -> None:
    """Let the tasks go on that were answered; dag.test may write the old state over it, so more than once."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import handle_event_submit
    from airflow.triggers.base import TriggerEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    try:
        with create_session() as session:
            query = select(HITLDetail).join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
            waits = TaskInstance.state == "awaiting_input"
            for detail in session.scalars(query.where(HITLDetail.responded_at.is_not(None), waits)):
                timed_out = detail.responded_by is None
                payload = _TIMED_OUT if timed_out else detail.as_resume_event_payload(timedout=False)
                event = TriggerEvent(payload)
                handle_event_submit(event, task_instance=session.get(TaskInstance, detail.ti_id), session=session)
    except Exception:
        traceback.print_exc()
