"""The rules of the house, read from the source: sizes, which way imports point, who may import what."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import airflow_uc_models

ROOT = Path(airflow_uc_models.__file__).parent
PACKAGE = "airflow_uc_models"
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
MAX_LINES, MAX_FUNCTION, MAX_PARAMETERS = 400, 40, 8
# One set of parameters for four engines.
WIDE = {"BatchInferenceOperator": 16}

# Imports point down this list; what is not named here is pure and may be imported by all.
PURE, REGISTRY, HOOKS, ENVIRONMENTS, ENGINES, TRIGGERS, TASKS, EMULATOR = range(8)
LAYERS = {
    "registry": REGISTRY,
    "hooks": HOOKS,
    "environments": ENVIRONMENTS,
    "engines": ENGINES,
    "triggers": TRIGGERS,
    "assets": TRIGGERS,
    "operators": TASKS,
    "sensors": TASKS,
    "openlineage": TASKS,
    "emulator": EMULATOR,
}
# Airflow's side of things: these may import Airflow, and pure modules may not import these.
AIRFLOW_SIDE = {"compat", "links", "results", "openlineage", "plugin", "ui", "assets", "triggering_events"}
HEAVY = ("mlflow", "databricks", "pandas", "pyarrow", "numpy", "sklearn", "pyspark")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def layer(path: Path) -> int:
    return LAYERS.get(path.parts[0].removesuffix(".py"), PURE)


def imports(path: Path) -> Iterator[str]:
    """All modules and names that a file imports, wherever in it, in dotted form."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(*names: str) -> set[str]:
    """The files that import one of these packages or names."""
    return {
        str(path)
        for path in FILES
        for imported in imports(path)
        if any(imported == name or imported.startswith(f"{name}.") for name in names)
    }


# -- sizes


def test_there_are_files() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_are_short(path) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= MAX_LINES


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, but for the docstring."""
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = function.body[0] if documented else None
    assert function.end_lineno
    lines = function.end_lineno - function.lineno + 1
    if docstring is not None and docstring.end_lineno:
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_are_short(path) -> None:
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {function.name: body_lines(function) for function in functions if body_lines(function) > MAX_FUNCTION}
    assert not long


@pytest.mark.parametrize("path", FILES, ids=str)
def test_modules_say_what_they_are(path) -> None:
    assert ast.get_docstring(tree(path))


# -- which way imports point


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path) -> None:
    for imported in imports(path):
        if imported.startswith(f"{PACKAGE}."):
            target = Path(imported.removeprefix(f"{PACKAGE}.").replace(".", "/"))
            assert layer(target) <= layer(path), f"{path} imports {imported}"
            if layer(path) in {PURE, REGISTRY} and path.stem not in AIRFLOW_SIDE:
                assert target.parts[0] not in AIRFLOW_SIDE, f"{path} imports {imported}"


@pytest.mark.parametrize("path", [path for path in FILES if layer(path) in {PURE, REGISTRY}], ids=str)
def test_what_is_below_hooks_knows_neither_airflow_nor_sockets(path) -> None:
    if path.stem in AIRFLOW_SIDE:
        pytest.skip("Airflow's side of things")
    outside = {imported.partition(".")[0] for imported in imports(path)}
    assert not outside & {"airflow", "httpx", "asyncio", "tenacity", *HEAVY}


# -- who may import what


def test_one_file_opens_sockets() -> None:
    assert importers("httpx") <= {"hooks/transport.py", "hooks/auth.py"} | emulator_files()
    # mlflow raises the exceptions of requests
    assert (
        importers("requests")
        <= {f"hooks/{name}.py" for name in ("mlflow_session", "model_files", "model_files_databricks")}
        | emulator_files()
    )
    assert not importers("aiohttp", "urllib3", "urllib.request", "http.client", "socket") - emulator_files()
    clients = {"Client", "AsyncClient", "get", "post", "put", "patch", "delete", "request", "stream"}
    for node in ast.walk(tree(Path("hooks/auth.py"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "httpx":
            assert node.attr not in clients


def emulator_files() -> set[str]:
    return {str(path) for path in FILES if layer(path) == EMULATOR}


def test_what_moves_files_imports_mlflow() -> None:
    files = {"artifacts", "mlflow_session", "model_files"}
    files |= {f"model_files_{where}" for where in ("cloud", "databricks", "open_source")}
    # the worker loads a model in a process and an environment of its own
    assert importers("mlflow") == {f"hooks/{name}.py" for name in files} | {
        *(f"environments/{name}.py" for name in ("loading", "worker", "trials")),
        # these run inside Spark, also where this package is not
        *(f"engines/spark_{name}.py" for name in ("plan", "function", "job")),
    }


def test_one_file_imports_databricks_sdk() -> None:
    # the second for a type only
    assert importers("databricks") <= {"hooks/workspace.py", "hooks/model_files_databricks.py"}


def test_one_file_touches_the_databricks_providers_tokens() -> None:
    assert importers("airflow.providers.databricks") <= {
        "hooks/auth.py",
        "hooks/databricks_sql.py",
        "hooks/workspace_jobs.py",
        "hooks/workspace_triggers.py",
    }
    touching = {
        str(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"_get_token", "_a_get_token", "_get_aad_token"}
    }
    assert touching <= {"hooks/auth.py"}


def test_the_loop_is_never_blocked() -> None:
    """Triggers await: nothing there may sleep, or import what blocks."""
    for path in FILES:
        if layer(path) == TRIGGERS:
            assert not {"requests", "time.sleep", "subprocess"} & set(imports(path)), path
            assert not {name for name in imports(path) if name.startswith(f"{PACKAGE}.hooks.artifacts")}, path


def test_nothing_sleeps_but_the_transport() -> None:
    sleeping = {
        str(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    }
    # the second waits until the registry is done with a version
    assert sleeping <= {"hooks/transport.py", "hooks/uploads.py"} | emulator_files()


# -- operators and sensors


def task_classes() -> dict[str, type]:
    from airflow.sdk import BaseOperator

    found = {}
    for path in FILES:
        if layer(path) == TASKS and path.stem != "__init__":
            module = importlib.import_module(f"{PACKAGE}.{'.'.join(path.with_suffix('').parts)}")
            classes = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
            found |= {
                name: value
                for name, value in classes.items()
                if issubclass(value, BaseOperator) and value.__module__ == module.__name__
            }
    return found


def own_parameters(task: type) -> set[str]:
    """What this package adds to BaseOperator, but for what all operators or all sensors share."""
    from airflow_uc_models.operators.base import ModelRegistryOperator
    from airflow_uc_models.sensors import base as sensors_base

    shared: set[str] = set()
    named: set[str] = set()
    for ancestor in task.__mro__:
        if ancestor.__module__.startswith(PACKAGE) and "__init__" in vars(ancestor):
            parameters = inspect.signature(vars(ancestor)["__init__"]).parameters.values()
            names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
            is_base = ancestor is ModelRegistryOperator or ancestor.__module__ == sensors_base.__name__
            (shared if is_base else named).update(names)
    return named - shared


def test_there_are_operators_and_sensors() -> None:
    assert len(task_classes()) > 20


def test_operators_have_few_parameters() -> None:
    wide = {name: own_parameters(task) for name, task in task_classes().items()}
    assert not {name: own for name, own in wide.items() if len(own) > WIDE.get(name, MAX_PARAMETERS)}


# The base of all sensors reads Airflow's configuration for its defaults.
@pytest.mark.parametrize(
    "path", [path for path in FILES if layer(path) == TASKS and path != Path("sensors/base.py")], ids=str
)
def test_constructors_only_store(path) -> None:
    """A Dag file is parsed every few seconds: templates are not rendered then, and nothing may be looked at."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for statement in node.body:
                assert is_super_call(statement) or is_store(statement), f"{path}:{statement.lineno}"


def is_super_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("super().__init__(")


def is_store(statement: ast.stmt) -> bool:
    """`self.x = x`, or a constant to begin with."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return False
    [target] = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return isinstance(target, ast.Attribute) and isinstance(statement.value, ast.Name | ast.Constant)


def test_parameters_are_keyword_only() -> None:
    for name, task in task_classes().items():
        if "__init__" in vars(task):
            kinds = {p.kind for p in list(inspect.signature(vars(task)["__init__"]).parameters.values())[1:]}
            assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}, name


def test_every_parameter_is_templated_or_a_flag() -> None:
    for name, task in task_classes().items():
        for ancestor in task.__mro__:
            if not ancestor.__module__.startswith(PACKAGE) or "__init__" not in vars(ancestor):
                continue
            constructor = vars(ancestor)["__init__"]
            for parameter in inspect.signature(constructor).parameters.values():
                kept = re.search(rf"self\.(\w+) = {parameter.name}$", inspect.getsource(constructor), re.MULTILINE)
                attribute = kept[1] if kept else parameter.name
                if parameter.kind is parameter.KEYWORD_ONLY and attribute not in task.template_fields:
                    annotation = str(parameter.annotation)
                    assert (
                        annotation in {"bool", "bool | None", "float | timedelta | None"} or "Literal" in annotation
                    ), f"{name}.{parameter.name}: {annotation}"


def test_templates_name_attributes() -> None:
    for name, task in task_classes().items():
        assert len(set(task.template_fields)) == len(task.template_fields), name


# -- what importing costs

BASELINE = """
import json, sys
import airflow.sdk
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger
from airflow.providers.standard.operators.branch import BranchMixIn
before = set(sys.modules)
import importlib
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported_by(*modules: str) -> set[str]:
    """What importing these adds to what a Dag file with Airflow's own classes imports."""
    command = [sys.executable, "-c", BASELINE, json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    added = set(json.loads(done.stdout.splitlines()[-1]))
    assert set(modules) <= added
    return added


def test_importing_operators_sensors_and_triggers_is_cheap() -> None:
    modules = [
        f"{PACKAGE}.{'.'.join(path.with_suffix('').parts)}".removesuffix(".__init__")
        for path in FILES
        if layer(path) in {TASKS, TRIGGERS}
    ]
    assert len(modules) > 10
    added = imported_by(*modules)
    assert not [name for name in added if name.partition(".")[0] in HEAVY]
    assert not [name for name in added if name.startswith("airflow.providers.databricks")]


def test_what_a_dag_file_imports_leaves_the_work_to_the_task() -> None:
    """The registry's protocol, transport and transfer are imported by methods: a Dag file is parsed again and again."""
    modules = {
        f"{PACKAGE}.{package}.{module}"
        for package in ("operators", "sensors", "triggers")
        for module in importlib.import_module(f"{PACKAGE}.{package}")._MODULES.values()
    }
    added = imported_by(*modules, f"{PACKAGE}.policies", f"{PACKAGE}.assets")
    ours = {name.removeprefix(f"{PACKAGE}.") for name in added if name.startswith(f"{PACKAGE}.")}
    work = ("registry", "conditions", "engines", "environments")
    assert not [name for name in ours if name.partition(".")[0] in work]
    assert {name for name in ours if name.startswith("hooks.")} == {"hooks.model_registry"}
    # Each costs about a millisecond, and the whole of them must not cost more than 5 % of importing Airflow.
    assert len(added) <= 64, sorted(added)
