"""docker-compose.yaml without Docker: its structure, its commands, and that it holds no secret.

Commands are given to the parsers of the very programs they start: a misspelt option fails here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text()
VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?P<rest>[^}]*)\}|(?P<plain>\w+))")
# Those of the compose specification that are in use here; a misspelt key fails.
KEYS = {
    "build",
    "command",
    "depends_on",
    "environment",
    "healthcheck",
    "image",
    "init",
    "ports",
    "restart",
    "security_opt",
    "volumes",
}
SECRET_NAME = re.compile(r"PASSWORD(?!S_FILE)|SECRET|FERNET|TOKEN")

of_the_image = pytest.mark.skipif(
    find_spec("mlflow.server.security_utils") is None, reason="the image has an MLflow that checks hosts, 3.5 or newer"
)


def examples() -> dict[str, str]:
    lines = [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def strings(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def filled(value):
    """The value as compose would fill it in, each variable with its own name."""
    return VARIABLE.sub(lambda m: {"AIRFLOW_PORT": "8080", "MLFLOW_PORT": "5000"}.get(m[1], f"<{m[1]}>"), value)


def test_services():
    assert set(COMPOSE) == {"name", "services", "volumes", "x-airflow", "x-image"}
    assert set(SERVICES) == {
        "airflow-apiserver",
        "airflow-dag-processor",
        "airflow-db",
        "airflow-init",
        "airflow-scheduler",
        "airflow-triggerer",
        "mlflow",
        "mlflow-db",
    }
    for name, service in SERVICES.items():
        assert set(service) <= KEYS, name
        assert isinstance(service["image"], str)
        assert service["restart"] in ("no", "unless-stopped")
        assert all(isinstance(value, str) for value in service["environment"].values()), f"{name}: quote it"
        assert isinstance(service.get("command", []), list)


def test_every_service_says_whether_it_is_healthy():
    for name, service in SERVICES.items():
        health = service["healthcheck"]
        if name == "airflow-init":
            assert health == {"disable": True}
            continue
        assert set(health) == {"test", "interval", "timeout", "retries", "start_period"}, name
        assert health["test"][0] == "CMD"
        assert all(re.fullmatch(r"\d+s", health[key]) for key in ("interval", "timeout", "start_period"))


def test_services_wait_for_what_they_need():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed == "airflow-init" else "service_healthy"
            assert how == {"condition": wanted}, f"{name} needs {needed}"
            assert needed in SERVICES
        # A host name in an address is a service that this one waits for, at least through another.
        hosts = set(re.findall(r"(?:@|//)([a-z-]+):\d", " ".join(strings(service["environment"]))))
        assert hosts - {"localhost"} <= set(SERVICES)
    assert "mlflow-db" in SERVICES["mlflow"]["depends_on"]
    assert "airflow-db" in SERVICES["airflow-init"]["depends_on"]
    for part in ("apiserver", "dag-processor", "scheduler", "triggerer"):
        assert "airflow-init" in SERVICES[f"airflow-{part}"]["depends_on"]


def test_volumes():
    named = set(COMPOSE["volumes"])
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            if source.startswith("./"):
                assert (ROOT / source).is_dir()
                assert mode == ["ro"]
            else:
                used.add(source)
    assert used == named


def test_ports_are_published_on_loopback_only():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [re.sub(r"\$\{\w+:\?[^}]*\}", "PORT", port) for port in published] == [
        "127.0.0.1:PORT:5000",
        "127.0.0.1:PORT:8080",
    ]


def test_every_variable_is_required_and_explained():
    found = [match for text in strings({"services": SERVICES}) for match in VARIABLE.finditer(text)]
    assert found
    for match in found:
        assert match["braced"], f"write ${{{match['plain']}:?...}}"
        assert match["rest"].startswith(":?"), f"{match['braced']} has a default, or none that is asked for"
    assert {match["braced"] for match in found} == set(examples())


def test_no_secret_is_literal():
    secrets = 0
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if SECRET_NAME.search(name):
                secrets += 1
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name} is in the file"
            for password in re.findall(r"://[^:/]+:([^@/]+)@", value):
                secrets += 1
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", password), f"{name} holds a password"
    assert secrets >= 8
    assert {name: value for name, value in examples().items() if value} == {
        "AIRFLOW_PORT": "8080",
        "MLFLOW_PORT": "5000",
    }


def test_what_generates_secrets_works():
    commands = re.findall(r'^#   python3 (-c ".*")$', EXAMPLE, re.MULTILINE)
    assert len(commands) == 3
    made = [
        subprocess.run(f"{sys.executable} {c}", shell=True, capture_output=True, text=True, check=True).stdout.strip()
        for c in commands
    ]
    from cryptography.fernet import Fernet

    Fernet(made[1])
    assert re.fullmatch(r"[0-9a-f]{48}", made[0])
    assert re.fullmatch(r"[0-9a-f]{64}", made[2])


def test_the_connection_is_an_mlflow_server_with_a_web_address(monkeypatch):
    from airflow_uc_models.hooks.model_registry import ModelRegistryHook

    value = filled(SERVICES["airflow-scheduler"]["environment"]["AIRFLOW_CONN_MLFLOW_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", value)
    endpoint = ModelRegistryHook("mlflow_default").endpoint
    assert endpoint.address == "http://mlflow:5000"
    assert endpoint.model_version_url("a.b.c", 1).startswith("http://localhost:5000/")


def airflow_commands():
    for name, service in SERVICES.items():
        for words in (service.get("command", []), service["healthcheck"].get("test", [])[1:]):
            if words[:1] == ["airflow"]:
                yield pytest.param(words, id=f"{name}: {' '.join(words)}")
    init = SERVICES["airflow-init"]["command"][-1]
    yield pytest.param(init.splitlines()[-1].split(), id="airflow-init")


@pytest.mark.parametrize("words", list(airflow_commands()))
def test_airflow_understands(words):
    from airflow.cli.cli_parser import get_parser

    parsed = get_parser().parse_args(words[1:])
    assert callable(parsed.func)


def test_all_of_airflow_runs():
    commands = {tuple(service.get("command", [])[:2]) for service in SERVICES.values()}
    assert {("airflow", part) for part in ("api-server", "scheduler", "dag-processor", "triggerer")} < commands


@pytest.mark.parametrize("name", [name for name in SERVICES if name.startswith("airflow-") and name != "airflow-db"])
def test_airflow_has_every_setting(name):
    """A setting that Airflow does not know is a misspelt one."""
    from airflow.configuration import conf

    settings = [key for key in SERVICES[name]["environment"] if key.startswith("AIRFLOW__")]
    assert settings
    for setting in settings:
        _, section, option = setting.lower().split("__", 2)
        assert option in conf.configuration_description[section]["options"], setting


@of_the_image
def test_mlflow_understands(monkeypatch):
    from mlflow.cli import server

    service = SERVICES["mlflow"]
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, filled(value))
    program, command, *arguments = service["command"]
    assert (program, command) == ("mlflow", "server")
    context = server.make_context("server", arguments)
    assert (
        context.params["backend_store_uri"] == "postgresql+psycopg2://mlflow:<MLFLOW_DB_PASSWORD>@mlflow-db:5432/mlflow"
    )
    assert context.params["artifacts_destination"] == "/mlartifacts"
    assert context.params["serve_artifacts"] is True


@of_the_image
@pytest.mark.parametrize("host", ["mlflow:5000", "localhost:5000", "localhost:15000", "127.0.0.1:5000"])
def test_mlflow_answers_to_the_names_it_is_called_by(host):
    from mlflow.server.security_utils import is_allowed_host_header

    option = next(word for word in SERVICES["mlflow"]["command"] if word.startswith("--allowed-hosts="))
    allowed = option.removeprefix("--allowed-hosts=").split(",")
    assert is_allowed_host_header(allowed, host)
    assert not is_allowed_host_header(allowed, "evil.example.com:5000")


def test_the_databases_are_reachable_with_the_drivers_of_the_image():
    from sqlalchemy.engine import make_url

    for name, key in (("mlflow", "MLFLOW_BACKEND_STORE_URI"), ("airflow-init", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")):
        url = make_url(filled(SERVICES[name]["environment"][key]))
        database = SERVICES[url.host]["environment"]
        assert (url.username, url.database) == (database["POSTGRES_USER"], database["POSTGRES_DB"])
        assert f"<{database['POSTGRES_PASSWORD'][2:].partition(':')[0]}>" == url.password
        assert url.get_dialect().import_dbapi().__name__ == url.get_driver_name()


def test_init_writes_the_password_file_that_airflow_reads(tmp_path):
    init = SERVICES["airflow-init"]
    assert init["command"][:2] == ["bash", "-ec"]
    (tmp_path / "auth").mkdir()
    script = init["command"][2].replace("airflow db migrate", "true").replace("python -c", f"{sys.executable} -c")
    password = 'with "quotes" and $signs'
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, env={"ADMIN_PASSWORD": password}, check=True)

    written = tmp_path / "auth" / "passwords.json"
    assert json.loads(written.read_text()) == {"admin": password}
    assert written.stat().st_mode & 0o077 == 0
    reader = SERVICES["airflow-apiserver"]
    path = reader["environment"]["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]
    assert path == "/opt/airflow/auth/passwords.json"
    assert "airflow-auth:/opt/airflow/auth" in reader["volumes"]
    assert "airflow-auth:/opt/airflow/auth" in init["volumes"]


def test_the_image_has_what_it_copies_and_mounts():
    dockerfile = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    for sources in re.findall(r"^COPY (.+) /\S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}\n" in ignored, f"{source} is not in the build context"
    folders = set(re.findall(r"(?<=\s)(/opt/airflow/\w+|/mlartifacts)(?=\s|$)", dockerfile, re.MULTILINE))
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            target = volume.split(":")[1]
            assert target in folders or target.startswith("/var/lib/postgresql"), f"{target} would belong to root"
