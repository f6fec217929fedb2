"""Loads Dag files as Airflow does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def load_dags(airflow_home) -> Callable[[Path], Any]:
    """Load the Dags of a file or folder."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag

    return lambda path: DagBag(dag_folder=str(path))
