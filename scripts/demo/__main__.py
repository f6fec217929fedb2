"""``python -m scripts.demo --home DIR [--ui]``; see ``make demo`` and ``make ui``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from scripts.demo.databases import DATABASES
from scripts.demo.errors import DemoError, Stopped
from scripts.demo.home import Home
from scripts.demo.ports import Ports
from scripts.demo.processes import Processes
from scripts.demo.report import Report
from scripts.demo.settings import REGISTRIES, USER, forget_callers_settings
from scripts.demo.stack import Stack
from scripts.demo.story import APPROVAL_DAG, APPROVAL_RUN, DAG_IDS, SENSOR_DAG, Story, write_summary

# What a demo leaves, most of it the database and logs.
_MEGABYTES = 60
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the demo, or leave its servers running; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder for everything the demo makes")
    parser.add_argument("--ui", action="store_true", help="leave Airflow and MLflow running until Ctrl-C")
    parser.add_argument(
        "--registry",
        choices=REGISTRIES,
        default="mlflow",
        help="an MLflow server, or Unity Catalog in an emulated workspace",
    )
    parser.add_argument("--stay", action="store_true", help="play the story, and leave all running until Ctrl-C")
    parser.add_argument("--database", choices=DATABASES, help="under Airflow; by default PostgreSQL where it runs")
    arguments = parser.parse_args()

    forget_callers_settings(os.environ)
    report, home = Report(), Home(arguments.home, arguments.registry)
    try:
        with home.locked():
            if arguments.ui:
                _ui(home, report, arguments.database)
            else:
                _demo(home, report, arguments.database, stay=arguments.stay)
    except DemoError as error:
        report.say(f"\n{error}\n\nThe demo failed. Logs are in {home.logs}.", "red")
        return 1
    except Stopped as stopped:
        if arguments.ui:
            return 0
        report.say("Stopped before the end.", "yellow")
        return 128 + stopped.signal_number
    return 0


def _demo(home: Home, report: Report, database: str | None, *, stay: bool) -> None:
    report.say(
        f"This takes one to two minutes on two idle cores, and writes about {_MEGABYTES} MB to {home.root}, nowhere "
        "else. All servers listen on this machine only, and stop at the end."
    )
    # Nobody goes on from an interrupted demo, so its tasks need not be waited for.
    with _running(home, report, database, fresh=True, grace_if_interrupted=3.0) as stack:
        story = Story(stack, report)
        try:
            story.play()
        finally:
            write_summary(home.summary, story.summary())
        _tell(home, report, story)
        if stay:
            _serve(stack, report)
            return
    options = "" if home.registry == "mlflow" else f" REGISTRY={home.registry}"
    options += "" if home.root == Path(".demo").resolve() else f" DEMO_HOME={home.root}"
    report.say(f"To look around in Airflow and MLflow: make ui{options}")


def _tell(home: Home, report: Report, story: Story) -> None:
    report.table(story.runs)
    report.say(f"While this went on, the Dag {SENSOR_DAG} caught version(s) {_list(story.sensed_versions)} in dev.")
    report.say(f"All as told, in {report.elapsed():.0f} s. The same as JSON: {home.summary}")


def _ui(home: Home, report: Report, database: str | None) -> None:
    with _running(home, report, database) as stack:
        _serve(stack, report)


def _serve(stack: Stack, report: Report) -> None:
    """Say where everything is, and leave it running until a signal comes."""
    report.heading("Ready")
    report.say(f"  Airflow   {stack.airflow_url}   user: {USER}   password: {stack.password}")
    report.say(f"  MLflow    {stack.mlflow_url}   no sign-in")
    if stack.workspace_url:
        report.say(f"  Workspace {stack.workspace_url}   emulated, connection databricks_default")
    report.say(f"  Folder    {stack.home.root}")
    report.say("\nStart example_train_validate_promote_infer in Airflow to train a model.")
    if stack.api.has_run(APPROVAL_DAG, APPROVAL_RUN) and stack.api.waits_for_approval(APPROVAL_DAG, APPROVAL_RUN):
        report.say("The version that was rolled back waits for your approval to become Champion again:")
        report.say(f"  {stack.airflow_url}/required_actions?response_received=false")
    report.say("Ctrl-C stops everything.")
    with suppress(Stopped):
        while True:
            stack.processes.check()
            time.sleep(1)


@contextmanager
def _running(
    home: Home, report: Report, database: str | None, *, fresh: bool = False, grace_if_interrupted: float = 15.0
) -> Iterator[Stack]:
    """Start the servers, and stop them whatever happens inside.

    :param fresh: not with what an earlier demo has left
    """
    stack: Stack | None = None
    grace = 15.0
    with _signals_raise() as ignore_signals:
        try:
            report.heading(f"Starting MLflow and Airflow in {home.root}")
            stack = Stack(home, _ports(home, report), database)
            if stack.database.note:
                report.say(f"  {stack.database.note}")
            home.prepare(fresh=fresh or not home.is_complete(stack.database.name))
            began = time.monotonic()
            with report.waiting("starting") as status:
                stack.start(status.update)
                stack.await_dags(DAG_IDS)
            home.mark_complete(stack.database.name)
            urls = filter(None, (stack.mlflow_url, stack.workspace_url, stack.airflow_url))
            report.done("MLflow and Airflow", time.monotonic() - began, "  ".join(urls))
            yield stack
        except Stopped:
            grace = grace_if_interrupted
            raise
        finally:
            ignore_signals()
            if stack is not None:
                report.say("\nStopping MLflow and Airflow ...", "dim")
                stack.stop(grace)


def _ports(home: Home, report: Report) -> Ports:
    """Return the ports of this folder, once what an earlier demo left on them is stopped."""
    if leftovers := Processes(home.root, home.logs).stop_leftovers():
        report.say(f"  Stopped {leftovers} process(es) that an earlier demo left here.")
    ports, changed = Ports.kept(home.ports)
    for name, (before, now) in changed.items():
        report.say(f"  Another program uses port {before}, so {name} gets {now}. Links of earlier runs to it are dead.")
    return ports


@contextmanager
def _signals_raise() -> Iterator[Callable[[], None]]:
    """Turn the first signal into Stopped; later ones must not disturb the stopping."""
    ignored = False

    def ignore() -> None:
        nonlocal ignored
        ignored = True

    def handle(number: int, _: FrameType | None) -> None:
        if not ignored:
            ignore()
            raise Stopped(number)

    # Under nohup the end of a terminal is no reason to stop.
    heard = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _list(versions: list[int]) -> str:
    return ", ".join(map(str, versions)) or "none"


if __name__ == "__main__":
    sys.exit(main())
