"""Answers required actions while a Dag runs in this process, as Airflow's API server and its scheduler do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

ANN = {"id": "7", "name": "ann"}


@contextmanager
def answering(
    *answers: str | None, user: Mapping[str, str] = ANN, before: Callable[[], Any] = lambda: None
) -> Generator[list[dict[str, Any]], None, None]:
    """Answer each required action that comes up, in this order; None is a time-out. Yields what was asked.

    :param before: called while a task waits, before it is answered
    """
    asked: list[dict[str, Any]] = []
    done = threading.Event()

    def work() -> None:
        try:
            for answer in answers:
                while not _try(lambda answer=answer: _answer(answer, user, asked, before)):
                    if done.wait(0.2):
                        return
        except BaseException:
            _fail_all()  # or the Dag would wait for ever
            raise

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield asked
    finally:
        done.set()
        worker.join()


def _try(work: Callable[[], bool]) -> bool:
    """Do it, unless the Dag, which runs in another thread, has locked the database."""
    from sqlalchemy.exc import OperationalError

    try:
        return work()
    except OperationalError:
        return False


def _fail_all() -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.execute(update(TaskInstance).where(TaskInstance.state == "awaiting_input").values(state="failed"))


def _answer(
    answer: str | None, user: Mapping[str, str], asked: list[dict[str, Any]], before: Callable[[], Any]
) -> bool:
    """Answer one that waits; whether there was one."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(HITLDetail).join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
        waits = TaskInstance.state.in_(("awaiting_input", "deferred"))
        detail = session.scalars(query.where(HITLDetail.responded_at.is_(None), waits)).first()
        if detail is None:
            return False
        before()
        ti = session.get(TaskInstance, detail.ti_id)
        said = ("subject", "body", "options", "defaults", "params", "assignees")
        shown = {"map_index": ti.map_index, **{key: getattr(detail, key) for key in said}}
        _respond(detail, ti, answer, user, session)
    asked.append(shown)
    return True


def _respond(detail: Any, ti: Any, answer: str | None, user: Mapping[str, str], session: Any) -> None:
    from airflow._shared.timezones import timezone
    from airflow.models.trigger import handle_event_submit
    from airflow.triggers.base import TriggerEvent

    detail.chosen_options = list(detail.defaults) if answer is None else [answer]
    detail.params_input = {}
    detail.responded_by = None if answer is None else dict(user)
    detail.responded_at = timezone.utcnow()
    if hasattr(detail, "as_resume_event_payload"):
        payload = detail.as_resume_event_payload(timedout=answer is None)
        handle_event_submit(TriggerEvent(payload), task_instance=ti, session=session)
