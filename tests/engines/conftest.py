"""One Spark for all tests of this folder, in this process, and models as folders."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version
from support.leavings import ignore_open_sockets, open_sockets_collected

LEAVES_SOCKETS = Version(version("pyspark")) < Version("4.2")  # open, when it has collected rows


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if LEAVES_SOCKETS:
        ignore_open_sockets(items, Path(__file__).parent)


@pytest.fixture(scope="module", autouse=LEAVES_SOCKETS)
def _leavings():
    with open_sockets_collected():
        yield


@pytest.fixture(scope="package")
def spark(tmp_path_factory):
    """A Spark with two cores, without pages; no Java is left when the tests end."""
    if shutil.which("java") is None:
        pytest.skip("there is no java on this machine")
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        conf = {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.local.dir": str(folder),
            "spark.driver.extraJavaOptions": f"-Dderby.system.home={folder} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "spark.log.level": "OFF",
        }
        builder = SparkSession.builder.master("local[2]")
        for key, value in conf.items():
            builder = builder.config(key, value)
        session = builder.getOrCreate()
    yield session
    session.stop()
    gateway = SparkContext._gateway
    gateway.shutdown()
    SparkContext._gateway = SparkContext._jvm = None
    gateway.proc.stdin.close()
    assert gateway.proc.wait(30) is not None
