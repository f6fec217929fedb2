"""How the emulator is run: by the fixture, from the command line, with a database, and its generated page."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.guides import DOCS, blocks

from airflow_uc_models.emulator import Emulator, Settings

ROOT = Path(__file__).parents[2]
PAGE = DOCS / "emulator.md"
CREATE = "/api/2.0/mlflow/unity-catalog/registered-models/create"


# -- the page


def test_the_page_is_current() -> None:
    from airflow_uc_models.emulator import coverage

    assert (ROOT / coverage.PAGE).read_text() == coverage.text(), "run python -m airflow_uc_models.emulator.coverage"


def test_every_route_and_switch_is_explained() -> None:
    from airflow_uc_models.emulator.app import GROUPS
    from airflow_uc_models.emulator.routing import route_infos

    infos = [info for group in GROUPS for info in route_infos(group)]
    assert len(infos) > 60
    assert not [info for info in infos if not info.summary.endswith((".", "?")) or not info.source]
    assert len({(info.method, info.path) for info in infos}) == len(infos)


# -- the database


def test_a_database_keeps_models_grants_and_files(tmp_path, connect) -> None:
    settings = Settings(database=tmp_path / "workspace.db")
    with Emulator(settings) as first:
        api = connect(first)
        api.make_version("dev.a.m", tags=[{"key": "k", "value": "v"}])
        api.make_version("dev.a.m")
        api.ok("DELETE", "model-versions/delete", name="dev.a.m", version="2")
        api.ok("POST", "registered-models/alias", name="dev.a.m", alias="champ", version="1")
        api.ok("POST", "registered-models/create", name="dev.a.gone")
        api.ok("DELETE", "registered-models/delete", name="dev.a.gone")
        api.ok("PATCH", "registered-models/update", name="dev.a.m", new_name="dev.a.n")
        first.add_principal("user", token="t")
        for privilege, securable in (("USE CATALOG", "dev"), ("USE SCHEMA", "dev"), ("EXECUTE", "dev.a.n")):
            first.grant("user", privilege, securable)
        api.ok("PATCH", "registered-models/update", name="dev.a.n", new_name="dev.a.o")
    with Emulator(settings) as second:
        api = connect(second)
        version = api.ok("GET", "registered-models/alias", name="dev.a.o", alias="champ")["model_version"]
        assert (version["version"], version["status"], version["tags"]) == ("1", "READY", [{"key": "k", "value": "v"}])
        assert api.client.get("/api/2.0/fs/files/Models/dev/a/o/1/MLmodel").content == b"flavors: {}"
        models = api.ok("GET", "registered-models/search")["registered_models"]
        assert [model["name"] for model in models] == ["dev.a.o"]
        assert api.make_version("dev.a.o") == 3
        user = second.add_principal("user", token="t")
        assert connect(second, user).ok("GET", "registered-models/get", name="dev.a.o")
        second.reset()
        assert not second.workspace.files.root.exists()
    with Emulator(settings) as third:
        assert connect(third).ok("GET", "registered-models/search") == {}


def test_without_a_database_nothing_is_left_behind() -> None:
    with Emulator() as running:
        folder = running.workspace.files.root
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url)


# -- the command line


@contextmanager
def command(*arguments: str) -> Iterator[str]:
    """Run the module; hand out what it prints until the first empty line after the address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "airflow_uc_models.emulator", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout
    try:
        printed = ""
        while "With MLflow" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        yield printed
    finally:
        process.terminate()  # not SIGINT, which is ignored where the tests themselves run in the background
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0


def test_the_command_of_the_page_runs(tmp_path, monkeypatch) -> None:
    [block] = blocks(PAGE.read_text(), "console")
    python, m, module, *arguments = shlex.split(block)
    assert (python, m, module) == ("python", "-m", "airflow_uc_models.emulator")
    arguments[arguments.index("--port") + 1] = "0"  # others may have that one
    arguments[arguments.index("--database") + 1] = str(tmp_path / "workspace.db")
    with command(*arguments) as printed:
        assert "AIRFLOW_CONN_DATABRICKS_DEFAULT='{" in printed


def test_the_command_line_serves_a_workspace(tmp_path) -> None:
    arguments = ["--token", "secret", "--database", str(tmp_path / "w.db"), "--storage", "presigned"]
    arguments += ["--grant", "ci=other:USE_CATALOG:dev", "--grant", "ci=other:USE_SCHEMA:dev.a"]
    with command(*arguments) as printed:
        url = re.search(r"http://127\.0\.0\.1:\d+", printed)[0]  # type: ignore[index]
        connection = json.loads(re.search(r"DATABRICKS_DEFAULT='(.*)'", printed)[1])  # type: ignore[index]
        assert (connection["conn_type"], connection["password"]) == ("databricks", "secret")
        assert url == f"http://{connection['host']}:{connection['port']}"
        answer = httpx.post(url + CREATE, json={"name": "dev.a.m"}, headers={"Authorization": "Bearer secret"})
        assert answer.status_code == 200
        theirs = httpx.post(url + CREATE, json={"name": "dev.a.n"}, headers={"Authorization": "Bearer other"})
        assert (theirs.status_code, "CREATE MODEL" in theirs.text) == (403, True)
    assert (tmp_path / "w.db").is_file()


def test_the_command_line_serves_the_open_source_flavor(tmp_path) -> None:
    with command("--flavor", "open-source", "--root", str(tmp_path)) as printed:
        url = re.search(r"http://127\.0\.0\.1:\d+", printed)[0]  # type: ignore[index]
        assert httpx.get(f"{url}/api/2.1/unity-catalog/models").status_code == 200


def test_a_wrong_grant_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow_uc_models.emulator", "--grant", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, "PRINCIPAL=TOKEN:PRIVILEGE:SECURABLE" in done.stderr) == (2, True)


# -- the fixture


def test_the_plugin_gives_users_an_empty_workspace(tmp_path) -> None:
    guide = "\n".join(blocks(PAGE.read_text(), "python"))
    (tmp_path / "test_theirs.py").write_text(
        guide
        + """
import httpx, pytest

@pytest.mark.parametrize("number", [1, 2])
def test_theirs(uc_workspace, number):
    assert uc_workspace.settings.storage == "presigned"
    headers = {"Authorization": f"Bearer {uc_workspace.token}"}
    url = uc_workspace.url + "/api/2.1/unity-catalog/models"
    assert httpx.get(url, headers=headers).json() == {}
    body = {"catalog_name": "dev", "schema_name": "a", "name": "m"}
    assert httpx.post(url, json=body, headers=headers).status_code == 200
"""
    )
    arguments = [
        "-p",
        "airflow_uc_models.emulator.plugin",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "-q",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "--rootdir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_costs_users_nothing() -> None:
    """It is imported in every run of pytest wherever the package is installed."""
    check = (
        "import sys, pytest; before = set(sys.modules); import airflow_uc_models.emulator.plugin;"
        "print([m for m in set(sys.modules) - before if not m.startswith('airflow_uc_models')])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_airflow_reads_the_connection(emulator, airflow_home, monkeypatch) -> None:
    from airflow.models.connection import Connection
    from airflow.sdk import BaseHook

    user = emulator.add_principal("user", token="theirs")
    for variable, value in (emulator.env() | emulator.env("other", user, registry="x")).items():
        monkeypatch.setenv(variable, value)
    own, other = BaseHook.get_connection("databricks_default"), BaseHook.get_connection("other")
    assert (own.conn_type, own.host, own.port, own.schema) == ("databricks", "127.0.0.1", emulator.port, "http")
    assert (own.password, own.login) == (emulator.token, None)
    assert (other.password, other.extra_dejson) == ("theirs", {"registry": "x"})
    by_uri = Connection(uri=emulator.connection_uri())
    assert (by_uri.host, by_uri.port, by_uri.schema, by_uri.password) == (
        "127.0.0.1",
        emulator.port,
        "http",
        own.password,
    )


def test_the_official_providers_hook_connects(emulator, airflow_home, monkeypatch) -> None:
    from airflow.providers.databricks.hooks.databricks import DatabricksHook

    for variable, value in emulator.env("uc").items():
        monkeypatch.setenv(variable, value)
    assert DatabricksHook("uc").test_connection() == (True, "Connection successfully tested")
    [asked] = emulator.requests.find("spark-versions")
    assert (asked.status, asked.principal) == (200, "admin@example.com")


def test_it_can_serve_https(tmp_path) -> None:
    pytest.importorskip("cryptography")
    import ssl

    certificate, key = self_signed(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with Emulator(certificate=(certificate, key)) as running:
        assert running.url.startswith("https://")
        config = httpx.get(f"{running.url}/.well-known/databricks-config", verify=trusting).json()
        assert config["oidc_endpoint"] == f"{running.url}/oidc"
        assert json.loads(running.connection_json())["schema"] == "https"
        with pytest.raises(httpx.ConnectError):
            httpx.get(running.url)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


# -- many at once


def test_concurrent_creates_get_numbers_of_their_own(api, name) -> None:
    from concurrent.futures import ThreadPoolExecutor

    api.ok("POST", "registered-models/create", name=name)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: api.ok("POST", "model-versions/create", name=name, source="x"), range(40)))
    assert sorted(int(each["model_version"]["version"]) for each in made) == list(range(1, 41))


def test_a_broken_upload_leaves_no_file(emulator, api, name) -> None:
    import socket

    api.ok("POST", "registered-models/create", name=name)
    api.ok("POST", "model-versions/create", name=name, source="x")
    path = f"/api/2.0/fs/files/Models/{name.replace('.', '/')}/1/half"
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {emulator.token}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", emulator.port)) as raw:
        raw.sendall(head.encode() + b"x" * 100)
    deadline = time.monotonic() + 20
    while not [each for each in emulator.requests.find("half") if each.done]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert api.client.get(path).status_code == 404
    assert not list((emulator.workspace.files.root / ".incoming").iterdir())
