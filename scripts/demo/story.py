"""The story: four Dag runs, each followed by a look into the registry that decides whether it went as told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from scripts.demo.errors import DemoError
from scripts.demo.registry import rows_of
from scripts.demo.report import Report
from scripts.demo.stack import Stack

DEV, PROD = "dev.ml_team.breast_cancer", "prod.ml_team.breast_cancer"
CHAMPION = "Champion"
TRAIN_DAG, ROLLBACK_DAG, SENSOR_DAG, APPROVAL_DAG = (
    "example_train_validate_promote_infer",
    "example_rollback",
    "example_new_version_sensor",
    "example_manual_approval",
)
DAG_IDS = {TRAIN_DAG, ROLLBACK_DAG, SENSOR_DAG, APPROVAL_DAG}
APPROVAL_RUN = "demo_approval"
_RUN_TIMEOUT, _SENSOR_TIMEOUT = 1800.0, 600.0
_TOLD = {"success": "", "failed": "", "up_for_retry": "it will be tried again"}


@dataclass(frozen=True)
class Training:
    """A candidate is trained and judged.

    :param params: settings of the training, chosen so that the verdict is always the same
    :param approved: the verdict that the story tells
    """

    slug: str
    story: str
    params: dict[str, int]
    approved: bool


FIRST = Training("first", "The first model becomes Champion", {"n_estimators": 10, "max_depth": 2}, approved=True)
WORSE = Training("worse", "A worse model is refused", {"n_estimators": 5, "max_depth": 1}, approved=False)
BETTER = Training("better", "A better model is promoted", {"n_estimators": 100, "max_depth": 8}, approved=True)
ROLLBACK_STORY = "A rollback restores the first model"
ROLLBACK_REASON = "The clinic reports too many false alarms."


@dataclass
class Story:
    """Plays the story on a running stack and keeps what came of it.

    :param stack: the running servers
    :param report: told what happens
    """

    stack: Stack
    report: Report
    runs: list[dict[str, Any]] = field(default_factory=list)
    sensed_versions: list[int] = field(default_factory=list)
    open_approval: str | None = None

    def play(self) -> None:
        """Tell the story; DemoError as soon as something is not as told."""
        importing = threading.Thread(target=import_module, args=("mlflow",), daemon=True)
        importing.start()  # seconds, while Airflow works on the first run
        for training in (FIRST, WORSE, BETTER):
            self._train(training, importing)
        self._roll_back()
        self._listen()
        self._ask()

    def summary(self) -> dict[str, Any]:
        """Return what happened, as plain JSON."""
        return {
            "model_name": PROD,
            "candidate_model_name": DEV,
            "tracking_uri": self.stack.home.tracking_uri,
            "registry": self.stack.home.registry,
            "runs": self.runs,
            "sensed_versions": self.sensed_versions,
            "open_approval": self.open_approval,
        }

    def _train(self, training: Training, importing: threading.Thread) -> None:
        champion_before = self.runs[-1]["champion_after"] if self.runs else None
        self._head(training.story, f"{training.params['n_estimators']} trees of depth {training.params['max_depth']}")
        run_id = f"demo_{len(self.runs) + 1}_{training.slug}"
        folder = self.stack.home.data / run_id
        self._run(TRAIN_DAG, run_id, {**training.params, "data_folder": str(self.stack.home.data)})

        importing.join()
        registry = self.stack.registry()
        candidate = registry.newest(DEV)
        tags = registry.tags(DEV, candidate) if candidate else {}
        verdict = self.stack.api.xcom(TRAIN_DAG, run_id, "validate", "verdict") or {}
        run = {
            "story": training.story,
            "candidate_version": candidate,
            "metrics": registry.metrics(DEV, candidate) if candidate else {},
            "verdict": tags.get("validation_status"),
            "reasons": verdict.get("reasons", []),
            "champion_before": champion_before,
            "champion_after": registry.aliased(PROD, CHAMPION),
            "rows_scored": rows_of(folder / "predictions.parquet"),
            "output": str(folder / "predictions.parquet"),
        }
        self.runs.append(run)
        self._tell(run)
        with self._as_told() as expect:
            expect("candidate_version", run["candidate_version"], len(self.runs))
            expect("verdict", run["verdict"], "approved" if training.approved else "rejected")
            expect("validation_reasons", tags.get("validation_reasons"), "; ".join(run["reasons"]))
            promoted = (champion_before or 0) + 1 if training.approved else champion_before
            expect("champion_after", run["champion_after"], promoted)
            expect("newest version in prod", registry.newest(PROD), promoted)
            expect("rows_scored", run["rows_scored"], rows_of(folder / "new_data.parquet"))

    def _roll_back(self) -> None:
        champion_before = self.runs[-1]["champion_after"]
        self._head(ROLLBACK_STORY, ROLLBACK_REASON)
        self._run(ROLLBACK_DAG, f"demo_{len(self.runs) + 1}_rollback", {"reason": ROLLBACK_REASON})
        registry = self.stack.registry()
        reason = registry.tags(PROD, champion_before).get("rolled_back_because")
        run = {
            "story": ROLLBACK_STORY,
            "candidate_version": None,
            "metrics": {},
            "verdict": "rolled back",
            "reasons": [reason],
            "champion_before": champion_before,
            "champion_after": registry.aliased(PROD, CHAMPION),
            "rows_scored": None,
            "output": None,
        }
        self.runs.append(run)
        self._tell(run)
        with self._as_told() as expect:
            expect("champion_after", run["champion_after"], self.runs[0]["champion_after"])
            expect("reason", reason, ROLLBACK_REASON)

    def _listen(self) -> None:
        """Wait until the sensor's Dag has dealt with all candidates; it began before the first was there."""
        registry = self.stack.registry()
        wanted = [run["candidate_version"] for run in self.runs if run["candidate_version"]]
        deadline = time.monotonic() + _SENSOR_TIMEOUT
        with self.report.waiting("the sensor's Dag finishes"):
            while (seen := registry.tagged(DEV, "reviewed_by")) != wanted and time.monotonic() < deadline:
                self.stack.processes.check()
                time.sleep(0.5)
        self.sensed_versions = seen
        if seen != wanted:
            for run_id in self.stack.api.run_ids(SENSOR_DAG):
                self.report.say("\n".join(self._failures(SENSOR_DAG, run_id)))
        with self._as_told() as expect:
            expect("sensed_versions", seen, wanted)

    def _ask(self) -> None:
        """Leave an approval open, which `make ui` shows among the required actions."""
        api = self.stack.api
        api.trigger(APPROVAL_DAG, APPROVAL_RUN, {})
        deadline = time.monotonic() + _RUN_TIMEOUT
        with self.report.waiting("an approval is asked for"):
            while not api.waits_for_approval(APPROVAL_DAG, APPROVAL_RUN):
                self.stack.processes.check()
                state = api.run_state(APPROVAL_DAG, APPROVAL_RUN)
                if state in {"success", "failed"} or time.monotonic() > deadline:
                    raise DemoError("\n".join(self._failures(APPROVAL_DAG, APPROVAL_RUN)))
                time.sleep(0.5)
        self.open_approval = APPROVAL_RUN

    def _head(self, story: str, detail: str) -> None:
        self.report.heading(f"{len(self.runs) + 1}. {story}")
        self.report.say(f"  {detail}", "dim")

    def _tell(self, run: dict[str, Any]) -> None:
        before, after = run["champion_before"], run["champion_after"]
        came_from = f"version {before}" if before else "no version"
        moved = f"version {after} of {PROD}" if before == after else f"{came_from} -> {after} of {PROD}"
        self.report.say(f"  {run['verdict']}; {CHAMPION}: {moved}")
        for reason in run["reasons"]:
            self.report.say(f"    {reason}", "dim")

    def _run(self, dag_id: str, run_id: str, params: dict[str, Any]) -> None:
        """Run a Dag to its end, telling of each task; DemoError with the log if it fails."""
        api, told = self.stack.api, set()
        api.trigger(dag_id, run_id, params)
        deadline = time.monotonic() + _RUN_TIMEOUT
        with self.report.waiting("starting") as status:
            while True:
                state = api.run_state(dag_id, run_id)
                tasks = api.tasks(dag_id, run_id)
                for task in sorted(tasks, key=lambda t: t["end_date"] or ""):
                    ended = (task["task_id"], task["state"], task["try_number"])
                    if task["state"] in _TOLD and ended not in told:
                        told.add(ended)
                        tell = self.report.done if task["state"] == "success" else self.report.failed
                        tell(task["task_id"], task["duration"] or 0.0, _TOLD[task["state"]])
                if state in {"success", "failed"}:
                    break
                status.update(", ".join(t["task_id"] for t in tasks if t["state"] == "running") or "scheduling")
                self.stack.processes.check()
                if time.monotonic() > deadline:
                    raise DemoError(f"Run {run_id} of {dag_id} is still {state} after {_RUN_TIMEOUT:.0f} s.")
                time.sleep(0.6)
        if state == "failed":
            raise DemoError("\n".join(self._failures(dag_id, run_id)))

    def _failures(self, dag_id: str, run_id: str) -> Iterator[str]:
        yield f"Run {run_id} of {dag_id} is {self.stack.api.run_state(dag_id, run_id)}."
        for task in self.stack.api.tasks(dag_id, run_id):
            if task["state"] in {"failed", "up_for_retry"}:
                yield f"The end of the log of task {task['task_id']}, try {task['try_number']}:"
                log = self.stack.api.log(dag_id, run_id, task["task_id"], task["try_number"])
                yield from (f"  {line}" for line in log[-40:])

    @contextmanager
    def _as_told(self) -> Iterator[Any]:
        """Collect what is not as the story tells; DemoError with all of it."""
        wrong: list[str] = []

        def expect(what: str, found: Any, told: Any) -> None:
            if found != told:
                wrong.append(f"  {what} is {found!r}, and should be {told!r}")

        yield expect
        if wrong:
            raise DemoError("\n".join(["The registry is not in the state that the story tells:", *wrong]))


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write the summary where scripts find it, complete or not at all."""
    import json

    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    temporary.replace(path)
