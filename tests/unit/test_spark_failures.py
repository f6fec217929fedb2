"""What Spark and warehouses say of a failure: what it is, and what of it is told."""

from __future__ import annotations

import pytest

from airflow_uc_models.spark_failures import Failure, Kind

CANARY = "Zebulon-Quist"
TRACE = f"""org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/model/code.py", line 3, in predict
    raise ValueError(frame)
ValueError: bad frame
{CANARY}Error: 48151.625
KeyError: 'x'
"""
READING = "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:/d/b.parquet. SQLSTATE: KD001"


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        (f"[CAST_INVALID_INPUT] The value '{CANARY}' of type \"STRING\" cannot be cast. SQLSTATE: 22018", Kind.INPUT,
         "[CAST_INVALID_INPUT] SQLSTATE: 22018"),
        (f"[CAST_INVALID_INPUT] The value '{CANARY}' cannot be cast", Kind.INPUT, "[CAST_INVALID_INPUT]"),
        (f"NumberFormatException: [CAST_INVALID_INPUT] The value '{CANARY}'", Kind.INPUT, "[CAST_INVALID_INPUT]"),
        (f"[DELTA_VIOLATE_CONSTRAINT_WITH_VALUES] x = {CANARY} SQLSTATE: 23001", Kind.INPUT,
         "[DELTA_VIOLATE_CONSTRAINT_WITH_VALUES] SQLSTATE: 23001"),
        (f"[INVALID_PARTITION_VALUE] Failed to cast value {CANARY}. SQLSTATE: 42846", Kind.INPUT,
         "[INVALID_PARTITION_VALUE] SQLSTATE: 42846"),
        ("[TABLE_OR_VIEW_NOT_FOUND] `a`.`b` cannot be found.\nmore", Kind.INPUT,
         "[TABLE_OR_VIEW_NOT_FOUND] `a`.`b` cannot be found."),
        (f"[AI_FUNCTION_HTTP_REQUEST_ERROR] HTTP code 503: {CANARY}", Kind.PASSING,
         "[AI_FUNCTION_HTTP_REQUEST_ERROR] HTTP 503."),
        (f"[DELTA_CONCURRENT_APPEND] {CANARY} SQLSTATE: 2D521", Kind.PASSING,
         "[DELTA_CONCURRENT_APPEND] SQLSTATE: 2D521"),
        (f"the model said {CANARY}", Kind.PASSING, ""),
        (f"ValueError: {CANARY}", Kind.PASSING, "ValueError."),
        (f"{CANARY}Error: 1", Kind.PASSING, ""),
        (TRACE, Kind.PASSING, "KeyError."),
        (f"[USER_RAISED_EXCEPTION] {CANARY} SQLSTATE: P0001", Kind.INPUT, "[USER_RAISED_EXCEPTION] SQLSTATE: P0001"),
        ("[USER_RAISED_EXCEPTION] Column 'x' has a value that is no double SQLSTATE: P0001", Kind.INPUT,
         "Column 'x' has a value that is no double"),
        ("[INSUFFICIENT_PERMISSIONS] no SELECT on t", Kind.DENIED, "[INSUFFICIENT_PERMISSIONS] no SELECT on t"),
        (f"{CANARY}\nRestException: PERMISSION_DENIED: no EXECUTE on m", Kind.DENIED,
         "RestException: PERMISSION_DENIED: no EXECUTE on m"),
        ("JobError: do not fit:\n- column 'x' is missing", Kind.REFUSED, "do not fit:\n- column 'x' is missing"),
        ("x.InputError: it is no CSV", Kind.REFUSED, "it is no CSV"),
        (f"PythonException: {CANARY}\nScoringError: KeyError: # (in predict)\n", Kind.PASSING,
         "KeyError: # (in predict)"),
        (f"Traceback\nLoadingError: ModuleNotFoundError: no x\n{CANARY}", Kind.LOADING, "ModuleNotFoundError: no x"),
        (f'File "/mlflow/pyfunc/__init__.py", line 9, in load_model\nConnectionError: {CANARY}', Kind.PASSING,
         "ConnectionError."),
        (f'File "/mlflow/pyfunc/__init__.py", line 9, in load_model\nModuleNotFoundError: {CANARY}', Kind.LOADING,
         "ModuleNotFoundError."),
    ],
)  # fmt: skip
def test_a_failure_is_told_without_values(text, kind, told):
    failure = Failure.of_text(text)
    assert (failure.kind, failure.told) == (kind, told)
    if told.startswith("["):
        read = Failure.of_text(told)
        assert (read.kind, read.told) == (kind, told), "where a task is deferred, that is all that is left of it"


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("java.lang.RuntimeException: file:/d/b.parquet is not a Parquet file. Expected magic number, but found [4]",
         "it is no Parquet file, or it is cut off"),
        ("org.apache.parquet.crypto.ParquetCryptoRuntimeException: No keys available", "it is encrypted"),
        ("java.io.EOFException: Unexpected end of input stream", "it is cut off"),
        ("java.io.IOException: not a gzip file", "it is not compressed as its name says"),
        ("java.io.FileNotFoundException: File file:/d/b.parquet does not exist", "it is gone"),
        ("org.apache.hadoop.security.AccessControlException: Permission denied: user=x", "it may not be read"),
        ("java.lang.ClassNotFoundException: org.apache.hadoop.io.compress.BrotliCodec",
         "this Spark does not have the codec BrotliCodec of its compression"),
        (f"com.univocity.parsers.common.TextParsingException: Parsed content: {CANARY}",
         "com.univocity.parsers.common.TextParsingException"),
        ("o.SchemaColumnConvertNotSupportedException: column: [x], physicalType: BINARY, logicalType: double",
         "column x is BINARY, and double in other files"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_told_in_words_of_its_own(cause, told):
    failure = Failure.of_text(f"{READING}\n\tat org.apache.spark.X.y(X.scala:502)\nCaused by: {cause}")
    assert (failure.kind, failure.file) == (Kind.INPUT, "file:/d/b.parquet")
    assert failure.told == f"[FAILED_READ_FILE.NO_HINT] {told}. SQLSTATE: KD001"


@pytest.mark.parametrize(
    "cause",
    [
        "java.net.SocketTimeoutException: Read timed out",
        "java.net.ConnectException: Connection refused",
        "java.io.IOException: Connection reset by peer",
        "java.io.IOException: Server returned HTTP response, Status Code: 503",
        "java.io.IOException: No space left on device",
        "org.apache.hadoop.fs.s3a.AWSServiceThrottledException: SlowDown",
        "org.apache.hadoop.fs.s3a.AWSStatus500Exception: x",
        "software.amazon.awssdk.core.exception.SdkClientException: Unable to execute HTTP request",
    ],
)
def test_a_storage_that_does_not_answer_may_answer_later(cause):
    assert Failure.of_text(f"{READING}\nCaused by: {cause}").kind is Kind.PASSING
