"""Environments of models: how much later the first prediction comes if it is not made in the task's own process.

The same task in fresh processes: from the start of the engine ``local``, through the download of the model from an
emulated workspace and loading it, to the predictions of the first batch. With ``env_manager="uv"`` and an environment
that an earlier run has built, against ``env_manager="local"``. The model pins the versions that are installed, so both
load the same packages. Ratios are medians over rounds that alternate the two; the build is measured once.

    python benchmarks/environments.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/: its copy.py would stand before the standard library's

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

GOAL = 1.2
REGISTER = """
import sys
from pathlib import Path
from airflow_uc_models.hooks import transfer
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.names import LocalSource
new = transfer.NewVersion("dev.bench.model", "key")
transfer.register(ModelRegistryHook("bench"), LocalSource(Path(sys.argv[1])), new)
"""
SCORE = """
import sys, time
from airflow_uc_models.engines import InferenceJob, local
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.operators.inference import BatchInferenceOperator
hook = ModelRegistryHook("bench")
version = hook.run(hook.registry.get_model_version("dev.bench.model", 1))
write = local._write
def timed(*arguments):
    write(*arguments)
    print(time.perf_counter() - started)
local._write = timed
job = InferenceJob(input=sys.argv[2], output=sys.argv[3], env_manager=sys.argv[1])
started = time.perf_counter()
local.LocalEngine().start(job, hook, version)
"""


def write_model(folder: Path) -> Path:
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.ensemble import RandomForestRegressor

    known = pd.DataFrame(np.random.default_rng(1).normal(size=(5_000, 20)), columns=[f"x{i}" for i in range(20)])
    model = RandomForestRegressor(20, n_jobs=1, random_state=0).fit(known, known["x0"])
    pins = [f"{name}=={metadata.version(name)}" for name in ("mlflow", "scikit-learn", "pandas", "numpy", "pyarrow")]
    signature = infer_signature(known, known["x0"])
    mlflow.sklearn.save_model(
        model, folder, signature=signature, pip_requirements=pins, serialization_format="cloudpickle"
    )
    known.to_parquet(folder.with_name("in.parquet"))
    return folder


def run(code: str, environment: dict[str, str], *arguments: str | Path) -> float:
    """Run code in a process of its own and return the first number that it prints."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    numbers = [line for line in done.stdout.splitlines() if line.replace(".", "", 1).isdigit()]
    return float(numbers[0]) if numbers else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    from airflow_uc_models.emulator import Emulator

    with tempfile.TemporaryDirectory(prefix="environments-") as temporary, Emulator() as workspace:
        work = Path(temporary)
        connection = {"conn_type": "databricks", "host": workspace.url, "password": workspace.token}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "AIRFLOW_HOME": str(work / "airflow"),
            "AIRFLOW_CONN_BENCH": json.dumps(connection),
            "AIRFLOW__UC_MODELS__ENVIRONMENTS_FOLDER": str(work / "environments"),
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        run(REGISTER, environment, write_model(work / "model"))
        paths = (work / "in.parquet", work / "out.parquet")
        built = run(SCORE, environment, "uv", *paths)
        rounds = [[run(SCORE, environment, name, *paths) for name in ("local", "uv")] for _ in range(arguments.repeats)]
    own, isolated = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(uv / local for local, uv in rounds)
    print(
        f"first prediction after {own:.2f} s with env_manager=local, {isolated:.2f} s with a cached environment of uv"
    )
    print(f"  with the build: {built:.1f} s")
    print(f"{'met' if ratio <= GOAL else 'MISSED'}: ratio {ratio:.2f} (goal at most {GOAL})")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
