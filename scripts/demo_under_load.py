"""Run the demo again and again while busy loops use the machine, and count how often it succeeds.

    python scripts/demo_under_load.py --count 20 --loops 2

Prints a line per run and then the smallest, the median and the largest time. The exit status is 0 if all succeeded.
What a failed run has printed, and its logs, are kept.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STOPPING = "Stopping MLflow and Airflow ..."  # what a demo prints when its servers stop
# The demo's own limits are far below.
_TIMEOUT = 3600.0


def main() -> int:
    """Run and count; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="how many runs (default: %(default)s)")
    cores = os.cpu_count() or 2
    parser.add_argument("--loops", type=int, default=cores, help="how many busy loops (default: one per core)")
    parser.add_argument("--registry", choices=["mlflow", "databricks"], default="mlflow")
    parser.add_argument("--database", choices=["postgres", "sqlite"], default="postgres")
    arguments = parser.parse_args()

    options = ["--registry", arguments.registry, "--database", arguments.database]
    folder = Path(tempfile.mkdtemp(prefix="demo-under-load-"))
    print(f"{arguments.count} runs beside {arguments.loops} busy loops on {cores} cores; folder: {folder}", flush=True)
    times: list[float] = []
    with _busy(arguments.loops):
        for number in range(1, arguments.count + 1):
            seconds, failure = _run(folder / f"run-{number}", options)
            print(f"{number:3} {'failed' if failure else 'passed'} {seconds:6.1f} s  {failure}".rstrip(), flush=True)
            if not failure:
                times.append(seconds)
                shutil.rmtree(folder / f"run-{number}")
    print(f"{len(times)} of {arguments.count} passed")
    if times:
        print(f"min {min(times):.1f} s, median {statistics.median(times):.1f} s, max {max(times):.1f} s")
    if len(times) == arguments.count:
        shutil.rmtree(folder)
    return 0 if len(times) == arguments.count else 1


def _run(folder: Path, options: list[str]) -> tuple[float, str]:
    """Run a demo; return its time and, if it has failed, why."""
    folder.mkdir()
    output = folder / "output.txt"
    command = [sys.executable, "-m", "scripts.demo", "--home", str(folder / "home"), *options]
    began = time.monotonic()
    with output.open("wb") as file:
        try:
            status = subprocess.run(
                command, cwd=ROOT, stdout=file, stderr=file, timeout=_TIMEOUT, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return time.monotonic() - began, f"it did not end within {_TIMEOUT:.0f} s; see {output}"
    seconds = time.monotonic() - began
    if status == 0 and (folder / "home" / "summary.json").is_file():
        return seconds, ""
    return seconds, f"status {status}: {_reason(output.read_text())}; see {output}"


def _reason(output: str) -> str:
    """Return the first line of what a demo says about its failure, and the first error in the logs that follow it."""
    told = [line.strip() for line in output.partition(STOPPING)[2].splitlines() if line.strip()]
    error = next((line for line in told[1:] if re.match(r"[\w.]*(Error|Exception)\b", line)), "")
    return " ".join([*told[:1], error]).strip() or output.strip().rpartition("\n")[2]


@contextmanager
def _busy(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main())
