"""Processes of models without the seconds that the real mlflow takes to import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airflow_uc_models.environments.process import Start

# Loads what stands in model.py.
STAND_IN = """
import runpy
def load_model(folder):
    return runpy.run_path(folder + "/model.py")["Model"]()
"""


@pytest.fixture
def start(tmp_path):
    """Write a model, a class ``Model`` with ``predict``; returns how its process is started."""
    package = tmp_path / "path" / "mlflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0'")
    (package / "pyfunc.py").write_text(STAND_IN)

    def write(predict: str, **options) -> Start:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        lines = "".join(f"        {line}\n" for line in predict.splitlines())
        (folder / "model.py").write_text(
            f"import os, signal, subprocess, sys, time\nclass Model:\n    def predict(self, rows):\n{lines}"
        )
        return Start(Path(sys.executable), folder, "models:/a.b.c/1", [str(package.parent)], **options)

    return write
