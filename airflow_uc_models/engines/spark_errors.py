"""From Spark's errors to those of this package, and what Spark may log while it has rows: nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from airflow_uc_models.engines.job import InferenceJob
from airflow_uc_models.engines.spark_places import is_remote
from airflow_uc_models.engines.spark_plan import InputError, JobError
from airflow_uc_models.exceptions import InputDataError, InvalidArgumentError, ModelContentError, PredictionError
from airflow_uc_models.spark_failures import Failure, Kind

log = logging.getLogger(__name__)

_LEVEL = "spark.log.level"
# PySpark writes the message of each error to these, apart from Java's log.
_LOGGERS = ("DataFrameQueryContextLogger", "SQLQueryContextLogger")
_MOST_CAUSES = 10


@contextmanager
def quiet(spark: Any) -> Iterator[None]:
    """Keep Spark on this worker from logging: its errors quote rows, and go to the task's log.

    A level that is set for the session as ``spark.log.level`` stays.
    """
    from pyspark.logger import PySparkLogger

    before = None if is_remote(spark) or spark.sparkContext.getConf().get(_LEVEL) else _level(spark)
    loggers = [PySparkLogger.getLogger(name) for name in _LOGGERS]
    were = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    if before:
        spark.sparkContext.setLogLevel("OFF")
    try:
        yield
    finally:
        for logger, was in zip(loggers, were, strict=True):
            logger.disabled = was
        with suppress(Exception):  # Java may be gone
            if before:
                spark.sparkContext.setLogLevel(before)


def _level(spark: Any) -> str:
    manager = getattr(spark.sparkContext._jvm, "org.apache.logging.log4j.LogManager")  # noqa: SLF001
    return str(manager.getRootLogger().getLevel().name())


@contextmanager
def explained(job: InferenceJob, model: str) -> Iterator[None]:
    """Turn Spark's errors into ours, without a value of the rows in them."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except InputError as error:
        raised: Exception = InputDataError(str(error))
    except JobError as error:
        raised = InvalidArgumentError(str(error))
    except (Py4JError, PySparkException) as error:
        raised = _error_of(job, model, error)
    else:
        return
    raise raised from None


def _error_of(job: InferenceJob, model: str, error: Exception) -> Exception:
    try:
        failure = failure_of(error)
    except Exception:  # the text, too, is asked of Java
        return PredictionError(f"Spark ended before {job.input} was scored.")
    told = failure.told or type(error).__name__
    log.debug("Spark failed with %s: %s", failure.condition or "no condition", ", ".join(failure.classes))
    if failure.kind is Kind.LOADING:
        return ModelContentError(f"{model} cannot be loaded by Spark's Python: {told}")
    if failure.kind is Kind.PASSING:
        return PredictionError(f"Could not score {job.input} with {model}: {told}")
    if failure.is_of_rows:
        return InputDataError(f"{job.input}: {told}")
    if failure.file:
        return InputDataError(f"{failure.file} cannot be read: {told}")
    return InputDataError(f"Spark cannot read {job.input} or write {job.output}: {told}")


def failure_of(error: Any) -> Failure:
    """Return what an error of PySpark is, by what Spark says of it in its fields and those of its causes."""
    java = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    if java is not None:
        return _of_java(java, str(error))
    text = str(error)
    if not hasattr(error, "getCondition"):  # the connection to Java has ended
        raise error
    read = Failure.of_text(text)
    return replace(
        read,
        condition=error.getCondition() or read.condition,
        sql_state=error.getSqlState() or read.sql_state,
        parameters=error.getMessageParameters() or {},
    )


def _of_java(java: Any, text: str) -> Failure:
    """Walk through the causes; the first condition says most."""
    from pyspark.errors.exceptions.captured import CapturedException

    classes: list[str] = []
    found: dict[str, Any] = {}
    cause = java
    while cause is not None and len(classes) < _MOST_CAUSES:
        classes.append(str(cause.getClass().getName()))
        if not found:
            said = CapturedException(origin=cause)  # which asks Java as this release of Spark wants to be asked
            if condition := said.getCondition():
                parameters = said.getMessageParameters() or {}
                found = {"condition": condition, "sql_state": said.getSqlState() or "", "parameters": parameters}
        cause = cause.getCause()
    read = Failure.of_text(text)
    return replace(read, **{"condition": "", "sql_state": "", **found}, classes=[*classes, *_python_classes(read)])


def _python_classes(read: Failure) -> list[str]:
    return [name for name in read.classes if "." not in name or name.startswith(("mlflow.", "airflow_uc_models."))]
