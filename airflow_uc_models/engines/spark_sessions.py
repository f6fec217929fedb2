"""Spark sessions for batch inference: one that is there, or one that is made for the job and stopped after it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from airflow_uc_models.engines.job import InferenceJob
from airflow_uc_models.exceptions import ConnectionConfigError, InvalidArgumentError, PredictionError, UCModelsError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook, expect_connection
from airflow_uc_models.hooks.workspace import workspace_client

_ADVICE = "Install it, or this package with its extra spark: pip install 'pyspark[connect]>=4.0'."
_WAYS = ("session", "master", "remote", "remote_conn_id", "databricks_connect")
OPTIONS = (*_WAYS, "conf")
# Those to a session of Spark Connect.
REMOTE_WAYS = ("remote", "remote_conn_id", "databricks_connect")
# What Spark itself hides in its logs and pages.
_SECRET = re.compile(r"secret|password|token|access[.]?key", re.IGNORECASE)
# Variables by which PySpark tells its parts, and the next session, what this one is.
_OURS = re.compile(r"SPARK_|PYSPARK_")
_LOCAL = re.compile(r"local(-cluster)?(\[.*\])?")
_CONF = {
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    # Spark's older way of writing times is one that other readers take for nanoseconds.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
# A local Spark serves this task alone: no pages, nothing that listens elsewhere.
_LOCAL_CONF = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}


def check_options(job: InferenceJob) -> None:
    """Raise InvalidArgumentError for options that name no session, and where PySpark or Java is missing."""
    given = [name for name in _WAYS if job.options.get(name)]
    if len(given) > 1:
        raise InvalidArgumentError(f"engine_options has {' and '.join(given)}; each names a session, so give one.")
    conf = job.options.get("conf") or {}
    if not isinstance(conf, Mapping):
        raise InvalidArgumentError(f"engine_options: conf must be a dict of Spark's settings, not {conf!r}.")
    if secrets := [key for key in conf if _SECRET.search(str(key))]:
        raise InvalidArgumentError(
            f"engine_options: conf has {', '.join(secrets)}: credentials would show among the task's rendered fields. "
            "Set them in spark-defaults.conf on the worker, or let {'session': 'module.function'} make the session."
        )
    if re.search(r"token=|://[^/]*@", str(job.options.get("remote") or "")):
        raise InvalidArgumentError(
            "engine_options: remote has credentials, which would show among the task's rendered fields. Put address "
            "and token (as the password) into an Airflow connection and name it: {'remote_conn_id': ...}."
        )
    if not importlib.util.find_spec("pyspark"):
        raise InvalidArgumentError(f"engine='spark' needs PySpark, which this worker does not have. {_ADVICE}")
    if _needs_java(job.options) and not _has_java():
        raise InvalidArgumentError(
            "engine='spark' needs Java (17 or newer) on this worker, unless it is given a session, a remote or "
            "databricks_connect. Install it, or set JAVA_HOME."
        )


def _needs_java(options: Mapping[str, Any]) -> bool:
    remote = str(options.get("remote") or "")
    return not any(options.get(name) for name in _WAYS if name != "master") or remote.startswith("local")


def _has_java() -> bool:
    home = os.environ.get("JAVA_HOME")
    return bool(shutil.which("java", path=f"{home}/bin") if home else shutil.which("java"))


@contextmanager
def spark_session(job: InferenceJob, hook: ModelRegistryHook) -> Iterator[tuple[Any, bool]]:
    """Give a session and whether it was there before; one that was not is stopped in the end."""
    options = job.options
    if factory := options.get("session"):
        yield _made_by(str(factory)), True
        return
    make = _maker(options, hook)
    if make is None:
        if (active := _active()) is not None:
            yield active, True
            return
        make = _classic
    before = {name: value for name, value in os.environ.items() if _OURS.match(name)}
    gateway = _gateway()
    try:
        session = _made(make, options)
        try:
            yield session, False
        finally:
            session.stop()
    finally:
        _stop_java(gateway)
        for name in [name for name in os.environ if _OURS.match(name)]:
            del os.environ[name]
        os.environ.update(before)


def _active() -> Any:
    """Return the session that this process has, on whatever thread."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    has_one = SparkContext._active_spark_context is not None  # noqa: SLF001
    return SparkSession.builder.getOrCreate() if has_one else SparkSession.getActiveSession()


def _made(make: Callable[[dict[str, str]], Any], options: Mapping[str, Any]) -> Any:
    """Start Spark, or connect to it; PredictionError if that fails, which may pass."""
    conf = {str(key): _text(value) for key, value in (options.get("conf") or {}).items()}
    try:
        return make(conf)
    except UCModelsError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise PredictionError(f"Spark could not be started or reached: {type(error).__name__}: {first}") from error


def _gateway() -> Any:
    from pyspark import SparkContext

    return SparkContext._gateway  # noqa: SLF001


def _stop_java(before: Any) -> None:
    """End the Java process that was started here; PySpark would keep it until this process ends."""
    from pyspark import SparkContext

    gateway: Any = _gateway()
    if gateway is None or gateway is before:
        return
    gateway.shutdown()
    SparkContext._gateway = SparkContext._jvm = None  # noqa: SLF001
    if process := getattr(gateway, "proc", None):
        process.stdin.close()
        process.wait(timeout=30)


def _maker(options: Mapping[str, Any], hook: ModelRegistryHook) -> Callable[[dict[str, str]], Any] | None:
    if master := options.get("master"):
        return lambda conf: _classic({**conf, "spark.master": str(master)})
    if remote := options.get("remote"):
        return lambda conf: _remote(str(remote), conf)
    if conn_id := options.get("remote_conn_id"):
        return lambda conf: _remote(_address(_connection(hook, str(conn_id))), conf)
    if options.get("databricks_connect"):
        return lambda conf: _databricks(hook, conf)
    return None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _made_by(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidArgumentError(
            f"engine_options: session must be module.function, which returns a session; {path!r} is not: {error}."
        ) from error
    return factory()


def _classic(conf: dict[str, str]) -> Any:
    """Start Spark's driver in a Java process of this task."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    if SparkContext._active_spark_context is not None:  # noqa: SLF001
        raise InvalidArgumentError(
            "engine_options asks for a Spark of its own, and this process has one already; leave the options out to "
            "use that one."
        )
    is_local = bool(_LOCAL.fullmatch(conf.get("spark.master", "local")))
    if is_local:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("airflow-uc-models")
    for key, value in {**_CONF, **(_LOCAL_CONF if is_local else {}), **conf}.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def _remote(address: str, conf: dict[str, str]) -> Any:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.remote(address)
    for key, value in conf.items():
        builder = builder.config(key, value)
    # A server of this process is made by the one, a session on a server that others use by the other.
    return builder.getOrCreate() if _LOCAL.fullmatch(address) else builder.create()


def _connection(hook: ModelRegistryHook, conn_id: str) -> Any:
    with expect_connection(conn_id):
        return hook.get_connection(conn_id)


def _address(connection: Any) -> str:
    """Return the address of Spark Connect, with the credentials of an Airflow connection."""
    if not connection.host:
        raise ConnectionConfigError(
            f"Connection {connection.conn_id!r} has no host; it must be a Spark Connect server's."
        )
    parameters = {"user_id": connection.login, "token": connection.password}
    parameters["use_ssl"] = str(connection.extra_dejson.get("use_ssl", "")).lower()
    given = "".join(f";{key}={quote(value, safe='')}" for key, value in parameters.items() if value)
    host = connection.host.removeprefix("sc://")
    return f"sc://{host}:{connection.port or 15002}/{given}"


def _databricks(hook: ModelRegistryHook, conf: dict[str, str]) -> Any:
    """Connect to the workspace of the hook's connection: serverless, unless its extra names a cluster."""
    try:
        sessions: Any = importlib.import_module("databricks.connect").DatabricksSession
    except ImportError as error:
        raise InvalidArgumentError(
            "engine_options: databricks_connect needs the package databricks-connect, which takes the place of "
            "pyspark: install it in an environment of its own, or use engine='databricks'."
        ) from error
    builder = sessions.builder.sdkConfig(workspace_client(hook.endpoint).config)
    cluster = hook.endpoint.connection.extra_dejson.get("cluster_id")
    builder = builder.clusterId(cluster) if cluster else builder.serverless(True)
    session = builder.getOrCreate()
    for key, value in conf.items():
        session.conf.set(key, value)
    return session
