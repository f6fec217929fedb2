"""Copying a large model between two models of a workspace, in Files API mode.

Ours is what CopyModelVersionOperator does, from the lookup to the finished version, in a process of its own. Against
it stands mlflow's own repository for such files, download and upload and nothing else, also in a process of its own.
Rounds alternate; the ratio is of medians. Wall time only: the two move the same bytes through the same disk. Memory is
the peak of our process. The workspace is the emulator, a third process.

    python benchmarks/copy.py [--megabytes 2000] [--files 40]
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIME_GOAL, MEMORY_GOAL_MB = 1.1, 400
SOURCE, TOKEN = "dev.bench.large", "dapi-benchmark"

OURS = """
import sys, time
from airflow_uc_models.hooks import transfer
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.names import ModelRef
import mlflow.store.artifact.databricks_sdk_models_artifact_repo, databricks.sdk
hook = ModelRegistryHook("bench")
started = time.perf_counter()
new = transfer.NewVersion(sys.argv[1], key=sys.argv[1])
version = transfer.copy(hook, ModelRef.parse("models:/dev.bench.large/1"), hook, new)
assert version.is_ready
print(time.perf_counter() - started)
"""
THEIRS = """
import sys, tempfile, time
from airflow.sdk import BaseHook  # what any task has loaded
from mlflow.store.artifact.databricks_sdk_models_artifact_repo import DatabricksSDKModelsArtifactRepository as Files
import databricks.sdk
started = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    Files("dev.bench.large", "1").download_artifacts("", folder)
    Files(sys.argv[1], "1").log_artifacts(folder, "")
print(time.perf_counter() - started)
"""
PEAK = """
from pathlib import Path
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024)
"""
REGISTER = """
import sys
from pathlib import Path
from airflow_uc_models.hooks import transfer
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.names import LocalSource
new = transfer.NewVersion("dev.bench.large", "key")
transfer.register(ModelRegistryHook("bench"), LocalSource(Path(sys.argv[1])), new)
"""
PENDING = """
import sys
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
hook = ModelRegistryHook("bench")
hook.run(hook.registry.create_registered_model(sys.argv[1]))
hook.run(hook.registry.create_model_version(sys.argv[1], "models:/dev.bench.large/1"))
"""
CLEAN = """
import sys
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
hook = ModelRegistryHook("bench")
hook.run(hook.registry.delete_model_version(sys.argv[1], 1))
"""


@contextmanager
def workspace(folder: Path) -> Iterator[dict[str, str]]:
    """Serve an emulated workspace and yield the environment that reaches it."""
    command = [sys.executable, "-u", "-m", "airflow_uc_models.emulator", "--token", TOKEN]
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        url = next(line for line in process.stdout if "http://127.0.0.1" in line).split()[-1]
        connection = {"conn_type": "databricks", "host": url, "password": TOKEN}
        yield {
            **environment,
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW_CONN_BENCH": json.dumps(connection),
            "DATABRICKS_HOST": url,
            "DATABRICKS_TOKEN": TOKEN,
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
    finally:
        process.terminate()
        process.wait()


def run(code: str, environment: dict[str, str], *arguments: str) -> list[float]:
    """Run code in a process of its own and return the numbers that it prints last."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    numbers = []
    for line in done.stdout.splitlines():
        try:
            numbers.append(float(line))
        except ValueError:
            continue
    return numbers


def write_model(folder: Path, megabytes: int, files: int) -> Path:
    """Write a small signed model, and weights beside it that no compression could shrink."""
    import mlflow.sklearn
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    x = np.arange(6.0).reshape(3, 2)
    model = LinearRegression().fit(x, x[:, 0])
    mlflow.sklearn.save_model(model, folder, signature=infer_signature(x, x[:, 0]), pip_requirements=["scikit-learn"])
    small = sum(1 for file in folder.rglob("*") if file.is_file())
    (folder / "weights").mkdir()
    for number in range(files - small):
        with (folder / "weights" / f"part-{number:03}.bin").open("wb") as file:
            left = megabytes * 1_000_000 // (files - small)
            while left > 0:
                left -= file.write(os.urandom(min(left, 8 << 20)))
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="copy-") as temporary, workspace(Path(temporary)) as environment:
        folder = write_model(Path(temporary) / "model", options.megabytes, options.files)
        run(REGISTER, environment, str(folder))
        ours, theirs, peaks, their_peaks = [], [], [], []
        for number in range(options.repeats):
            seconds, peak = run(OURS + PEAK, environment, f"prod.bench.ours{number}")
            run(CLEAN, environment, f"prod.bench.ours{number}")
            run(PENDING, environment, f"prod.bench.theirs{number}")
            their_seconds, their_peak = run(THEIRS + PEAK, environment, f"prod.bench.theirs{number}")
            run(CLEAN, environment, f"prod.bench.theirs{number}")
            ours.append(seconds)
            theirs.append(their_seconds)
            peaks.append(peak)
            their_peaks.append(their_peak)
            print(f"  {seconds:.1f} s against {their_seconds:.1f} s; peak {peak:.0f} MB against {their_peak:.0f} MB")
    size = f"{options.megabytes:,} MB in {options.files} files"
    our_seconds, their_seconds = statistics.median(ours), statistics.median(theirs)
    ratio = our_seconds / their_seconds
    print(f"copy of {size}: {our_seconds:.1f} s, mlflow's download and upload {their_seconds:.1f} s")
    met = ratio <= TIME_GOAL and max(peaks) < MEMORY_GOAL_MB
    print(
        f"{'met' if met else 'MISSED'}: ratio {ratio:.2f} (goal at most {TIME_GOAL}), peak memory {max(peaks):.0f} MB "
        f"(goal below {MEMORY_GOAL_MB}; mlflow's own {max(their_peaks):.0f})"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
