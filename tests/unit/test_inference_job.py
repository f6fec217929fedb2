"""What a job of batch inference may ask of an engine; the rest is refused before any call."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_uc_models.engines import engine_of
from airflow_uc_models.engines.job import EngineCapabilities, InferenceJob, is_table
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.operators import BatchInferenceOperator

ABLE = EngineCapabilities(
    name="able",
    paths=True,
    tables=True,
    formats=("parquet", "csv"),
    partition_by=True,
    batch_size=True,
    env_managers=("local", "uv", "virtualenv"),
    options=("workers",),
)
BARE = EngineCapabilities(name="bare", modes=("overwrite",), quarantine=False)
FILES = {"input": "in.parquet", "output": "out.parquet"}
TABLES = {"input": "main.raw.rows", "output": "main.scored.rows"}


@pytest.mark.parametrize(
    "text", ["a.b", "a.b.c", "main.ml_team.scored_rows", "main.ml-team.rows", "`my cat`.`my.schema`.rows"]
)
def test_tables(text):
    assert is_table(text)


@pytest.mark.parametrize(
    "text",
    [
        "rows",
        "rows.parquet",
        "a.csv.gz",
        "raw.rows.parquet",
        "/a/a.b",
        "s3://b/a.b",
        "a.b.c.d",
        "./a.b",
        "a..b",
        "a b.c",
    ],
)
def test_no_tables(text):
    assert not is_table(text)


@pytest.mark.parametrize("places", [FILES, TABLES], ids=["files", "tables"])
def test_an_engine_that_can_do_it_all_refuses_nothing(places):
    ABLE.check(
        InferenceJob(
            **places,
            input_format="csv",
            batch_size=1,
            keep_columns=("id",),
            metadata_columns=("model_name", "model_version", "scored_at"),
            mode="append",
            partition_by=("day",),
            on_bad_rows="quarantine",
            env_manager="uv",
            options={"workers": 2},
        )
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"mode": "replace"}, "mode must be 'overwrite' or 'append', not 'replace'"),
        ({"on_bad_rows": "skip"}, "on_bad_rows must be 'fail' or 'quarantine', not 'skip'"),
        ({"env_manager": "conda"}, "env_manager must be 'local' or 'uv' or 'virtualenv', not 'conda'"),
        ({"metadata_columns": ("run",)}, "metadata_columns has run; there are model_name, model_version, scored_at"),
        ({"keep_columns": ("scored_at",), "metadata_columns": ("scored_at",)}, "keep_columns has scored_at, which"),
        ({"keep_columns": ("dag_run_key",)}, "keep_columns has dag_run_key, which"),
        ({"input": "  "}, "input is empty"),
        ({"output": ""}, "output is empty"),
        ({"input_format": "avro"}, "input_format must be parquet or csv, not 'avro'"),
        ({"options": {"worker": 2}}, "engine_options has 'worker'; it knows workers"),
    ],
)
def test_what_no_engine_can_do(changes, said):
    with pytest.raises(InvalidArgumentError, match="The engine 'able' cannot do this") as refused:
        ABLE.check(InferenceJob(**{**FILES, **changes}))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (FILES, "input in.parquet is a path; it takes tables (catalog.schema.table)"),
        (TABLES, "output main.scored.rows is a table; it takes paths"),
        ({"mode": "append"}, "mode must be overwrite, not 'append'"),
        ({"partition_by": ("day",)}, "partition_by is not among what it can do"),
        ({"on_bad_rows": "quarantine"}, "it has no on_bad_rows='quarantine'"),
        ({"batch_size": 5}, "it chooses its batch_size itself"),
        ({"env_manager": "uv"}, "env_manager must be left out, as it is not its choice, not 'uv'"),
        ({"input_format": "csv"}, "input_format must be none, as it reads tables, not 'csv'"),
        ({"options": {"workers": 2}}, "engine_options has 'workers'; it knows none"),
    ],
)
def test_what_an_engine_cannot_do_is_said_all_at_once(changes, said):
    with pytest.raises(InvalidArgumentError) as refused:
        BARE.check(InferenceJob(**{**TABLES, **changes}))
    assert said in str(refused.value)
    assert "input" in str(refused.value)


@pytest.mark.parametrize(
    ("output", "bad_rows"),
    [
        ("/data/out.parquet", "/data/out.bad_rows.parquet"),
        ("/data/out/", "/data/out.bad_rows"),
        ("s3://conn@bucket/out", "s3://conn@bucket/out.bad_rows"),
        ("main.scored.rows", "main.scored.rows_bad_rows"),
        ("main.scored.`my rows`", "main.scored.`my rows_bad_rows`"),
    ],
)
def test_bad_rows_go_beside_the_output(output, bad_rows):
    assert InferenceJob(input="in", output=output).bad_rows_output == bad_rows


def test_an_unknown_engine():
    with pytest.raises(InvalidArgumentError, match="There is no engine 'ray' for batch inference; there is local"):
        engine_of("ray")


def job_of(**arguments):
    operator = BatchInferenceOperator(task_id="score", model_uri="models:/a.b.c/1", **FILES, **arguments)
    operator.task_key = lambda context, source: f"key of {source}"
    return operator._job({}, None)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (True, ("model_name", "model_version", "scored_at")),
        ("True", ("model_name", "model_version", "scored_at")),
        (False, ()),
        (None, ()),
        ("", ()),
        (["model_version"], ("model_version",)),
    ],
)
def test_metadata_columns_as_templates_render_them(given, read):
    assert job_of(metadata_columns=given).metadata_columns == read


def test_a_key_is_that_of_one_task_of_one_run_and_one_output():
    def key(output="out.parquet", **changes):
        of_task = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1, **changes}
        operator = BatchInferenceOperator(task_id="t", model_uri="models:/a.b.c/1", input="in.parquet", output=output)
        return operator._job({"ti": SimpleNamespace(**of_task)}, None).key

    assert key(try_number=2) == key()
    others = [
        key("out2.parquet"),
        key(dag_id="e"),
        key(run_id="s"),
        key(task_id="u"),
        key(map_index=0),
        key(map_index=1),
    ]
    assert len({key(), *others}) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"metadata_columns": "model_version"}, "metadata_columns must be True, False or a list of names"),
        ({"keep_columns": "id"}, "keep_columns must be a list of column names, not 'id'"),
        ({"partition_by": "day"}, "partition_by must be a list of column names, not 'day'"),
        ({"partition_by": [1]}, r"partition_by must be a list of column names, not \[1\]"),
        ({"batch_size": "many"}, "batch_size must be a whole number, not 'many'"),
        ({"batch_size": 2.5}, r"batch_size must be a whole number, not 2\.5"),
        ({"batch_size": True}, "batch_size must be a whole number, not True"),
        ({"engine_options": "workers=2"}, "engine_options must be a dict, not 'workers=2'"),
    ],
)
def test_arguments_of_a_wrong_type(arguments, said):
    with pytest.raises(InvalidArgumentError, match=said):
        job_of(**arguments)


def test_what_a_template_leaves_is_nothing():
    job = job_of(env_manager="None", batch_size="", input_format="None", keep_columns=None, engine_options=None)
    assert (job.env_manager, job.batch_size, job.input_format, job.keep_columns) == (None, None, None, None)
    assert job.options == {}
    assert job.key == "key of out.parquet"
