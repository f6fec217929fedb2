"""Batch inference: rows per second and peak memory of the operator's engine.

Speed: from Parquet file to Parquet file through the engine, against ``pyfunc.load_model(...).predict`` alone on one
DataFrame that is in memory already. The goal stands for a random forest, where predicting is the work; for a linear
model the ratio shows what reading and writing cost. Beside it: the engine with the model in a process of its own, and
the same work by hand (read, predict and write one DataFrame). Model loading is on neither side; ratios are medians
over rounds that alternate the two.

Memory: the peak of a fresh process that scores N rows, and of one that scores 10 N; for 50 million rows
``--memory-rows 5000000``, which takes 16 GB of disk and some minutes.

    python benchmarks/inference.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/: its copy.py would stand before the standard library's

import argparse
import logging
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLUMNS = [f"x{i}" for i in range(20)]
SPEED_GOAL, MEMORY_GOAL, WIDE_GOAL = 0.95, 1.2, 1.5


def write_input(path: Path, rows: int, chunk: int = 100_000) -> Path:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    schema = pa.schema([(name, pa.float64()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, chunk):
            count = min(chunk, rows - start)
            writer.write_table(pa.table([random.normal(size=count) for _ in COLUMNS], schema=schema))
    return path


def save_models(folder: Path) -> dict[str, Path]:
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression

    known = pd.DataFrame(np.random.default_rng(1).normal(size=(20_000, len(COLUMNS))), columns=COLUMNS)
    target = known["x0"] * known["x1"] + np.sin(known["x2"]) + known[COLUMNS[3:]].sum(axis=1)
    models = {
        "random forest": RandomForestRegressor(100, min_samples_leaf=20, n_jobs=-1, random_state=0),
        "linear model": LinearRegression(),
    }
    for name, model in models.items():
        model.fit(known, target)
        if "n_jobs" in model.get_params():
            model.set_params(n_jobs=1)
        mlflow.sklearn.save_model(
            model,
            folder / name,
            signature=infer_signature(known, target),
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    return {name: folder / name for name in models}


def score_with_engine(runner: Any, folder: Path, source: Path, output: Path) -> int:
    """Do what the operator does once the model is loaded."""
    from airflow_uc_models.engines import InferenceJob
    from airflow_uc_models.engines.local import score
    from airflow_uc_models.engines.local_plan import plan_of
    from airflow_uc_models.engines.paths import Location
    from airflow_uc_models.engines.tables import open_table
    from airflow_uc_models.entities import ModelVersion
    from airflow_uc_models.hooks.artifacts import read_mlmodel

    job = InferenceJob(input=str(source), output=str(output))
    version = ModelVersion("benchmarks.models.model", 1)
    plan = plan_of(job, open_table(Location.parse(job.input)), read_mlmodel(folder), version)
    return score(runner, plan).rows


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_speed(name: str, folder: Path, source: Path, rows: int, repeats: int) -> float:
    import pandas as pd

    from airflow_uc_models.engines.runners import InProcess, Workers, processes_of
    from airflow_uc_models.environments import environment_of
    from airflow_uc_models.environments.loading import load_pyfunc

    model, frame, output = load_pyfunc(folder), pd.read_parquet(source), source.with_name("out.parquet")

    def by_hand() -> None:
        given = pd.read_parquet(source)
        given.assign(prediction=model.predict(given)).to_parquet(source.with_name("hand.parquet"))

    def engine() -> None:
        score_with_engine(InProcess(model.predict), folder, source, output)

    def predict() -> None:
        model.predict(frame)

    with processes_of(environment_of(folder, "local"), Workers(1, folder, name, [])) as processes:

        def process() -> None:
            score_with_engine(processes, folder, source, output)

        steps = (predict, engine, predict, process, predict, by_hand)
        rounds = [[seconds(work) for work in steps] for _ in range(repeats)]
    # The two predictions around each run of the engine cancel out what the machine does beside this.
    ratio = statistics.median((r[0] + r[2]) / 2 / r[1] for r in rounds)
    process_ratio = statistics.median((r[2] + r[4]) / 2 / r[3] for r in rounds)
    hand_ratio = statistics.median(r[5] / r[1] for r in rounds)
    alone, ours, other, hand = (rows / statistics.median(r[i] for r in rounds) for i in (0, 1, 3, 5))
    print(
        f"{name}, {rows:,} rows x {len(COLUMNS)} columns: engine {ours:,.0f} rows/s, predict alone {alone:,.0f}, "
        f"model in another process {other:,.0f}, read + predict + write by hand {hand:,.0f}"
    )
    print(
        f"  ratio to predict alone: {ratio:.2f}, in another process {process_ratio:.2f}; "
        f"to the same work by hand: {hand_ratio:.2f}"
    )
    return ratio


def compare_wide(folder: Path, rows: int = 8_000, columns: int = 2_000, repeats: int = 3) -> float:
    """Return the CPU time of the engine against that of mlflow's own predict between reading and writing by hand."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from mlflow.models.utils import _enforce_schema
    from mlflow.types import ColSpec, Schema

    from airflow_uc_models.engines import InferenceJob
    from airflow_uc_models.engines.local import score
    from airflow_uc_models.engines.local_plan import plan_of
    from airflow_uc_models.engines.paths import Location
    from airflow_uc_models.engines.runners import InProcess
    from airflow_uc_models.engines.tables import open_table
    from airflow_uc_models.entities import ModelVersion

    source, schema = folder / "wide.parquet", Schema([ColSpec("double", f"x{i}") for i in range(columns)])
    values = np.random.default_rng(0).normal(size=(columns, rows))
    pq.write_table(pa.table({f"x{i}": values[i] for i in range(columns)}), source)
    mlmodel = {"signature": {"inputs": schema.to_json(), "outputs": Schema([ColSpec("double")]).to_json()}}

    def predict(frame: Any) -> Any:
        return _enforce_schema(frame, schema).to_numpy().sum(axis=1)

    def by_hand() -> None:
        given = pd.read_parquet(source)
        given.assign(prediction=predict(given)).to_parquet(folder / "wide-hand.parquet")

    def engine() -> None:
        job = InferenceJob(input=str(source), output=str(folder / "wide-out.parquet"))
        plan = plan_of(job, open_table(Location.parse(job.input)), mlmodel, ModelVersion("benchmarks.models.wide", 1))
        score(InProcess(predict), plan)

    def cpu_seconds(work: Callable[[], None]) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    rounds = [(cpu_seconds(engine), cpu_seconds(by_hand)) for _ in range(repeats)]
    ours, hand = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    print(f"wide table, {rows:,} rows x {columns:,} columns: engine {ours:.2f} s of CPU, by hand {hand:.2f} s")
    print(f"  ratio: {ours / hand:.2f} (goal at most {WIDE_GOAL})")
    return ours / hand


def peak_mb() -> float:
    """Return this process's peak. Not ru_maxrss: that starts with the peak of the process that forked this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure_memory(folder: Path, source: Path) -> tuple[float, float]:
    """Return peak and what it is without scoring, in MB, of a process of its own."""
    command = [sys.executable, __file__, "--memory-of", str(folder), str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, peak = done.stdout.split()[-2:]
    return float(peak), float(before)


def memory_of(folder: Path, source: Path) -> None:
    from airflow_uc_models.engines.runners import InProcess
    from airflow_uc_models.environments.loading import load_pyfunc

    model = load_pyfunc(folder)
    before = peak_mb()
    score_with_engine(InProcess(model.predict), folder, source, source.with_name("out.parquet"))
    print(before, peak_mb())


def compare_memory(folder: Path, work: Path, rows: int) -> float:
    few, base = measure_memory(folder, write_input(work / "few.parquet", rows))
    many, _ = measure_memory(folder, write_input(work / "many.parquet", 10 * rows))
    raw = 10 * rows * len(COLUMNS) * 8 / 1e6
    print(f"peak memory: {few:.0f} MB for {rows:,} rows, {many:.0f} MB for {10 * rows:,} ({raw:,.0f} MB of numbers)")
    above = f"{few - base:.0f} and {many - base:.0f} MB above the {base:.0f} MB before the first row"
    print(f"  ratio: {many / few:.2f} ({above})")
    return many / few


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--memory-rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.memory_of:
        memory_of(*arguments.memory_of)
        return 0
    with tempfile.TemporaryDirectory(prefix="inference-") as temporary:
        work = Path(temporary)
        models = save_models(work)
        memory = compare_memory(models["linear model"], work, arguments.memory_rows)
        source = write_input(work / "in.parquet", arguments.rows)
        speed, _ = (compare_speed(name, models[name], source, arguments.rows, arguments.repeats) for name in models)
        wide = compare_wide(work)
    met = speed >= SPEED_GOAL and memory <= MEMORY_GOAL and wide <= WIDE_GOAL
    print(
        f"{'met' if met else 'MISSED'}: speed ratio {speed:.2f} (random forest; goal at least {SPEED_GOAL}), "
        f"memory ratio {memory:.2f} (goal at most {MEMORY_GOAL}), "
        f"wide ratio {wide:.2f} (goal at most {WIDE_GOAL})"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
