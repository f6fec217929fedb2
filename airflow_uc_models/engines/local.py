"""The engine ``local``: rows stream through pyfunc on this worker, into one Parquet file.

While the model predicts one batch, the next is read and the one before is written, each on a thread of its own, so
memory holds a few batches however many rows there are. The model runs in the task's process, or in one or several
processes, with this worker's packages or with those that it pins.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from airflow_uc_models.engines import EngineCapabilities, InferenceJob, Scored, options
from airflow_uc_models.engines.feature_store import refuse_feature_store
from airflow_uc_models.engines.intake import Taken
from airflow_uc_models.engines.job import ENV_MANAGERS
from airflow_uc_models.engines.local_plan import Plan, plan_of
from airflow_uc_models.engines.outputs import BadRows, Sink, bad_rows_file, expect_writable, output_file
from airflow_uc_models.engines.paths import Location, new_file, remove_unfinished
from airflow_uc_models.engines.runners import (
    InProcess,
    Runner,
    Warmed,
    Workers,
    available_cpus,
    processes_of,
    remember_environment,
    warmed,
)
from airflow_uc_models.engines.tables import FORMATS, open_table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.build import uv_program
from airflow_uc_models.environments.environment import LOCAL, UV, Environment, environment_of
from airflow_uc_models.environments.loading import load_pyfunc, require_pyfunc
from airflow_uc_models.environments.redaction import described
from airflow_uc_models.environments.scoring import Predicted
from airflow_uc_models.exceptions import (
    InputDataError,
    InvalidArgumentError,
    PredictionError,
    UCModelsError,
)
from airflow_uc_models.hooks.artifacts import download_version, read_mlmodel
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.scratch import scratch_folder

T = TypeVar("T")
log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 10.0


class LocalEngine:
    """Scores on this worker.

    Options: ``workers``, the number of processes that have the model, each predicting other batches (int; default 1,
    which is the task's own process if the model runs with this worker's packages). No more than there are CPUs. For
    models whose predictions do not depend on rows they have seen before.

    XCom, in addition: ``env_manager`` and ``env_reason``, where the model's packages came from and why; ``workers``.
    """

    capabilities = EngineCapabilities(
        name="local",
        paths=True,
        formats=tuple(FORMATS),
        batch_size=True,
        env_managers=ENV_MANAGERS,
        options=("workers",),
    )

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def check(self, job: InferenceJob) -> None:
        """Raise InvalidArgumentError for paths that cannot be meant, and what this worker cannot do."""
        _check_paths(job)
        _workers(job)
        if job.env_manager == UV:
            uv_program()
        expect_writable(job)

    def start(self, job: InferenceJob, hook: ModelRegistryHook, version: ModelVersion) -> Scored:
        """Download the version, compare its signature with the input, score, and leave no model files behind."""
        started = time.monotonic()
        table = open_table(Location.parse(job.input), job.input_format, job.csv)
        with scratch_folder("model") as folder, ExitStack() as stack:
            self._undo = [partial(shutil.rmtree, folder, ignore_errors=True)]
            for target in (output_file(job), bad_rows_file(job)):
                # An upload that was not finished does not show; a signal handler must not wait for one.
                if target.is_local:
                    self._undo.append(partial(remove_unfinished, target, job.key))
            workers = Workers(_workers(job), Path(folder) / "model", version.uri, self._undo)
            about = f"{hook.registry_conn_id} {version.uri} {version.created_at} {job.env_manager}"
            # Importing takes seconds, so processes begin with it while the model is on its way.
            warm = stack.enter_context(warmed(about, workers)) if job.env_manager != LOCAL else None
            files = download_version(hook, version, workers.folder)
            mlmodel = read_mlmodel(files, version.uri)
            refuse_feature_store(mlmodel, version.uri, "local")
            require_pyfunc(mlmodel, version.uri)
            plan = plan_of(job, table, mlmodel, version)
            environment = environment_of(files, job.env_manager, version.uri)
            runner = stack.enter_context(self._runner(environment, replace(workers, folder=files), warm))
            tally = score(runner, plan)
            remember_environment(about, environment)
        details = {"env_manager": environment.manager, "env_reason": environment.reason, "workers": workers.number}
        return Scored(tally.rows, round(time.monotonic() - started, 3), tally.bad_rows, details)

    @contextmanager
    def _runner(self, environment: Environment, workers: Workers, warm: Warmed | None) -> Generator[Runner, None, None]:
        if environment.is_local and workers.number == 1:
            for process in warm.processes if warm else ():
                process.kill()
            yield InProcess(load_pyfunc(workers.folder, workers.label).predict)
            return
        with processes_of(environment, workers, warm) as processes:
            yield processes

    def cancel(self) -> None:
        """End processes, remove the model's files and what is written so far; a ``start`` that goes on will fail."""
        while self._undo:
            self._undo.pop()()


def _check_paths(job: InferenceJob) -> None:
    if job.appends and job.output.endswith(".parquet"):
        raise InvalidArgumentError(
            f"With mode='append' the output is a folder with one file per Dag run; {job.output!r} ends in .parquet."
        )
    if not job.appends and not job.output.endswith(".parquet"):
        raise InvalidArgumentError(
            f"The output is one Parquet file; {job.output!r} does not end in .parquet. A folder takes mode='append'."
        )
    source = Location.parse(job.input)
    for target in (output_file(job), bad_rows_file(job))[: 1 + job.quarantines]:
        if source.holds(target):
            raise InvalidArgumentError(
                f"The output {target.shown} lies in the input {job.input}: the next run would read it. Write elsewhere."
            )
        if job.appends and replace(target, path=target.parent).holds(source):
            raise InvalidArgumentError(
                f"The input {job.input} lies in the output {target.parent}: who reads the output would read it, too. "
                "Write elsewhere."
            )
        if target.fs.isdir(target.path):
            raise InvalidArgumentError(f"The output {target.shown} is a folder; name a file in it.")
        if job.appends and target.fs.isfile(target.parent):
            raise InvalidArgumentError(f"The output {target.parent} is a file; with mode='append' it is a folder.")


def _workers(job: InferenceJob) -> int:
    """Return the number of processes, as asked for and possible."""
    asked = options.number(job, "workers", 1, least=1)
    if asked != int(asked):
        raise InvalidArgumentError(f"engine_options: workers must be a whole number, not {asked:g}.")
    if asked > (most := available_cpus()):
        log.warning("There are %s CPUs for %g workers; %s are started", most, asked, most)
        return most
    return int(asked)


def score(runner: Runner, plan: Plan) -> Tally:
    """Write the plan's output and return the number of its rows."""
    job, tally = plan.job, Tally(plan.table.rows)
    # What was put aside takes its place first: an output without it would look complete.
    with (
        new_file(output_file(job), job.key) as file,
        BadRows(job, plan.kept) as aside,
        Sink.opened(file) as sink,
        closing(_ahead(plan.taken())) as batches,
    ):
        waiting: deque[tuple[Taken, Callable[[], Predicted]]] = deque()

        def settle(most: int) -> None:
            while len(waiting) > most:
                _write(plan, *waiting.popleft(), sink, aside, tally)

        for taken in batches:
            asked = replace(plan.asked, has_worked=tally.rows > 0)
            if taken.rows.num_rows:
                waiting.append((taken, runner.submit(taken.rows, asked)))
            else:
                waiting.append((taken, _nothing))
            # Whether the model has worked at all tells a bad row from a bad model, so that is found out first.
            settle(runner.ahead if tally.rows or not job.quarantines else 0)
        settle(0)
        tally.check(aside.first)
        sink.write(plan.nothing())
    if job.quarantines:
        aside.remove_earlier()
    return tally


def _nothing() -> Predicted:
    """Return what the model makes of no rows, which it is not asked."""
    return Predicted(None)


def _write(plan: Plan, taken: Taken, result: Callable[[], Predicted], sink: Sink, aside: BadRows, tally: Tally) -> None:
    """Wait for the predictions of some rows and write them."""
    told = ""
    try:
        predicted = result()
        output = plan.output(taken, predicted)
    except InvalidArgumentError:
        raise
    except UCModelsError as error:
        told = str(error)
    except (Exception, SystemExit) as error:  # a model that exits would end the task without a word
        told = described(error, taken.rows)
    if told:
        raise PredictionError(f"Could not score {taken.part.where}: {told}")
    if output.num_rows:
        sink.write(output)
    failed = [(taken.number(index), reason) for index, reason in predicted.bad]
    aside.write(taken.part, sorted([*taken.bad, *failed]))
    tally.add(output.num_rows, len(taken.bad), len(failed))


def _ahead(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """Yield the items, getting each next one on another thread while the last one is worked on."""
    end = object()
    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        pending: Future[Any] = thread.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = thread.submit(next, items, end)
            yield item


@dataclass
class Tally:
    """Counts rows, and tells now and then how far the work is.

    :param total: rows of the input, where it is known
    :param rows: with a prediction
    :param unfit: that could not be given to the model
    :param failed: on which the model failed
    """

    total: int | None
    rows: int = 0
    unfit: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    @property
    def bad_rows(self) -> int:
        """Rows that were put aside."""
        return self.unfit + self.failed

    def add(self, rows: int, unfit: int, failed: int) -> None:
        """Count the rows of a batch."""
        self.rows += rows
        self.unfit += unfit
        self.failed += failed
        if time.monotonic() - self.told >= _PROGRESS_SECONDS:
            self.tell()

    def check(self, reason: str | None) -> None:
        """Raise if rows were put aside and none is left: then it is no matter of single rows."""
        if self.rows or not self.bad_rows:
            return
        kind = PredictionError if self.failed else InputDataError
        raise kind(f"None of the {self.bad_rows:,} rows of the input could be scored. The first one: {reason}")

    def tell(self) -> None:
        """Log how far the work is."""
        self.told = time.monotonic()
        done = self.rows + self.bad_rows
        rate = done / max(self.told - self.started, 1e-9)
        of_total = "" if self.total is None else f" of {self.total:,}"
        log.info("Scored %s%s rows (%s rows/s)", f"{done:,}", of_total, f"{rate:,.0f}")
