"""Inputs and outputs of engines that know places by their names: none may be replaced or read by mistake."""

from __future__ import annotations

import pytest

from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.apart import refuse_overlap
from airflow_uc_models.exceptions import InvalidArgumentError

SAME, IN_INPUT, IN_OUTPUT = "is the input, too", "lies in the input", "The input .* lies in the output"


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("/data/in", "/data/in/", SAME),
        ("/data/in", "file:///data/./in", SAME),
        ("s3a://bucket/in", "s3://bucket/x/../in", SAME),
        ("/Volumes/a/b/c", "dbfs:/Volumes/a/b/c", SAME),
        ("a.b", "spark_catalog.`A`.b", SAME),
        ("/data/in", "/data/in/out", IN_INPUT),
        ("s3://bucket/", "s3://bucket/out", IN_INPUT),
        ("/data/out/in", "/data/out", IN_OUTPUT),
        ("/data/out/in.parquet", "/data/out", IN_OUTPUT),
        ("/data/out.bad_rows", "/data/out", IN_OUTPUT + "|" + SAME),
        ("a.b_bad_rows", "a.b", SAME),
    ],
)
def test_places_that_are_not_apart(source, target, told):
    with pytest.raises(InvalidArgumentError, match=told):
        refuse_overlap(InferenceJob(input=source, output=target, on_bad_rows="quarantine"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("/data/in", "/data/in2"),
        ("/data/in2", "/data/in"),
        ("s3://bucket/in", "s3://other/in"),
        ("s3://bucket/in", "gs://bucket/in"),
        ("a.b", "a.c"),
        ("x.a.b", "y.a.b"),
        ("/data/out.bad_rows", "/data/out"),
    ],
)
def test_places_that_are(source, target):
    refuse_overlap(InferenceJob(input=source, output=target))
