"""What pyproject.toml declares is what the code imports, and what is built has the package and nothing else."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections import defaultdict
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.guides import README, blocks

import airflow_uc_models

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "airflow_uc_models"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALL = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
CONSTRAINTS = sorted(ROOT.glob("constraints*.txt"))
# What airflow_uc_models imports, and of which extra it is; everything else is needed always.
EXTRAS = {"spark": ("py4j", "pyspark"), "emulator": ("fastapi", "pytest", "starlette", "uvicorn")}
# Airflow 3.1 puts stand-ins for these where they are not installed, before it asks a hook for its form.
STAND_INS = {"flask_appbuilder", "wtforms"}
# For this repository: its tests and tools, its demo, and the databases of docker-compose.yaml.
NOT_FOR_THE_PACKAGE = {"dev", "demo", "postgres"}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> dict[str, set[str]]:
    """The files that import a distribution, wherever in the file, by the distribution."""
    providers = packages_distributions()
    found = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top = module.partition(".")[0]
                if top not in {*sys.stdlib_module_names, *STAND_INS, PACKAGE.name}:
                    found[distribution(module, providers)].add(str(path.relative_to(PACKAGE)))
    return found


def distribution(module: str, providers: dict[str, list[str]]) -> str:
    parts = module.split(".")
    if parts[0] == "airflow":
        if parts[1:2] != ["providers"]:
            return "apache-airflow"
        folder = Path(__import__("airflow.providers", fromlist=["providers"]).__path__[0], parts[2])
        family = parts[2:3] if (folder / "__init__.py").exists() and parts[2] != "common" else parts[2:4]
        return canonicalize_name("apache-airflow-providers-" + "-".join(family))
    # Some are brought by several, as parts of mlflow are by mlflow-skinny; the plain name is the one to declare.
    brought_by = {canonicalize_name(name) for name in providers.get(parts[0], [parts[0]])}
    declared = names(ALL)
    return min(brought_by & declared or brought_by)


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    extras = {extra: names(PROJECT["optional-dependencies"][extra]) for extra in EXTRAS}
    assert extras == {extra: set(wanted) for extra, wanted in EXTRAS.items()}
    found = imported()
    assert set(found) - set.union(*extras.values()) == names(PROJECT["dependencies"])
    for declared in set.union(*extras.values()):
        assert declared in found, f"nothing imports {declared}"


def test_extras_are_imported_where_they_belong() -> None:
    found = imported()
    for name in EXTRAS["emulator"]:
        assert all(path.startswith("emulator/") for path in found[name]), name
    for name in EXTRAS["spark"]:
        assert all(path.startswith("engines/spark") for path in found[name]), name


def test_every_extra_is_for_somebody() -> None:
    assert set(PROJECT["optional-dependencies"]) == {*EXTRAS, *NOT_FOR_THE_PACKAGE}


# -- versions


def pinned(file: Path) -> dict[str, Version]:
    pins = (Requirement(line) for line in file.read_text().splitlines())
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


@pytest.mark.parametrize("file", CONSTRAINTS, ids=lambda file: file.stem)
def test_the_tested_versions_satisfy_what_is_declared(file) -> None:
    pins = pinned(file)
    for requirement in map(Requirement, ALL):
        name = canonicalize_name(requirement.name)
        if name != PROJECT["name"]:
            assert requirement.specifier.contains(pins[name]), requirement


def test_floors_are_what_the_oldest_tested_versions_are() -> None:
    """A floor names a release; the environment of the floors has that release, or a patch of it."""
    pins = pinned(min(CONSTRAINTS, key=lambda file: pinned(file)["apache-airflow"]))
    for requirement in map(Requirement, PROJECT["dependencies"]):
        [floor] = [Version(part.version) for part in requirement.specifier]
        tested = pins[canonicalize_name(requirement.name)]
        assert tested.release[: len(floor.release[:2])] == floor.release[:2], requirement


def test_each_supported_minor_of_airflow_is_tested() -> None:
    tested = sorted(pinned(file)["apache-airflow"].release[:2] for file in CONSTRAINTS)
    assert tested == [(3, 1), (3, 2), (3, 3)]


# -- what is built


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """An sdist, and a wheel of the same files; without a network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_sdist_has_the_package_and_no_clutter(built) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    beside = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", ".gitignore"}
    assert {name for name in inside if not name.startswith("airflow_uc_models/")} == beside
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {str(path.relative_to(ROOT)) for path in files} == inside - beside


def test_the_wheel_imports_by_itself(built, tmp_path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path)
    assert tops == {"airflow_uc_models", f"airflow_uc_models-{airflow_uc_models.__version__}.dist-info"}
    code = (
        "import importlib.metadata as m, airflow_uc_models.operators as o; o.CopyModelVersionOperator;"
        "print(o.__file__); print(sorted(e.group for e in m.distribution('airflow-uc-models').entry_points))"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    place, groups = done.stdout.splitlines()[-2:]
    assert place.startswith(str(tmp_path))
    assert groups == "['airflow.plugins', 'apache_airflow_provider', 'pytest11']"


# -- what the README tells people to type


@pytest.mark.parametrize("typed", ["pip install .", "pip wheel"])
def test_the_lines_of_the_readme_install_it(typed, tmp_path) -> None:
    """In an environment that has Airflow and all else, so that nothing but the package is installed."""
    [block] = [block for block in blocks(README.read_text(), "console") if block.startswith(typed)]
    checkout, environment = tmp_path / "checkout", tmp_path / "environment"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if name.startswith("airflow_uc_models/") or "/" not in name:
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    venv.create(environment, with_pip=True)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "airflow.pth").write_text(sysconfig.get_path("purelib"))

    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    env = os.environ | quiet | {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", block], cwd=checkout, env=env, check=True)

    where = "import airflow_uc_models; print(airflow_uc_models.__file__)"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(packages)
