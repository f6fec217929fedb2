"""Models that cannot be loaded: the version, the cause, and whether a retry can help."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from airflow_uc_models.environments.loading import load_pyfunc, require_pyfunc
from airflow_uc_models.exceptions import ModelContentError, ModelEnvironmentError
from airflow_uc_models.hooks.artifacts import read_mlmodel

SAVED = Path(__file__).parents[1] / "data/mlflow_models/3.4.0"
LABEL = "models:/dev.lab.broken/3"


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(SAVED, tmp_path / "model"))


def change(model, **entries):
    content = yaml.safe_load((model / "MLmodel").read_text())
    content["flavors"]["python_function"] |= entries
    (model / "MLmodel").write_text(yaml.safe_dump(content))


def loader(model, source):
    name = f"loader_of_{model.parent.name}"
    (model / "code" / f"{name}.py").write_text(source)
    change(model, loader_module=name)


BROKEN = {
    "loader_gone": lambda model: change(model, loader_module="mlflow.no_such_flavor"),
    "package_gone": lambda model: loader(model, "import no_such_package"),
    "name_gone": lambda model: loader(model, "from yaml import no_such_name"),
    "corrupt_pickle": lambda model: (model / "model.pkl").write_bytes(b"\x80\x04garbage"),
    "empty_pickle": lambda model: (model / "model.pkl").write_bytes(b""),
    "no_pickle": lambda model: (model / "model.pkl").unlink(),
    "exit": lambda model: loader(model, "def _load_pyfunc(path): raise SystemExit(3)"),
    "newer_pickle": lambda model: (model / "model.pkl").write_bytes(b"\x80\x63."),
    "class_gone": lambda model: (model / "model.pkl").write_bytes(b"chelpers\nNoSuchClass\n."),
    "module_gone": lambda model: (model / "model.pkl").write_bytes(b"cno_such_module\nModel\n."),
    "code_gone": lambda model: (loader(model, "import helpers"), shutil.rmtree(model / "code")),
    "no_folder_of_a_library": lambda model: loader(model, "def _load_pyfunc(path): open('/no/such/file')"),
    "broken_code": lambda model: loader(model, "def _load_pyfunc(path) return"),
    "its_own_error": lambda model: loader(model, "def _load_pyfunc(path): raise KeyError('layer')"),
}
PASSING = [
    "MemoryError()",
    "ConnectionResetError('hub')",
    "TimeoutError()",
    "OSError(28, 'full')",
    "RuntimeError('cannot get the weights') from ConnectionResetError('hub')",
    "__import__('httpx').ReadTimeout('hub')",
    "__import__('urllib3').exceptions.IncompleteRead(3, 5)",
    "__import__('requests').exceptions.ConnectionError('hub')",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", BROKEN)
def test_what_cannot_be_loaded_fails_for_good_with_the_version_and_the_cause(model, how):
    BROKEN[how](model)
    with pytest.raises(ModelContentError) as raised:
        load_pyfunc(model, LABEL)
    assert str(raised.value).startswith(f"{LABEL} cannot be loaded: {type(raised.value.__cause__).__name__}")
    assert raised.value.permanent


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("error", PASSING)
def test_what_may_pass_is_retried(model, error):
    loader(model, f"def _load_pyfunc(path): raise {error}")
    with pytest.raises(ModelEnvironmentError, match=LABEL) as raised:
        load_pyfunc(model, LABEL)
    assert not raised.value.permanent


def test_a_model_without_pyfunc_is_told_with_the_flavors_it_has(model):
    content = yaml.safe_load((model / "MLmodel").read_text())
    del content["flavors"]["python_function"]
    (model / "MLmodel").write_text(yaml.safe_dump(content))
    with pytest.raises(ModelContentError, match=f"{LABEL} has no flavor python_function.*it has: sklearn"):
        require_pyfunc(read_mlmodel(model, LABEL), LABEL)


@pytest.mark.parametrize("text", ["flavors: [", "[]", "", "flavors: [a]", "\xff"])
def test_a_corrupt_mlmodel_is_told_with_the_version(model, text):
    (model / "MLmodel").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelContentError, match=f"MLmodel of {LABEL}"):
        read_mlmodel(model, LABEL)
