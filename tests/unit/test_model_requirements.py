"""What models ask for, against what is installed; and which environment follows from it."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from airflow_uc_models.environments import build, environment, environment_of
from airflow_uc_models.environments.build import Builder, scrubbed
from airflow_uc_models.environments.requirements import hide_passwords, read_requirements
from airflow_uc_models.exceptions import InvalidArgumentError, ModelContentError, ModelEnvironmentError

HERE = sys.version.split()[0]
OTHER_PYTHON = "3.10.4" if sys.version_info[:2] != (3, 10) else "3.12.1"
MLFLOW = metadata.version("mlflow")
PYARROW = metadata.version("pyarrow")


@pytest.fixture
def model(tmp_path):
    """Write a model's files; returns its folder."""

    def write(requirements="", python=HERE, conda=None, **files):
        if requirements is not None:
            (tmp_path / "requirements.txt").write_text(requirements)
        if python:
            (tmp_path / "python_env.yaml").write_text(f"python: {python}\ndependencies:\n- -r requirements.txt\n")
        if conda:
            (tmp_path / "conda.yaml").write_text(conda)
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text)
        return tmp_path

    return write


def differences(folder):
    return read_requirements(folder, "m").differences()


def near(version, part, by):
    """Another version: major, minor or bug fix changed."""
    numbers = [int(n) for n in version.split(".")[:3]]
    numbers[part] += by
    return ".".join(map(str, numbers))


@pytest.mark.parametrize(
    "line",
    [
        f"pyarrow=={PYARROW}",
        f"PyArrow[extra]=={near(PYARROW, 2, 5)}",
        "packaging[no-such-extra]",
        "pyarrow",
        "pyarrow>=1,<1000",
        f"pyarrow=={PYARROW.split('.')[0]}.*",
        f"pyarrow~={'.'.join(PYARROW.split('.')[:2])}",
        f"mlflow=={MLFLOW}",
        f"mlflow=={MLFLOW.split('.')[0]}.0.0",
        "nosuchpackage==1.0; sys_platform == 'plan9'",
        "# a note\npyarrow  # another\n\npandas",
        f"pyarrow=={PYARROW} --hash=sha256:0123",
        "pyarrow \\\n  >=1",
    ],
)
def test_what_this_worker_has(model, line):
    assert differences(model(line)) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"pyarrow=={near(PYARROW, 1, 1)}", f"the model asks for pyarrow=={near(PYARROW, 1, 1)}, and this worker has"),
        (f"pyarrow=={near(PYARROW, 0, -1)}", f"and this worker has {PYARROW}"),
        ("pyarrow<2", f"and this worker has {PYARROW}"),
        ("pyarrow==1.*", f"and this worker has {PYARROW}"),
        (f"mlflow=={near(MLFLOW, 1, 1)}", f"and this worker has {MLFLOW}"),
        (f"mlflow=={near(MLFLOW, 0, -1)}", f"and this worker has {MLFLOW}"),
        ("nosuchpackage", "the model asks for nosuchpackage, and this worker does not have it"),
        ("pandas[gcp]", "pandas[gcp]: the model asks for gcsfs"),
        ("git+https://me:secret@host/x.git", "git+https://***@host/x.git, which cannot be compared"),
        ("pyarrow @ https://host/pyarrow.whl", "which cannot be compared"),
    ],
)
def test_what_this_worker_lacks(model, line, told):
    [found] = differences(model(line))
    assert told in found
    assert "secret" not in found


def test_another_python_is_a_difference(model):
    [found] = differences(model("pyarrow", python=OTHER_PYTHON))
    assert found == f"the model asks for Python {OTHER_PYTHON[:4]}, and this worker has {'.'.join(HERE.split('.')[:2])}"
    assert differences(model("pyarrow", python=near(HERE, 2, 3))) == []


def test_files_that_requirements_name(model):
    folder = model("-r more.txt\n-c limits.txt\n./x-1-py3-none-any.whl", more__txt="Pandas", limits__txt="numpy<99")
    (folder / "x-1-py3-none-any.whl").write_bytes(b"1")
    found = read_requirements(folder, "m")
    assert found.lines == (f"{folder}/x-1-py3-none-any.whl", "pandas")
    assert found.constraints == ("numpy<99",)
    first = Builder("uv", found, "m").key
    (folder / "x-1-py3-none-any.whl").write_bytes(b"2")
    assert Builder("uv", read_requirements(folder, "m"), "m").key != first


def commands(folder, place, manager="uv"):
    """What is run for a model, with the lines of each file of requirements in place of its name."""
    builder = Builder(manager, read_requirements(folder, "m"), "m")
    return [
        [Path(arg).read_text().splitlines() if arg.endswith(".txt") else arg for arg in command]
        for command in builder._commands(place)
    ]


@pytest.mark.parametrize("manager", ["uv", "virtualenv"])
def test_options_of_requirements_are_followed(model, manager, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = model(
        "--extra-index-url https://me:secret@host/simple\n-i https://host\npandas\n--find-links=./wheels\n"
        "--only-binary=:all:\n--pre\n--trusted-host=x\n--require-hashes",
        python=HERE,
    )
    (folder / "wheels").mkdir()
    found = commands(folder, tmp_path / "place", manager)[-1]
    lines = next(arg for arg in found if isinstance(arg, list))
    assert lines[:4] == [
        "--extra-index-url https://me:secret@host/simple",
        "-i https://host",
        f"--find-links {folder}/wheels",
        "--only-binary :all:",
    ]
    # What uv does not know in a file, it is told otherwise.
    assert ("--pre" in lines, "--trusted-host x" in lines) == ((manager == "virtualenv",) * 2)
    assert (found[-4:-2] == ["--prerelease", "allow"], "unsafe-best-match" in found) == ((manager == "uv",) * 2)
    assert "m has its packages installed with --extra-index-url https://***@host/simple" in caplog.text
    assert "secret" not in caplog.text
    assert (
        Builder(manager, read_requirements(model("pandas"), "m"), "m").key
        != Builder(manager, read_requirements(model("-i https://host\npandas"), "m"), "m").key
    )


def test_hashes_are_checked_and_what_we_add_has_none(model, tmp_path):
    folder = model("pandas==2.2 \\\n  --hash=sha256:b \\\n  --hash sha256:a\n")
    files = [next(arg for arg in c if isinstance(arg, list)) for c in commands(folder, tmp_path / "place")[1:]]
    assert files == [["pandas==2.2 --hash=sha256:a --hash=sha256:b"], [f"mlflow=={MLFLOW}", "pyarrow"]]


def test_packages_among_the_models_files(model):
    folder = model(
        "-e code/tool\ncode/lib-1-py3-none-any.whl[x]\nother @ file:./code/lib-1-py3-none-any.whl\n-r deep/more.txt\n"
        "-e git+https://host/x.git@v1#egg=x\npywin32; sys_platform == 'win32'"
    )
    (folder / "code" / "tool").mkdir(parents=True)
    (folder / "code" / "tool" / "pyproject.toml").write_text("[project]")
    (folder / "code" / "lib-1-py3-none-any.whl").write_bytes(b"1")
    (folder / "deep").mkdir()
    (folder / "deep" / "more.txt").write_text("-rbeside.txt\n-c limits.txt\n")
    (folder / "deep" / "beside.txt").write_text("pandas")
    (folder / "deep" / "limits.txt").write_text("numpy<99")
    found = read_requirements(folder, "m")
    # packaging before 26 writes no space before the @
    assert {line.replace("other@ ", "other @ ") for line in found.lines} == {
        f"{folder}/code/tool",
        f"{folder}/code/lib-1-py3-none-any.whl[x]",
        f"other @ file://{folder}/code/lib-1-py3-none-any.whl",
        "git+https://host/x.git@v1#egg=x",
        "pandas",
        'pywin32; sys_platform == "win32"',
    }
    assert found.constraints == ("numpy<99",)
    key = Builder("uv", found, "m").key
    (folder / "code" / "tool" / "pyproject.toml").write_text("[project]\nname = 'tool'")
    assert Builder("uv", read_requirements(folder, "m"), "m").key != key


OLD = "mlflow==2.14.3\npandas"


@pytest.mark.parametrize(
    ("requirements", "build", "first"),
    [
        ("pandas", ["pip==24.0", "setuptools==69.5.1", "wheel==0.43.0"], None),
        (OLD, ["pip==24.0", "setuptools==69.5.1"], ["pip==24.0", "setuptools==69.5.1"]),
        # Without a version it would be one without pkg_resources, which mlflow before 2.16 imports.
        (OLD, ["pip==24.0", "setuptools", "wheel"], ["pip==24.0", "wheel", "setuptools<81"]),
        (OLD, [], ["setuptools<81"]),
        ("mlflow-skinny<2.10,>=2.4", [], ["setuptools<81"]),
        ("mlflow==2.4", [], ["setuptools<81"]),
        ("mlflow==2.16.0", [], []),
        ("mlflow", [], []),
        (OLD + "\nsetuptools==75", [], []),
    ],
)
@pytest.mark.parametrize("manager", ["uv", "virtualenv"])
def test_what_the_model_was_built_with_is_installed_first(model, tmp_path, requirements, build, first, manager):
    folder = model(requirements)
    lines = "".join(f"\n- {line}" for line in build)
    (folder / "python_env.yaml").write_text(
        f"python: {HERE}\nbuild_dependencies:{lines or ' []'}\ndependencies:\n- -r requirements.txt\n"
    )
    files = [next(arg for arg in c if isinstance(arg, list)) for c in commands(folder, tmp_path / "place", manager)[1:]]
    assert files[:-1] == ([build if first is None else first] if first != [] else [])


def test_mlmodel_says_how_the_files_are_called(model):
    folder = model("pandas", python="3.99.1", mine__yaml=f"python: {HERE}\ndependencies:\n- numpy<99\n- scipy\n")
    (folder / "MLmodel").write_text("flavors: {python_function: {env: {conda: c.yaml, virtualenv: mine.yaml}}}")
    found = read_requirements(folder, "m")
    assert (found.python, found.lines) == (HERE, ("numpy<99", "scipy"))
    (folder / "MLmodel").write_text("flavors: {python_function: {env: conda2.yaml}}")  # before mlflow 2
    (folder / "python_env.yaml").unlink()
    (folder / "requirements.txt").unlink()
    (folder / "conda2.yaml").write_text(CONDA)
    found = read_requirements(folder, "m")
    assert (found.python, found.lines, found.build) == ("3.11.2", ("pandas==2.2", "scikit-learn"), ("pip<=24",))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-e .", "is no file of the model"),
        ("--target=/x", "is an option that a model cannot have"),
        ("pandas --config-settings=a=b", "has an option that a model cannot have"),
        ("numpy @ file:///croot/numpy_1", "is no file of the model"),
        ("-f ../wheels", "is no file of the model"),
        ("-r missing.txt", "is no file of the model"),
        ("-r ../outside.txt", "is no file of the model"),
        ("-r https://host/x.txt", "is no file of the model"),
        ("missing-1-py3-none-any.whl", "is no file of the model"),
        ("=1.0", "is no requirement that pip would take"),
    ],
)
def test_requirements_that_cannot_be_built(model, line, told):
    folder = model(line)
    (folder.parent / "outside.txt").write_text("pandas")
    with pytest.raises(ModelContentError, match="Log the model with other pip_requirements") as error:
        read_requirements(folder, "m")
    assert told in str(error.value)


CONDA = "dependencies:\n- python=3.11.2\n- pip<=24\n- pip:\n  - pandas==2.2\n  - scikit-learn\n"


def test_old_models_have_conda_yaml_only(model):
    found = read_requirements(model(None, python=None, conda=CONDA), "m")
    assert (found.python, found.lines) == ("3.11.2", ("pandas==2.2", "scikit-learn"))


@pytest.mark.parametrize(
    ("entry", "python"),
    [
        ("python=3.10", "3.10"),
        ("python =3.10.4", "3.10.4"),
        ("python=3.10.*", "3.10"),
        ("python==3.10.4=h12debd9_0_cpython", "3.10.4"),
        ("conda-forge::python=3.10", "3.10"),
        ("python>=3.9", None),
        ("python >=3.9,<4", None),
        ("python>=2.7,<3.8", "2.7"),
        ("python", None),
        ("python<4", None),
    ],
)
def test_the_python_of_conda_yaml(model, entry, python):
    """None: what this worker has will do."""
    conda = f"dependencies: ['{entry}', pip, {{pip: [pandas]}}]"
    assert read_requirements(model(None, python=None, conda=conda), "m").python == python


def test_a_python_that_yaml_takes_for_a_number(model):
    folder = model("pandas")
    (folder / "python_env.yaml").write_text("python: 3.10\ndependencies: [-r requirements.txt]\n")
    assert read_requirements(folder, "m").python == "3.10"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_as_other_systems_write_them(model, encoding, end):
    folder = model("pandas")
    lines = ["pandas[excel]>=2 ; python_version >= '3'  # note", "numpy \\", "  >=1", "-c limits.txt", ""]
    (folder / "requirements.txt").write_bytes(end.join(lines).encode(encoding))
    (folder / "limits.txt").write_bytes(f"scipy<2{end}".encode(encoding))
    found = read_requirements(folder, "m")
    assert found.lines == ("numpy>=1", 'pandas[excel]>=2; python_version >= "3"')
    assert found.constraints == ("scipy<2",)


def test_files_that_name_each_other_are_read_once(model):
    folder = model("-r more.txt\npandas")
    (folder / "more.txt").write_text("numpy\n-r requirements.txt\n")
    assert read_requirements(folder, "m").lines == ("numpy", "pandas")


def test_requirements_that_are_no_text_are_told(model):
    folder = model("pandas")
    (folder / "requirements.txt").write_bytes(b"pand\xe4s\n")
    with pytest.raises(ModelContentError, match=r"requirements\.txt of m is not readable"):
        read_requirements(folder, "m")


def test_packages_from_conda_are_refused(model):
    folder = model("pandas", conda=CONDA.replace("- pip<=24", "- conda-forge::cudatoolkit=11\n- pip"))
    with pytest.raises(ModelContentError, match=r"packages from conda \(conda-forge::cudatoolkit=11\)"):
        environment_of(folder)
    assert environment_of(folder, "local").manager == "local"


def test_unreadable_files_are_told(model):
    with pytest.raises(ModelContentError, match=r"conda\.yaml of m is not readable YAML"):
        read_requirements(model("pandas", conda="a: ["), "m")


# -- the choice


def test_local_if_all_is_here(model):
    found = environment_of(model("pyarrow\npandas"))
    assert (found.manager, found.is_local) == ("local", True)
    assert found.reason == "this worker has what the model asks for"
    assert environment_of(model("", python=None)).reason == "the model names no requirements"


def test_uv_if_it_is_here_else_virtualenv(model, monkeypatch):
    folder = model("a\nb\nc\nd\ne")
    found = environment_of(folder)
    assert found.manager == "uv"
    assert found.reason.startswith("the model asks for a, and this worker does not have it; the model asks for b")
    assert found.reason.endswith("; and 2 more")
    monkeypatch.setattr(environment, "find_uv", lambda: None)
    assert environment_of(folder).manager == "virtualenv"


def test_what_is_asked_for_is_taken(model, monkeypatch):
    folder = model("nosuchpackage")
    for manager in ("local", "uv", "virtualenv"):
        found = environment_of(folder, manager)
        assert (found.manager, found.is_local) == (manager, manager == "local")
    monkeypatch.setattr(build, "find_uv", lambda: None)
    with pytest.raises(InvalidArgumentError, match="uv is not on this worker"):
        environment_of(folder, "uv")
    with pytest.raises(InvalidArgumentError, match="env_manager must be local, uv or virtualenv"):
        environment_of(folder, "conda")
    with pytest.raises(ModelContentError, match=r"has no requirements\.txt"):
        environment_of(model(""), "virtualenv", "m")


# -- what is built


def test_models_that_ask_for_the_same_share_an_environment(model):
    def key(requirements, python=HERE, manager="uv"):
        return Builder(manager, read_requirements(model(requirements, python), "m"), "m").key

    first = key("pandas==2.2\nscikit-learn[a]>=1")
    assert key("Scikit_Learn[a]>=1 # note\npandas == 2.2") == first
    assert key("pandas==2.2\nscikit-learn[a]>=1", python=near(HERE, 2, 3)) == first
    others = {
        key("pandas==2.3\nscikit-learn[a]>=1"),
        key("pandas==2.2\nscikit-learn[a]>=1", python=OTHER_PYTHON),
        key("pandas==2.2\nscikit-learn[a]>=1", manager="virtualenv"),
    }
    assert len(others | {first}) == 4


def test_what_the_process_needs_is_added(model):
    def lines(requirements):
        return Builder("uv", read_requirements(model(requirements), "m"), "m").lines

    assert lines("pandas") == ["pandas", f"mlflow=={MLFLOW}", "pyarrow"]
    assert lines("mlflow-skinny==3.4\npyarrow<99") == ["mlflow-skinny==3.4", "pyarrow<99"]


def test_a_python_that_is_not_here(model, monkeypatch, tmp_path):
    builder = Builder("virtualenv", read_requirements(model("pandas", python="3.99.1"), "m"), "m")
    with pytest.raises(ModelEnvironmentError, match=r"asks for Python 3\.99, which this worker does not have"):
        builder.build(tmp_path / "environment", 0)
    # One that is there but does not run, as pyenv's stand-ins may be.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.99").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "bin" / "python3.99").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(ModelEnvironmentError, match=r"no python3\.99 on its PATH runs"):
        builder.build(tmp_path / "other", 0)


@pytest.mark.parametrize("manager", [None, "uv", "virtualenv"])
def test_a_python_with_which_no_process_could_be_spoken(model, manager):
    with pytest.raises(ModelContentError, match=r"asks for Python 3\.9, and 3\.10 is the oldest"):
        environment_of(model("pandas", python="3.9.18"), manager, "m")
    assert environment_of(model("pandas", python="3.9.18"), "local", "m").is_local
    assert environment_of(model("pandas", python="3"), "virtualenv", "m").manager == "virtualenv"


def test_passwords_are_hidden():
    told = hide_passwords("see https://me:secret@host/simple and git+ssh://git@host/x, not a@b")
    assert told == "see https://***@host/simple and git+ssh://***@host/x, not a@b"
    assert hide_passwords("https://me:p@ss@host/a@b") == "https://***@host/a@b"


def test_credentials_of_the_task_stay_in_the_task():
    given = {"PATH": "/bin", "HOME": "/root", "AIRFLOW_CONN_X": "s", "_AIRFLOW__X": "s", "MLFLOW_TRACKING_TOKEN": "s"}
    given |= {"DATABRICKS_TOKEN": "s", "PYTHONPATH": "/x", "VIRTUAL_ENV": "/y", "UV_INDEX_URL": "u"}
    assert scrubbed(given) == {"PATH": "/bin", "HOME": "/root", "UV_INDEX_URL": "u"}
