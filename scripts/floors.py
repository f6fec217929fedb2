"""Run the tests on the oldest supported versions: ``make test-floors``.

Each ``constraints-airflow-<version>.txt`` gets an environment of its own under ``.floors/``, built again only when that
file or pyproject.toml has changed. All arguments go to pytest, so one file can be run, too::

    python -m scripts.floors --airflow 3.1 tests/unit/test_provider.py
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".floors"
UV = Path(sys.executable).with_name("uv")
# The Python to use for an Airflow, if this machine has it; so that the tests run on more than one.
PYTHONS = {"3.1": "3.11", "3.2": "3.12"}


def main() -> int:
    """Run the tests in one environment after the other; the first failure does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--airflow", choices=sorted(PYTHONS), action="append", help="all of them by default")
    options, arguments = parser.parse_known_args()
    outcomes = {version: run_tests(version, arguments) for version in options.airflow or sorted(PYTHONS)}
    for version, code in outcomes.items():
        print(f"Airflow {version}: {'passed' if code == 0 else f'failed (pytest ended with {code})'}")
    return max(outcomes.values())


def run_tests(version: str, arguments: list[str]) -> int:
    """Run pytest on a version of Airflow and return its exit code."""
    python = build(version)
    print(f"== {describe(python)}", flush=True)
    return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode


def build(version: str) -> Path:
    """Return the Python of the environment for a version of Airflow; build it if it is not there or is stale."""
    constraints, folder = ROOT / f"constraints-airflow-{version}.txt", HOME / version
    python, stamp = folder / "bin" / "python", folder / "installed"
    sources = (constraints, ROOT / "pyproject.toml")
    if stamp.exists() and all(stamp.stat().st_mtime >= source.stat().st_mtime for source in sources):
        return python
    print(f"Installing Airflow {version} into {folder.relative_to(ROOT)} ...", flush=True)
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", find_python(PYTHONS[version]), folder], check=True)
    install = [UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    subprocess.run([*install, "--constraint", constraints, "--editable", ".[dev]"], cwd=ROOT, check=True)
    stamp.touch()
    return python


def find_python(version: str) -> str:
    """Return an interpreter of this version, or the running one if there is none."""
    candidates = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for candidate in filter(None, candidates):
        # pyenv's commands are there for every version, and fail for those that are not switched on
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return str(candidate)
    print(f"There is no Python {version} here; {sys.executable} is used instead.")
    return sys.executable


def describe(python: Path) -> str:
    """Return the versions that the tests run on."""
    names = "apache-airflow", "mlflow", "apache-airflow-providers-databricks"
    code = (
        "import sys; from importlib.metadata import version; "
        "print('Python', sys.version.split()[0], *(f'{n} {version(n)}' for n in sys.argv[1:]), sep=', ')"
    )
    return subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
