"""Model files: read, download, upload, load. The only file that imports mlflow.

mlflow finds its credentials in environment variables. They are set for the length of one ``mlflow_session`` and
put back afterwards, under a lock, so that two connections can be used in one task and nothing outlives it.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_uc_models.exceptions import ModelContentError, NotFoundError
from airflow_uc_models.hooks.endpoint import Endpoint
from airflow_uc_models.names import LocalSource, LoggedModelSource, ModelSource, RunSource

if TYPE_CHECKING:
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.pyfunc import PyFuncModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

MLMODEL = "MLmodel"
_lock = threading.RLock()
_UNTOUCHED = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
