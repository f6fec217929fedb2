"""Batch inference: the engine ``spark`` on two cores of this machine against the engine ``local``, over growing inputs.

Both score the same Parquet file, from reading to the finished output, with a model whose files are here. Spark's time
has what a task pays for it: starting Java, the session, and Python workers that load mlflow. Each engine starts anew in
a process of its own for each size, as a task does. Printed are both times for each size, and the size from which on
Spark is faster: where a straight line between the two sizes around it says so.

    python benchmarks/spark.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/: its copy.py would stand before the standard library's

import argparse
import logging
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).parent))
from inference import save_models, write_input

OPTIONS = {"spark": {"master": "local[2]"}, "local": {}}


def score(engine: str, model: Path, source: Path, output: Path) -> float:
    """Run an engine as the operator does, on a model that is downloaded already; returns seconds."""
    from airflow_uc_models.engines import InferenceJob, engine_of, local, spark

    def download(_: Any, __: Any, folder: Path) -> Path:
        return Path(shutil.copytree(model, folder))

    for module in (local, spark):
        module.download_version = download
    name = "dev.benchmarks.model"
    version: Any = SimpleNamespace(uri=f"models:/{name}/1", name=name, version=1, created_at=None)
    job = InferenceJob(input=str(source), output=str(output), env_manager="local", options=OPTIONS[engine])
    hook: Any
    running, hook = engine_of(engine), SimpleNamespace(registry_conn_id="benchmarks")
    running.capabilities.check(job)
    running.check(job)
    started = time.perf_counter()
    running.start(job, hook, version)
    return time.perf_counter() - started


def seconds(engine: str, model: Path, source: Path, output: Path) -> float:
    """Score in a process of its own."""
    command = [sys.executable, __file__, "--score", engine, str(model), str(source), str(output)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return float(done.stdout.split()[-1])


def break_even(times: list[tuple[int, float, float]]) -> float | None:
    """Return the number of rows from which on Spark is faster; None if it never is.

    :param times: rows, seconds of local and of Spark
    """
    slower = [index for index, (_, local, spark) in enumerate(times) if spark >= local]
    if not slower:
        return float(times[0][0])
    if slower[-1] == len(times) - 1:
        return None
    (rows, local, spark), (more, more_local, more_spark) = times[slower[-1] : slower[-1] + 2]
    before, after = spark - local, more_local - more_spark
    return rows + (more - rows) * before / (before + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 400_000, 1_600_000])
    parser.add_argument("--model", choices=["random forest", "linear model"], default="random forest")
    parser.add_argument("--score", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.score:
        engine, *paths = arguments.score
        print(score(engine, *map(Path, paths)))
        return 0
    times = []
    with tempfile.TemporaryDirectory(prefix="spark-") as temporary:
        work = Path(temporary)
        model = save_models(work)[arguments.model]
        for rows in sorted(arguments.rows):
            source = write_input(work / f"{rows}.parquet", rows)
            local = seconds("local", model, source, work / f"local{rows}.parquet")
            spark = seconds("spark", model, source, work / f"spark{rows}")
            times.append((rows, local, spark))
            print(
                f"{arguments.model}, {rows:,} rows: local {local:.1f} s, spark local[2] {spark:.1f} s; "
                f"ratio {local / spark:.2f}",
                flush=True,
            )
    found = break_even(times)
    if found is None:
        print(f"There is no break-even up to {times[-1][0]:,} rows: the engine local is faster.")
    else:
        print(f"Break-even: about {found:,.0f} rows. With more, spark on two cores is faster than local.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
