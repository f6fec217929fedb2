"""Models whose files are only looked at, in an emulated workspace that scores with them in name only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from airflow_uc_models.emulator import Emulator

NAME = "prod.ml_team.fraud"
REQUIREMENTS = """\
# made by mlflow
mlflow==3.4.0
scikit-learn==1.5.0  # what it was trained with
pyspark==3.5.1
--extra-index-url https://packages.example
"""


def columns(**types: str) -> str:
    """Return the columns of a signature as MLmodel files hold them."""
    return json.dumps([{"name": name, "type": kind, "required": True} for name, kind in types.items()])


def add_model(
    workspace: Emulator,
    *,
    versions: int = 1,
    python: str = "3.11.7",
    loader: str = "mlflow.sklearn",
    inputs: str | None = None,
    outputs: str | None = None,
    requirements: str | None = REQUIREMENTS,
    files: Callable[[Path], None] | None = None,
) -> str:
    """Register a model with Champion on its last version; returns its name.

    :param inputs: of its signature, by default two numbers
    :param outputs: by default one number without a name
    :param files: writes a real model instead
    """
    inputs = columns(f0="double", f1="long") if inputs is None else inputs
    outputs = json.dumps([{"type": "double", "required": True}]) if outputs is None else outputs
    mlmodel: dict[str, Any] = {
        "flavors": {"python_function": {"loader_module": loader, "python_version": python}},
        "signature": {"inputs": inputs, "outputs": outputs} if inputs else None,
    }
    space = workspace.workspace
    workspace.add_schema(NAME.rpartition(".")[0])
    model = space.catalog.create_model(space.admin, NAME)
    for number in range(1, versions + 1):
        space.catalog.create_version(space.admin, NAME, source="dbfs:/x")
        folder = space.files.path(model.id, number, "")
        if files is not None:
            files(folder)
            space.catalog.finalize_version(space.admin, NAME, number)
            continue
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
        if requirements is not None:
            (folder / "requirements.txt").write_text(requirements)
        space.catalog.finalize_version(space.admin, NAME, number)
    space.catalog.set_alias(space.admin, NAME, "Champion", versions)
    return NAME


def may_score(workspace: Emulator, *, without: Sequence[str] = ()) -> Any:
    """Add a user who may read the model and the tables of its schema, but for some privileges."""
    user = workspace.add_principal("scorer@example.com")
    for privilege, securable in (
        ("USE CATALOG", "prod"),
        ("USE SCHEMA", "prod.ml_team"),
        ("EXECUTE", NAME),
        ("SELECT", "prod.ml_team"),
    ):
        if privilege not in without:
            workspace.grant(user, privilege, securable)
    return user


def save_sums(folder: Path) -> None:
    """Save a model that adds f0 and f1."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    class Sums(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input["f0"] + model_input["f1"]

    inputs = Schema([ColSpec("double", "f0"), ColSpec("long", "f1")])
    signature = ModelSignature(inputs, Schema([ColSpec("double")]))
    mlflow.pyfunc.save_model(folder, python_model=Sums(), signature=signature, pip_requirements=["mlflow"])
