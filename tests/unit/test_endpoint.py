"""From connections to endpoints: addresses, TLS, credentials, and what is wrong with a connection."""

from __future__ import annotations

import json
import ssl
from typing import Any

import certifi
import httpx
import pytest
from airflow.sdk import Connection

from airflow_uc_models.exceptions import ConnectionConfigError
from airflow_uc_models.hooks.endpoint import Endpoint, endpoint_of


def endpoint(extra: dict[str, Any] | None = None, **fields: Any) -> Endpoint:
    connection = Connection(
        **{"conn_id": "c1", "conn_type": "mlflow", "host": "http://mlflow:5000", **fields},
        extra=json.dumps(extra or {}),
    )
    return endpoint_of(connection, connection.extra_dejson)


def complaint(extra: dict[str, Any] | None = None, **fields: Any) -> str:
    with pytest.raises(ConnectionConfigError) as caught:
        endpoint(extra, **fields)
    assert caught.value.permanent
    assert "'c1'" in str(caught.value)
    return str(caught.value)


# -- addresses


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"host": "mlflow"}, "http://mlflow"),
        ({"host": "mlflow", "port": 5000}, "http://mlflow:5000"),
        ({"host": " mlflow ", "port": 5000, "schema": "https"}, "https://mlflow:5000"),
        ({"host": "mlflow:5001", "port": 5000}, "http://mlflow:5001"),
        ({"host": "http://mlflow", "port": 5000, "schema": "https"}, "http://mlflow:5000"),
        ({"host": "https://mlflow.example/prefix/"}, "https://mlflow.example/prefix"),
        ({"host": "https://mlflow.example:8443/a/b//"}, "https://mlflow.example:8443/a/b"),
        ({"host": "HTTPS://MLflow.Example"}, "https://mlflow.example"),
        ({"host": "http://[::1]:5000"}, "http://[::1]:5000"),
        ({"host": "http://127.0.0.1", "port": 8080}, "http://127.0.0.1:8080"),
    ],
)
def test_addresses(fields, address) -> None:
    assert endpoint(**fields).address == address
    assert endpoint(**fields).web_url == address


@pytest.mark.parametrize("host", [None, "", "  "])
def test_a_host_is_needed(host) -> None:
    assert "has no host; give the server's address, such as http://mlflow:5000" in complaint(host=host)


@pytest.mark.parametrize(
    "host",
    ["sqlite:///mlflow.db", "file:///mlruns", "databricks://x", "ftp://x", "http://", "postgresql://db/mlflow"],
)
def test_what_is_no_server_is_told_as_such(host) -> None:
    assert "is no http or https address" in complaint(host=host)


@pytest.mark.parametrize("host", ["http://[::1", "http://mlflow:99999", "http://mlflow:http", "a\x00b"])
def test_what_is_no_address_is_told_as_such(host) -> None:
    assert "is no address" in complaint(host=host)


@pytest.mark.parametrize("host", ["http://me:s3cret@mlflow:5000", "me:s3cret@mlflow", "s3cret@[::1", "x://me:s3cret@h"])
def test_credentials_in_the_host_are_refused_and_not_shown(host) -> None:
    told = complaint(host=host)
    assert "has credentials inside the host" in told
    assert "s3cret" not in told


def test_pages_are_where_browsers_reach_them() -> None:
    where = endpoint({"web_url": "https://ui.example/mlflow/"})
    assert where.model_version_url("a.b.c", 3) == "https://ui.example/mlflow/#/models/a.b.c/versions/3"
    assert where.model_version_url("a.b.c?/#", None) == "https://ui.example/mlflow/#/models/a.b.c%3F%2F%23"


def test_two_connections_to_one_server_are_known_as_such() -> None:
    first, second = endpoint(host="http://mlflow:5000"), endpoint(host="mlflow", port=5000, conn_id="c2")
    assert first.is_same_server(second)
    assert not first.is_same_server(endpoint(host="http://mlflow:5001"))


@pytest.mark.parametrize("kind", ["http", "", None, "Mlflow", "aws"])
def test_other_connection_types_are_refused(kind) -> None:
    assert "a model registry needs one of: " in complaint(conn_type=kind)


# -- TLS


@pytest.mark.parametrize("value", [True, "true", "True", "1", "yes", "", None])
def test_certificates_are_checked(value) -> None:
    assert endpoint({"verify": value}, host="https://h").transport.verify is True


def test_certificates_are_checked_by_default() -> None:
    assert endpoint(host="https://h").transport.verify is True


@pytest.mark.parametrize("value", [False, "false", "False", "0", "no"])
def test_certificates_are_not_checked(value) -> None:
    assert endpoint({"verify": value}, host="https://h").transport.verify is False


def test_plain_http_costs_no_certificates() -> None:
    assert endpoint(host="http://h").transport.verify is False


def test_a_ca_bundle_is_used() -> None:
    context = endpoint({"verify": certifi.where()}, host="https://h").transport.verify
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_others_get_the_path_of_the_ca_bundle() -> None:
    where = endpoint({"verify": f" {certifi.where()}\n"}, host="https://h")
    assert where.ca_bundle == certifi.where()
    assert where.mlflow.variables() == {"MLFLOW_TRACKING_SERVER_CERT_PATH": certifi.where()}
    for value in ("true", "false"):
        assert endpoint({"verify": value}, host="https://h").ca_bundle is None
    assert endpoint({"verify": certifi.where()}, host="http://h").ca_bundle is None


@pytest.mark.parametrize(
    ("kind", "tracking_uri", "registry_uri"),
    [
        ("mlflow", "https://h", "https://h"),
        ("databricks", "databricks", "databricks-uc"),
        ("unity_catalog", None, "uc:https://h"),
    ],
)
def test_mlflow_is_told_where_to_go(kind, tracking_uri, registry_uri) -> None:
    settings = endpoint(conn_type=kind, host="https://h").mlflow
    assert (settings.tracking_uri, settings.registry_uri) == (tracking_uri, registry_uri)


def test_a_ca_bundle_that_is_none_is_told(tmp_path) -> None:
    assert "neither true, false nor a readable CA bundle" in complaint({"verify": "/no/such.pem"}, host="https://h")
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "holds no certificates" in complaint({"verify": str(tmp_path / "ca.pem")}, host="https://h")


# -- credentials


def header(where: Endpoint) -> str | None:
    request = httpx.Request("GET", "http://h")
    if where.transport.auth is None:
        return None
    return next(where.transport.auth.auth_flow(request)).headers.get("authorization")


def test_credentials_become_a_header() -> None:
    assert header(endpoint()) is None
    assert header(endpoint({"token": "t0k"})) == "Bearer t0k"
    assert header(endpoint(login="me", password="pw")) == "Basic bWU6cHc="
    assert header(endpoint(login="me")) == "Basic bWU6"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"login": "me", "password": "s3cret", "extra": {"token": "s3cret"}}, "both a login and a token"),
        ({"password": "s3cret"}, "a password but no login"),
        ({"extra": {"token": "s3cret\n"}}, "paste it again"),
        ({"extra": {"token": "s3cret two"}}, "paste it again"),
        ({"extra": {"token": "s3crét"}}, "paste it again"),
    ],
)
def test_contradicting_credentials_are_told_and_not_shown(fields, said) -> None:
    told = complaint(**fields)
    assert said in told
    assert "s3cr" not in told


def test_credentials_are_not_in_the_repr() -> None:
    for where in (endpoint(login="me", password="s3cret"), endpoint({"token": "s3cret", "more": "s3cret"})):
        assert "s3cret" not in repr(where)
        assert "s3cret" not in f"{where} {where.transport!r}"


def test_mlflow_gets_the_same_credentials() -> None:
    def variables(extra: dict[str, Any] | None = None, **fields: Any) -> dict[str, str]:
        return endpoint(extra, **fields).mlflow.variables()

    assert variables({"token": "t"}, host="https://h") == {"MLFLOW_TRACKING_TOKEN": "t"}
    assert variables(login="me", host="https://h") == {
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": "",
    }
    assert variables({"verify": "false"}, host="https://h") == {"MLFLOW_TRACKING_INSECURE_TLS": "true"}


# -- times


def test_times_have_defaults_and_can_be_set() -> None:
    where = endpoint().transport
    assert (where.timeout, where.max_retry_seconds) == (30.0, 60.0)
    where = endpoint({"timeout": "2.5", "max_retry_seconds": 0}).transport
    assert (where.timeout, where.max_retry_seconds) == (2.5, 0.0)
    where = endpoint({"timeout": "", "max_retry_seconds": None}).transport
    assert (where.timeout, where.max_retry_seconds) == (30.0, 60.0)


@pytest.mark.parametrize("value", [-1, "soon", [], "nan", "inf", 1e12])
@pytest.mark.parametrize("key", ["timeout", "max_retry_seconds"])
def test_times_that_are_none_are_told(key, value) -> None:
    assert f"extra '{key}' must be a number of seconds" in complaint({key: value})


def test_a_timeout_is_more_than_nothing() -> None:
    assert "must be a number of seconds" in complaint({"timeout": 0})
