"""The names that users import, and what their docstrings promise."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from typing import Any

import pytest

OPERATORS = {
    "ApproveModelVersionOperator",
    "BatchInferenceOperator",
    "BranchOnModelValidationOperator",
    "CopyModelVersionOperator",
    "CreateRegisteredModelOperator",
    "DeleteModelVersionOperator",
    "DeleteModelVersionTagsOperator",
    "DeleteRegisteredModelAliasOperator",
    "DeleteRegisteredModelOperator",
    "DeleteRegisteredModelTagsOperator",
    "DownloadModelVersionOperator",
    "GetModelVersionOperator",
    "GetRegisteredModelOperator",
    "MarkModelVersionsHandledOperator",
    "PendingModelVersionsOperator",
    "RegisterModelOperator",
    "RenameRegisteredModelOperator",
    "RollbackRegisteredModelAliasOperator",
    "SearchModelVersionsOperator",
    "SearchRegisteredModelsOperator",
    "SetModelVersionApprovalTagOperator",
    "SetModelVersionTagsOperator",
    "SetRegisteredModelAliasOperator",
    "SetRegisteredModelTagsOperator",
    "ShortCircuitOnModelValidationOperator",
    "UpdateModelVersionOperator",
    "UpdateRegisteredModelOperator",
    "ValidateModelVersionOperator",
}
# What the parameters of these take.
OPTIONS = {"CsvOptions"}
SENSORS = {"ModelVersionSensor", "ModelVersionTagSensor", "RegisteredModelAliasSensor", "RegisteredModelSensor"}
TRIGGERS = {"ConditionTrigger", "ModelEventTrigger"}
PACKAGES = {"operators": OPERATORS | OPTIONS, "sensors": SENSORS, "triggers": TRIGGERS}
PARAMETER = re.compile(r"^:param (\w+):(.*?)(?=^:param|^\S|\Z)", re.MULTILINE | re.DOTALL)
TASKS = [(package, name) for package in ("operators", "sensors") for name in sorted(PACKAGES[package] - OPTIONS)]


def public(package: str, name: str) -> Any:
    return getattr(importlib.import_module(f"airflow_uc_models.{package}"), name)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_are_these(package) -> None:
    module = importlib.import_module(f"airflow_uc_models.{package}")
    assert set(module.__all__) == PACKAGES[package]
    assert module.__all__ == sorted(module.__all__)
    assert set(module._MODULES) == PACKAGES[package]
    star: dict[str, Any] = {}
    exec(f"from {module.__name__} import *", star)
    assert PACKAGES[package] <= set(star)


@pytest.mark.parametrize("package", [*PACKAGES, "emulator"])
def test_dir_lists_the_names_before_they_are_imported(package) -> None:
    name = f"airflow_uc_models.{package}"
    code = f"import {name} as p; assert not set(p._MODULES) & set(vars(p)); print(set(p.__all__) <= set(dir(p)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize(("package", "name"), [*TASKS, ("triggers", "ConditionTrigger")])
def test_each_is_what_it_is_called(package, name) -> None:
    value = public(package, name)
    assert value.__name__ == name
    assert value.__module__.startswith(f"airflow_uc_models.{package}.")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_class_is_forgotten(package) -> None:
    """A class without a leading underscore in a module of the package is exported, or a base or helper."""
    module = importlib.import_module(f"airflow_uc_models.{package}")
    for noun in set(module._MODULES.values()):
        inner = importlib.import_module(f"{module.__name__}.{noun}")
        suffixes = ("Operator", "Sensor", "Trigger")
        for name, value in vars(inner).items():
            if inspect.isclass(value) and value.__module__ == inner.__name__ and name.endswith(suffixes):
                assert name in PACKAGES[package] or name.startswith("_"), name


@pytest.mark.parametrize("package", PACKAGES)
def test_other_names_are_attribute_errors(package) -> None:
    module = importlib.import_module(f"airflow_uc_models.{package}")
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'NoSuchOperator'"):
        module.NoSuchOperator  # noqa: B018


def parameters(task: type) -> set[str]:
    """The constructor's parameters that are this package's, but for what the base classes document."""
    from airflow_uc_models.operators.base import ModelRegistryOperator

    bases = {ModelRegistryOperator}
    if issubclass(task, public("sensors", "ModelVersionSensor").__mro__[1]):
        bases.add(public("sensors", "ModelVersionSensor").__mro__[1])
    found: set[str] = set()
    for ancestor in task.__mro__:
        if (
            ancestor.__module__.startswith("airflow_uc_models.")
            and ancestor not in bases
            and "__init__" in vars(ancestor)
        ):
            signature = inspect.signature(vars(ancestor)["__init__"])
            found |= {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    return found


@pytest.mark.parametrize(("package", "name"), TASKS)
def test_docstrings_tell_all(package, name) -> None:
    task = public(package, name)
    text = inspect.cleandoc(task.__doc__)
    first = text.split("\n\n")[0]
    assert first.rstrip()[-1] in ".:", "the first paragraph says what it does"
    for word in ("XCom", "Privileges:", "Registries:"):
        assert word in text, word
    described = dict(re.findall(PARAMETER, text))
    assert set(described) <= parameters(task)
    # "like SuchAndSuchOperator" leaves to it what both have
    for other in set(re.findall(r"\blike (\w+)\b", text)) & PACKAGES[package]:
        theirs = dict(re.findall(PARAMETER, inspect.cleandoc(public(package, other).__doc__)))
        described |= {key: said for key, said in theirs.items() if key in parameters(task)}
    assert set(described) == parameters(task)
    for parameter, said in described.items():
        attribute = (re.findall(r"templated as ``(\w+)``", said) or [parameter])[0]
        assert ("templated" in said) == (attribute in task.template_fields), parameter


def test_bases_document_what_all_share() -> None:
    from airflow_uc_models.operators.base import ModelRegistryOperator

    assert ":param registry_conn_id:" in (ModelRegistryOperator.__doc__ or "")
    base = public("sensors", "ModelVersionSensor").__mro__[1]
    shared = {p.name for p in inspect.signature(vars(base)["__init__"]).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert {"deferrable"} <= shared
    for name in shared:
        assert f":param {name}:" in (base.__doc__ or ""), name


def test_triggers_document_their_parameters() -> None:
    trigger = public("triggers", "ConditionTrigger")
    taken = set(inspect.signature(trigger.__init__).parameters) - {"self"}
    assert set(re.findall(r":param (\w+):", trigger.__doc__)) == taken


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    import airflow_uc_models

    assert airflow_uc_models.__version__ == version("airflow-uc-models")
