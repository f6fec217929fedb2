"""HTTP calls per operator, against the same job with MlflowClient, on an emulated Databricks workspace.

The same job is the same effect with the same safeguards: where an operator looks for what an earlier try made, keeps
the history of an alias or reads back what it wrote, a user of MlflowClient must do so, too. ``bare`` is MlflowClient
without any of that. Calls are counted by the workspace, discovery (``/.well-known``) and file transfers included.

    python benchmarks/calls.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/: its copy.py would stand before the standard library's

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NAME, OTHER, NEW = "dev.bench.model", "prod.bench.model", "dev.bench.new"


class Jobs:
    """Each job in three ways, all on models that are prepared alike.

    :param folder: a saved model
    """

    def __init__(self, folder: Path, workspace: Any) -> None:
        from airflow_uc_models import operators

        self.folder, self.workspace, self.operators = folder, workspace, operators
        self.scratch = Path(tempfile.mkdtemp(dir=folder.parent))

    def prepare(self) -> None:
        """Make one model with three versions, the second of which is Champion and has a tag."""
        self.workspace.reset()
        client = self.client
        client.create_registered_model(NAME)
        for _ in range(3):
            self.register(NAME)
        client.set_registered_model_alias(NAME, "Champion", "2")
        client.set_model_version_tag(NAME, "2", "old", "x")
        client.set_registered_model_tag(NAME, "old", "x")
        self.workspace.requests.take()

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri="databricks", registry_uri="databricks-uc")

    def register(self, name: str, source: Path | None = None, tags: dict[str, str] | None = None) -> Any:
        """Make a version out of a folder, as mlflow.register_model does."""
        import mlflow
        from mlflow.exceptions import RestException

        try:
            self.client.create_registered_model(name)
        except RestException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return mlflow.MlflowClient(tracking_uri="databricks", registry_uri="databricks-uc").create_model_version(
            name, str(source or self.folder), tags=tags
        )

    def download(self, name: str, version: int) -> Path:
        import mlflow

        target = tempfile.mkdtemp(dir=self.scratch)
        uri = f"models:/{name}/{version}"
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=target, registry_uri="databricks-uc"))

    def find_earlier(self, name: str) -> None:
        """Look whether an earlier try made a version; lists carry no tags."""
        from mlflow.exceptions import RestException

        try:
            found = self.client.search_model_versions(f"name='{name}'")
        except RestException:
            return
        began = datetime.now(UTC).timestamp() * 1000 - 600_000
        for version in found:
            if version.creation_timestamp > began:
                self.client.get_model_version(name, version.version)

    # -- the jobs that are more than one call

    def guarded_register(self) -> None:
        self.find_earlier(NEW)
        self.register(NEW, tags={"task": "1"})
        self.find_earlier(NEW)

    def bare_copy(self) -> None:
        self.register(OTHER, self.download(NAME, 2))

    def guarded_copy(self) -> None:
        self.find_earlier(OTHER)
        source = self.client.get_model_version(NAME, "2")
        self.register(OTHER, self.download(NAME, 2), tags=dict(source.tags))
        self.find_earlier(OTHER)

    def guarded_alias(self) -> None:
        """Check the version, keep the history, move, read back."""
        client = self.client
        client.get_registered_model(NAME)
        client.get_model_version(NAME, "3")
        client.set_registered_model_tag(NAME, "history", "2")
        client.get_registered_model(NAME)
        client.set_registered_model_alias(NAME, "Champion", "3")
        client.get_registered_model(NAME)
        client.set_registered_model_tag(NAME, "history", "2 3")
        client.get_registered_model(NAME)

    def guarded_delete_alias(self) -> None:
        client = self.client
        client.get_registered_model(NAME)
        client.set_registered_model_tag(NAME, "history", "2")
        client.get_registered_model(NAME)
        client.delete_registered_model_alias(NAME, "Champion")

    def guarded_delete_version(self) -> None:
        """Only if no alias points to it."""
        self.client.get_registered_model(NAME)
        self.client.delete_model_version(NAME, "3")

    def tags(self, set_tag: Callable[[str, str], Any]) -> None:
        set_tag("a", "1")
        set_tag("b", "2")

    def all(self) -> dict[str, tuple[dict[str, Any], Callable[[], Any], Callable[[], Any] | None]]:
        """By operator: its arguments, the bare job, and the same job where that is more."""
        c = self.client
        two = {"model_name": NAME, "version": 2}
        tags = {"a": "1", "b": "2"}
        return {
            "CreateRegisteredModel": ({"model_name": NEW}, lambda: c.create_registered_model(NEW), None),
            "GetRegisteredModel": ({"model_name": NAME}, lambda: c.get_registered_model(NAME), None),
            "UpdateRegisteredModel": (
                {"model_name": NAME, "description": "d"},
                lambda: c.update_registered_model(NAME, "d"),
                None,
            ),
            "SearchRegisteredModels": ({}, c.search_registered_models, None),
            "RegisterModel": (
                {"model_name": NEW, "model_uri": str(self.folder)},
                lambda: self.register(NEW),
                self.guarded_register,
            ),
            "CopyModelVersion": ({**two, "destination_model_name": OTHER}, self.bare_copy, self.guarded_copy),
            "DownloadModelVersion": (
                {**two, "destination": str(self.scratch / "ours")},
                lambda: self.download(NAME, 2),
                None,
            ),
            "GetModelVersion": (
                {"model_name": NAME, "alias": "Champion"},
                lambda: c.get_model_version_by_alias(NAME, "Champion"),
                None,
            ),
            "SearchModelVersions": ({"model_name": NAME}, lambda: c.search_model_versions(f"name='{NAME}'"), None),
            "UpdateModelVersion": (
                {**two, "description": "d"},
                lambda: c.update_model_version(NAME, "2", "d"),
                None,
            ),
            "DeleteModelVersion": (
                {"model_name": NAME, "version": 3},
                lambda: c.delete_model_version(NAME, "3"),
                self.guarded_delete_version,
            ),
            "SetRegisteredModelAlias": (
                {"model_name": NAME, "alias": "Champion", "version": 3},
                lambda: c.set_registered_model_alias(NAME, "Champion", "3"),
                self.guarded_alias,
            ),
            "DeleteRegisteredModelAlias": (
                {"model_name": NAME, "alias": "Champion"},
                lambda: c.delete_registered_model_alias(NAME, "Champion"),
                self.guarded_delete_alias,
            ),
            "SetRegisteredModelTags": (
                {"model_name": NAME, "tags": tags},
                lambda: self.tags(lambda k, v: c.set_registered_model_tag(NAME, k, v)),
                None,
            ),
            "DeleteRegisteredModelTags": (
                {"model_name": NAME, "keys": ["old"]},
                lambda: c.delete_registered_model_tag(NAME, "old"),
                None,
            ),
            "SetModelVersionTags": (
                {**two, "tags": tags},
                lambda: self.tags(lambda k, v: c.set_model_version_tag(NAME, "2", k, v)),
                None,
            ),
            "DeleteModelVersionTags": (
                {**two, "keys": ["old"]},
                lambda: c.delete_model_version_tag(NAME, "2", "old"),
                None,
            ),
        }

    def run_operator(self, name: str, arguments: dict[str, Any]) -> None:
        """Do what the operator's task does, without Airflow's own calls around it."""
        operator = getattr(self.operators, f"{name}Operator")(task_id="job", registry_conn_id="bench", **arguments)
        instance = SimpleNamespace(
            dag_id="d", run_id="r", task_id="job", map_index=-1, try_number=1, xcom_push=lambda **_: None
        )
        operator.perform({"ti": instance, "dag_run": SimpleNamespace(run_after=datetime.now(UTC))})

    def count(self, work: Callable[[], Any]) -> int:
        """Return how many requests a job sends."""
        self.prepare()
        work()
        return len(self.workspace.requests.take())


def save_model(folder: Path) -> Path:
    import mlflow.sklearn
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    x = np.arange(6.0).reshape(3, 2)
    model = LinearRegression().fit(x, x[:, 0])
    signature = infer_signature(x, model.predict(x))
    mlflow.sklearn.save_model(model, folder, signature=signature, pip_requirements=["scikit-learn"])
    return folder


def main() -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from airflow_uc_models.emulator import Emulator

    with tempfile.TemporaryDirectory(prefix="calls-") as temporary, Emulator() as workspace:
        os.environ |= {
            "AIRFLOW_HOME": temporary,
            "AIRFLOW_CONN_BENCH": workspace.connection_json(),
            "DATABRICKS_HOST": workspace.url,
            "DATABRICKS_TOKEN": workspace.token,
            "MLFLOW_TRACKING_URI": "databricks",
            "MLFLOW_REGISTRY_URI": "databricks-uc",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        jobs = Jobs(save_model(Path(temporary) / "model"), workspace)
        more = []
        print(f"{'operator':30} {'ours':>5} {'same job':>9} {'bare':>5}")
        for name, (arguments, bare, guarded) in jobs.all().items():
            ours = jobs.count(lambda name=name, arguments=arguments: jobs.run_operator(name, arguments))
            bare_calls = jobs.count(bare)
            same = jobs.count(guarded) if guarded else bare_calls
            print(f"{name:30} {ours:5} {same:9} {bare_calls:5}")
            if ours > same:
                more.append(name)
    print(f"MISSED: more calls than MlflowClient in {', '.join(more)}" if more else "met: never more calls")
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(main())
