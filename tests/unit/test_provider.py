"""What Airflow sees of this package: its CLI, its connection form, and the button that tests a connection."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.mlflow_server import free_port

import airflow_uc_models
from airflow_uc_models.provider_info import (
    MLFLOW_CONN_FIELDS,
    PACKAGE_NAME,
    UNITY_CATALOG_CONN_FIELDS,
    get_provider_info,
)

INFO = get_provider_info()


def modules_of(kind: str) -> list[str]:
    return [module for entry in INFO[kind] for module in entry["python-modules"]]


# -- the dict


def test_the_dict_is_as_airflow_wants_it() -> None:
    import airflow
    from jsonschema import validate

    schema = json.loads((Path(airflow.__path__[0]) / "provider_info.schema.json").read_text())
    validate(INFO, schema)


def test_the_package_name_is_the_distributions() -> None:
    """Airflow refuses to start where they differ."""
    distribution = metadata.distribution(PACKAGE_NAME)
    assert distribution.version == airflow_uc_models.__version__
    [entry] = [e for e in distribution.entry_points if e.group == "apache_airflow_provider"]
    assert entry.load()() == INFO
    assert INFO["package-name"] == PACKAGE_NAME


@pytest.mark.parametrize("kind", ["hooks", "operators", "sensors", "triggers"])
def test_every_module_is_there_and_told(kind) -> None:
    package = importlib.import_module(f"airflow_uc_models.{kind}")
    for module in modules_of(kind):
        importlib.import_module(module)
    public = {f"{package.__name__}.{module}" for module in getattr(package, "_MODULES", {}).values()}
    if kind != "hooks":
        assert set(modules_of(kind)) == public


def test_integrations_are_declared_once_and_used() -> None:
    declared = {integration["integration-name"] for integration in INFO["integrations"]}
    assert len(declared) == len(INFO["integrations"])
    for kind in ("hooks", "operators", "sensors", "triggers"):
        assert {entry["integration-name"] for entry in INFO[kind]} <= declared


def test_classes_named_by_path_are_there() -> None:
    from airflow.sdk import BaseHook, BaseOperatorLink

    for entry in INFO["connection-types"]:
        hook = pkgutil.resolve_name(entry["hook-class-name"])
        assert issubclass(hook, BaseHook)
        assert (hook.conn_type, hook.hook_name) == (entry["connection-type"], entry["hook-name"])
        assert hook.default_conn_name == f"{hook.conn_type}_default"
    for path in INFO["extra-links"]:
        assert issubclass(pkgutil.resolve_name(path), BaseOperatorLink)


def test_the_dict_costs_nothing_to_read() -> None:
    code = (
        "import sys; import airflow_uc_models.provider_info as p; p.get_provider_info(); "
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in {'airflow', 'httpx', 'mlflow', 'databricks'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- the CLI

ASKED = ("list", "hooks", "links", "triggers", "widgets", "behaviours")
CLI = """
import json, sys
from airflow.cli.cli_parser import get_parser
parser = get_parser()
for what in sys.argv[1:]:
    print("==", what)
    arguments = parser.parse_args(["providers", what, "--output", "json"])
    arguments.func(arguments)
"""


@pytest.fixture(scope="module")
def cli() -> dict[str, list[dict[str, Any]]]:
    """What `airflow providers ...` prints, by subcommand; one process, because each takes seconds to start."""
    done = subprocess.run([sys.executable, "-c", CLI, *ASKED], capture_output=True, text=True, check=True)
    told = {}
    for part in done.stdout.split("== ")[1:]:
        what, _, printed = part.partition("\n")
        told[what] = json.loads(printed[printed.index("[") :])
    return told


def test_the_cli_shows_the_package(cli) -> None:
    [ours] = [row for row in cli["list"] if row["package_name"] == PACKAGE_NAME]
    assert ours["version"] == airflow_uc_models.__version__
    [hook] = [row for row in cli["hooks"] if row["connection_type"] == "mlflow"]
    assert hook["class"] == "airflow_uc_models.hooks.model_registry.MlflowHook"
    assert (hook["conn_id_attribute_name"], hook["package_name"]) == ("registry_conn_id", PACKAGE_NAME)
    assert "airflow_uc_models.links.ModelVersionLink" in {row["extra_link_class_name"] for row in cli["links"]}
    triggers = {row["class"] for row in cli["triggers"] if row["package_name"] == PACKAGE_NAME}
    assert triggers == set(modules_of("triggers"))


def test_the_cli_shows_the_form(cli) -> None:
    fields = {row["connection_parameter_name"] for row in cli["widgets"] if row["package_name"] == PACKAGE_NAME}
    if version("apache-airflow") < "3.2":
        pytest.skip("before 3.2 the command reads forms from hook classes, which need flask_appbuilder for it")
    assert fields == {
        *(f"extra__mlflow__{name}" for name in MLFLOW_CONN_FIELDS),
        *(f"extra__unity_catalog__{name}" for name in UNITY_CATALOG_CONN_FIELDS),
    }
    assert len([row for row in cli["behaviours"] if "mlflow" in json.dumps(row).lower()]) == 1


# -- the form


def test_the_form_asks_for_address_credentials_and_tls() -> None:
    """As the API server hands it to the UI."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    [form] = [hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "mlflow"]
    standard = form.standard_fields.model_dump()
    assert standard["host"]["title"] == "Server address"
    assert standard["url_schema"]["hidden"]
    # not spoken of, which means shown as they are
    assert standard["password"] is None
    assert standard["port"] is None
    assert not standard["login"]["hidden"]
    extra = form.extra_fields
    assert set(extra) == {"token", "verify", "web_url"}
    assert extra["token"]["schema"]["format"] == "password"
    assert extra["verify"]["value"] == "true"
    assert all(field["description"] for field in extra.values())


def test_the_hook_describes_the_same_form_to_airflow_3_1() -> None:
    from airflow_uc_models.hooks.model_registry import MlflowHook

    behaviour = MlflowHook.get_ui_field_behaviour()
    assert set(behaviour) == {"hidden_fields", "relabeling", "placeholders"}
    assert behaviour["relabeling"]["host"] == "Server address"


# -- the button


@pytest.fixture
def press(monkeypatch) -> Any:
    """Test a connection as the API server does: put its URI into the environment and ask its hook."""
    from airflow.models.connection import Connection

    def test(**fields: Any) -> tuple[bool, str]:
        fields["extra"] = json.dumps({"max_retry_seconds": 1} | fields.get("extra", {}))
        connection = Connection(**{"conn_id": "pressed", "conn_type": "mlflow"} | fields)
        monkeypatch.setenv("AIRFLOW_CONN_PRESSED", connection.get_uri())
        return connection.test_connection()

    return test


def test_a_good_connection_is_told_as_good(press, mlflow_server, model_name) -> None:
    for fields in ({"host": mlflow_server.url}, {"host": "127.0.0.1", "port": mlflow_server.port}):
        works, said = press(**fields)
        assert works, said
        assert said.startswith(f"MLflow server at {mlflow_server.url} answers; ")
    mlflow_server.client().create_registered_model(model_name)
    assert press(host=mlflow_server.url)[1].endswith("it has registered models.")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"host": ""}, "has no host; give the server's address"),
        ({"host": "sqlite:///mlflow.db"}, "A database or file store is not a server"),
        ({"host": "http://127.0.0.1", "password": "s3cret"}, "has a password but no login"),
        ({"host": "http://127.0.0.1", "login": "me", "extra": {"token": "s3cret"}}, "both a login and a token"),
        ({"host": "https://127.0.0.1", "extra": {"verify": "/no/such.pem"}}, "nor a readable CA bundle"),
    ],
)
def test_a_bad_connection_is_told_what_is_wrong(press, fields, told) -> None:
    works, said = press(**fields)
    assert not works
    assert told in said
    assert "'pressed'" in said
    assert "s3cret" not in said


def test_a_dead_server_is_told_as_such(press) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    works, said = press(host=host)
    assert not works
    assert f"MLflow server at {host} gave no answer" in said
    assert "connection 'pressed' right?" in said


def test_a_refused_password_is_told_as_such(press, proxy) -> None:
    """The server that refuses it for real is in contract/test_registry_verbs.py."""
    proxy.fail("/search", status=401, body="You are not authenticated.")
    works, said = press(host=proxy.url, login="me", password="s3cret")
    assert not works
    assert said.endswith("Check the login, password or token of the connection.")
    assert proxy.take()[0].headers["authorization"].startswith("Basic ")


def test_another_kind_of_server_is_told_as_such(press, mlflow_server) -> None:
    works, said = press(host=f"{mlflow_server.url}/elsewhere")
    assert not works
    assert "check host, port and path prefix" in said


def test_a_connection_of_another_type_is_told_as_such(monkeypatch) -> None:
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook

    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "host": "http://127.0.0.1"}))
    works, said = ModelRegistryHook("other").test_connection()
    assert not works
    assert "is of type 'http'; a model registry needs one of: " in said
