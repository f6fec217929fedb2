"""What importing this package adds to the parsing of a Dag file that imports Airflow and the Databricks provider.

Fresh interpreters in turn: one imports Airflow's SDK and the operators and hooks of the Databricks provider, the other
does so too and then every operator, sensor and trigger of this package, policies and assets. CPU seconds, because the
machine may be busy. What Airflow's import leaves to the garbage collector is collected before ours begins: else the
collector, which is due every so many objects, runs in the one or the other half by chance, and costs more than either.

    python benchmarks/import_time.py
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
from typing import Any

GOAL = 1.05
HEAVY = ("mlflow", "databricks", "pandas", "pyarrow")  # databricks is the SDK: the provider is airflow.providers...

BASELINE = """
import gc, json, sys, time
import airflow.sdk
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator
import airflow.providers.databricks.hooks.databricks
import airflow.providers.databricks.operators.databricks
gc.collect()
before, modules = time.process_time(), set(sys.modules)
"""
OURS = """
import importlib
for package in ("operators", "sensors", "triggers"):
    module = importlib.import_module(f"airflow_uc_models.{package}")
    for name in module.__all__:
        getattr(module, name)
import airflow_uc_models.assets
import airflow_uc_models.policies
"""
REPORT = """
after = time.process_time()
print(json.dumps({"total": after, "added": after - before, "modules": sorted(set(sys.modules) - modules)}))
"""


def measure(code: str, home: str) -> dict[str, Any]:
    # Compiled once, by the turn that does not count, as an installed package is.
    env = os.environ | {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPYCACHEPREFIX": home}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    repeat = parser.parse_args().repeat
    codes = {"baseline": BASELINE + REPORT, "with ours": BASELINE + OURS + REPORT}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in codes}
    with tempfile.TemporaryDirectory() as home:
        for turn in range(repeat + 1):
            for name, code in codes.items():
                result = measure(code, home)
                if turn:  # the first turn writes configuration and bytecode
                    results[name].append(result)
    seconds = {name: statistics.median(r["total"] for r in rows) for name, rows in results.items()}
    added = statistics.median(r["added"] for r in results["with ours"])
    # Both halves of one process suffer the same disturbance, so their ratio is the steadier one.
    ratio = statistics.median(r["total"] / (r["total"] - r["added"]) for r in results["with ours"])
    modules = results["with ours"][0]["modules"]
    heavy = sorted({name.partition(".")[0] for name in modules} & set(HEAVY))
    print(f"Airflow and Databricks provider   {seconds['baseline']:.3f} s CPU (median of {repeat})")
    print(f"the same and all of ours          {seconds['with ours']:.3f} s CPU")
    print(f"added in the same process         {added:.3f} s CPU, {len(modules)} modules")
    print(f"ratio of the medians              {seconds['with ours'] / seconds['baseline']:.3f}")
    print(f"ratio within one process          {ratio:.3f}  (goal: at most {GOAL})")
    print(f"heavy modules because of us       {', '.join(heavy) or 'none'}  (goal: none)")
    return 0 if ratio <= GOAL and not heavy else 1


if __name__ == "__main__":
    sys.exit(main())
