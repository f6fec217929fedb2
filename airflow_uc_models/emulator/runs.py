"""One-time runs of a workspace, and how tests say what becomes of them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_uc_models.emulator.errors import denied, invalid, missing
from airflow_uc_models.emulator.privileges import Principal
from airflow_uc_models.emulator.state import now

TERMINAL = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
_MOST_TOKEN = 64


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What becomes of a run.

    :param states: life cycle states; each look at the run finds the next, the last stays
    :param result_state: of a run that ends as TERMINATED: SUCCESS, FAILED, TIMEDOUT, CANCELED ...
    :param message: the state's message
    :param result: what the notebook gives to ``dbutils.notebook.exit``; a function makes it of the parameters
    :param error: the task's error; a run that has one is FAILED
    :param error_trace: its stack trace
    :param hold: an event without which the run does not leave its first state
    """

    states: tuple[str, ...] = ("PENDING", "RUNNING", "TERMINATED")
    result_state: str = "SUCCESS"
    message: str = ""
    result: str | Callable[[dict[str, str]], str] | None = None
    error: str | None = None
    error_trace: str | None = None
    hold: threading.Event | None = None


@dataclass
class Run:
    """A one-time run with one task.

    :param spec: the request that made it
    :param steps: how often it was looked at
    """

    run_id: int
    spec: dict[str, Any]
    owner: str
    plan: RunPlan
    steps: int = 0
    result: str | None = None
    error: str | None = None
    is_cancelled: bool = False
    created_at: int = field(default_factory=now)
    ended_at: int | None = None

    @property
    def task(self) -> dict[str, Any]:
        """The task's settings."""
        found: dict[str, Any] = self.spec["tasks"][0]
        return found

    @property
    def task_run_id(self) -> int:
        """The id of the run of the task, which has the output."""
        return self.run_id + 1

    @property
    def parameters(self) -> dict[str, str]:
        """What the notebook is given."""
        return dict((self.task.get("notebook_task") or {}).get("base_parameters") or {})

    @property
    def life_cycle_state(self) -> str:
        """Where the run is now."""
        if self.is_cancelled:
            return "TERMINATED"
        return self.plan.states[min(self.steps, len(self.plan.states) - 1)]

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self.life_cycle_state in TERMINAL

    @property
    def result_state(self) -> str | None:
        """How it ended."""
        if self.is_cancelled:
            return "CANCELED"
        if self.life_cycle_state == "TERMINATED":
            return "FAILED" if self.error else self.plan.result_state
        return "FAILED" if self.life_cycle_state == "INTERNAL_ERROR" else None

    @property
    def message(self) -> str:
        """The state's message."""
        if self.is_cancelled:
            return "Run cancelled."
        if self.is_terminal and self.error and not self.plan.message:
            return "Workload failed, see run output for details"
        return self.plan.message if self.is_terminal else "In run"

    @property
    def is_held(self) -> bool:
        """Whether its plan keeps it from going on."""
        return self.plan.hold is not None and not self.plan.hold.is_set()

    def advance(self) -> None:
        """Go on by one state, unless the plan holds the run."""
        if self.life_cycle_state in TERMINAL or self.is_held:
            return
        self.steps += 1
        if self.life_cycle_state in TERMINAL:
            self.finish()

    def finish(self) -> None:
        """Note the end, and do the work of a run that succeeds."""
        self.ended_at = now()
        if self.result_state == "SUCCESS":
            made = self.plan.result
            try:
                self.result = made(self.parameters) if callable(made) else made
            except Exception as error:  # it is the run's, as a notebook's would be
                self.error = f"{type(error).__name__}: {error}"


class Runs:
    """The runs of a workspace.

    ``plan`` says what becomes of the next run, ``default`` of those that nothing is said about.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.default = RunPlan()
        self._plans: list[RunPlan] = []
        self._runs: dict[int, Run] = {}
        self._by_token: dict[str, int] = {}
        self._ids = itertools.count(1001, 10)

    def __iter__(self) -> Any:
        return iter(list(self._runs.values()))

    def plan(self, **plan: Any) -> RunPlan:
        """Say what becomes of the next run that nothing is said about yet: the fields of RunPlan."""
        made = RunPlan(**plan)
        with self.lock:
            self._plans.append(made)
        return made

    def submit(self, owner: str, spec: dict[str, Any], error: str | None = None) -> Run:
        """Return a new run, or the one that was made with the same token.

        :param error: why it will fail whatever is planned
        """
        token = spec.get("idempotency_token")
        if token and len(token) > _MOST_TOKEN:
            raise invalid(f"The idempotency token must have at most {_MOST_TOKEN} characters.")
        with self.lock:
            if token in self._by_token:
                return self._runs[self._by_token[token]]
            plan = self._plans.pop(0) if self._plans else self.default
            run = Run(next(self._ids), spec, owner, plan, error=error or plan.error)
            self._runs[run.run_id] = run
            if token:
                self._by_token[token] = run.run_id
        return run

    def find(self, principal: Principal, run_id: Any, action: str = "view") -> Run:
        """Return the run of this id or whose task has it; only its owner and admins may see it."""
        try:
            number = int(run_id)
        except (TypeError, ValueError):
            raise invalid(f"Run id {run_id!r} is not a number.") from None
        run = self._runs.get(number) or self._runs.get(number - 1)
        if run is None:
            raise missing(f"Run {number} does not exist.", "INVALID_PARAMETER_VALUE")
        if run.owner != principal.name and not principal.is_admin:
            raise denied(f"User {principal.name} does not have permission to {action} run {number}.")
        return run

    def clear(self) -> None:
        """Forget runs and plans; let go of what is held."""
        with self.lock:
            for plan in [*self._plans, *(run.plan for run in self._runs.values())]:
                if plan.hold:
                    plan.hold.set()
            self._plans.clear()
            self._runs.clear()
            self._by_token.clear()
            self.default = RunPlan()
