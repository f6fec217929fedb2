"""Make the models of this folder again, each with the MLflow it is named after.

::

    python tests/data/mlflow_models/make.py            # those that are missing
    python tests/data/mlflow_models/make.py 2.14.3     # this one, anew

Needs uv, a package index and the Python of each row; takes about a minute and 500 MB of uv's cache for each version.
Run it by hand: what it writes is checked in, as the tests need no such environments.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# mlflow: Python and scikit-learn of its time
VERSIONS = {
    "1.30.1": ("3.8", "1.1.3"),
    "2.4.2": ("3.11", "1.2.2"),
    "2.8.1": ("3.11", "1.3.2"),
    "2.11.4": ("3.11", "1.4.2"),
    "2.14.3": ("3.11", "1.5.1"),
    "2.16.2": ("3.11", "1.5.2"),
    "2.20.4": ("3.11", "1.6.1"),
    "3.0.1": ("3.11", "1.6.1"),
    "3.4.0": ("3.11", "1.7.2"),
}
# Runs with every mlflow of the table: only what all of them have.
SAVE = """
import sys
from pathlib import Path

import mlflow.sklearn
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

folder, code = sys.argv[1:]
frame = pd.DataFrame({"amount": [1.0, 2.0, 4.0], "visits": [3, 1, 2]}, dtype="object")
frame = frame.astype({"amount": "float64", "visits": "int64"})
model = LinearRegression().fit(frame, frame["amount"] * 2 + frame["visits"])
Path(code).mkdir()
(Path(code) / "__init__.py").write_text("FACTOR = 2\\n")
mlflow.sklearn.save_model(
    model, folder, signature=infer_signature(frame, model.predict(frame)), input_example=frame, code_paths=[code]
)
"""


def make(version: str) -> None:
    """Save one model in an environment of its own."""
    python, sklearn = VERSIONS[version]
    folder = HERE / version
    with tempfile.TemporaryDirectory() as place:
        script, venv = Path(place) / "save.py", Path(place) / "venv"
        script.write_text(SAVE)
        run("uv", "venv", "--quiet", "--python", python, str(venv))
        interpreter = str(venv / "bin" / "python")
        packages = [f"mlflow=={version}", f"scikit-learn=={sklearn}", "pip", "setuptools<70", "wheel"]
        run("uv", "pip", "install", "--quiet", "--python", interpreter, *packages)
        saved = Path(place) / "model"
        run(interpreter, str(script), str(saved), str(Path(place) / "helpers"))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder, ignore=shutil.ignore_patterns("__pycache__"))


def run(*command: str) -> None:
    """Run a program; its failure ends this one."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or [name for name in VERSIONS if not (HERE / name).exists()]:
        make(name)
        print(f"made {name}", flush=True)
