"""A CSV file has the same values on the engines ``local`` and ``spark``, or both refuse it."""

from __future__ import annotations

import bz2
import gzip
import math
from types import SimpleNamespace

import pytest
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines import InferenceJob
from airflow_uc_models.engines.local_plan import plan_of
from airflow_uc_models.engines.paths import Location
from airflow_uc_models.engines.spark import SparkEngine
from airflow_uc_models.engines.spark_csv import charsets
from airflow_uc_models.engines.spark_errors import explained
from airflow_uc_models.engines.spark_plan import Params, Plan, open_input
from airflow_uc_models.engines.tables import open_table
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import InputDataError, InvalidArgumentError, ModelContentError

REFUSED = "refused"
REFUSALS = (InputDataError, InvalidArgumentError, ModelContentError)
VERSION = ModelVersion("a.b.c", 1)


class Reading:
    """What both engines would give a model of one CSV file, in a session whose clocks are not those of UTC."""

    def __init__(self, spark, folder):
        self.spark = spark
        self.folder = folder

    def job(self, content, options, name, **changes):
        (self.folder / name).write_bytes(content)
        place, output = str(self.folder / name), str(self.folder / "out.parquet")
        return InferenceJob(input=place, output=output, csv=CsvOptions(**options), keep_columns=(), **changes)

    def by_local(self, job, schema):
        """Rows, and for each why it is bad if bad rows are put aside."""
        signature = {"inputs": schema.to_json(), "outputs": Schema([ColSpec("string")]).to_json()}
        plan = plan_of(job, open_table(Location.parse(job.input), None, job.csv), {"signature": signature}, VERSION)
        found = {}
        for taken in plan.taken():
            start = taken.part.first_row
            found |= {start + taken.number(i): row for i, row in enumerate(taken.rows.to_pylist())}
            found |= {start + index: None for index, _ in taken.bad}
        return [found[row] for row in sorted(found)]

    def by_spark(self, job, schema):
        signature = ModelSignature(schema, Schema([ColSpec("string")]))
        Model(signature=signature).save(str(self.folder / "MLmodel"))
        csv = job.csv.to_json()
        params = Params(
            input=job.input, output=job.output, key="k", model_name="m", model_version=1, scored_at="", csv=csv,
            model_path=str(self.folder), keep_columns=[],
        )  # fmt: skip
        with explained(job, "m"), charsets(self.spark, csv):
            plan = Plan.of(params, open_input(self.spark, job.input, None, csv))
            values = (value.alias(name) for name, value in plan.values.items())
            rows = plan.source.frame.select(*values, plan.reason.alias("reason")).toArrow().to_pylist()
        bad = [row.pop("reason") for row in rows]
        if any(bad) and not job.quarantines:
            raise InputDataError(next(filter(None, bad)))
        return [None if reason else row for row, reason in zip(rows, bad, strict=True)]

    def __call__(self, content, schema, options=None, name="in.csv", **changes):
        job = self.job(content, options or {}, name, **changes)
        found = []
        for engine in (self.by_local, self.by_spark):
            try:
                found.append(engine(job, schema))
            except REFUSALS:
                found.append(REFUSED)
        return found


@pytest.fixture
def reading(spark, tmp_path):
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "Europe/Berlin")
    yield Reading(spark, tmp_path)
    spark.conf.set("spark.sql.session.timeZone", before)


def schema(**kinds):
    return Schema([ColSpec(kind, name) for name, kind in kinds.items()])


TEXT = schema(s="string", x="double")
# What stands before the data, by what the case is about; and what the model gets of s.
WITH_TEXT = {
    "quoted delimiter": ('"a,b"', "a,b"),
    "quoted line ends": ('"a\nb\r\nc\rd"', "a\nb\r\nc\rd"),
    "doubled quotes": ('"a ""b"" """', 'a "b" "'),
    "only a quote": '""""',
    "quote within": ('a"b', 'a"b'),
    "quote after a space": ' "a"',
    "backslash": ('"a\\b"', "a\\b"),
    "backslash at the end": ('"a\\"', "a\\"),
    "backslash and quotes": ('"a \\"b\\" c"', REFUSED),
    "no end of a quote": ('"a', REFUSED),
    "empty": ("", ""),
    "empty in quotes": ('""', ""),
    "what looks like none": ("NA", "NA"),
    "spaces": (" a ", " a "),
    "leading zeros": ("007", "007"),
    "other ends of lines": ("a\u2028b\x0bc\x85d", "a\u2028b\x0bc\x85d"),
    "nul": ("a\0b", "a\0b"),
    "emoji": ("\U0001f600", "\U0001f600"),
    "comment": ("#a", "#a"),
}


def test_text(reading):
    for case, row in WITH_TEXT.items():
        text, wanted = row if isinstance(row, tuple) else (row, None)
        local, spark = reading(f"s,x\n{text},1\n".encode(), TEXT)
        assert local == spark, case
        if wanted is not None:
            assert local == (REFUSED if wanted == REFUSED else [{"s": wanted, "x": 1.0}]), case


A = [{"s": "a", "x": 1.0}]
AB = [*A, {"s": "b", "x": 2.0}]
FILES = {
    "byte order mark": (b"\xef\xbb\xbfs,x\na,1\n", {}, A),
    "CRLF": (b"s,x\r\na,1\r\nb,2\r\n", {}, AB),
    "CR": (b"s,x\ra,1\rb,2\r", {}, AB),
    "no last end": (b"s,x\na,1\nb,2", {}, AB),
    "blank lines": (b"\ns,x\n\na,1\n\n\nb,2\n\n", {}, AB),
    "line of spaces": (b"s,x\na,1\n  \nb,2\n", {}, REFUSED),
    "header only": (b"s,x\n", {}, []),
    "header without an end": (b"s,x", {}, []),
    "nothing": (b"", {}, REFUSED),
    "a line end": (b"\n", {}, REFUSED),
    "short row": (b"s,x\na\n", {}, REFUSED),
    "long row": (b"s,x\na,1,2\n", {}, REFUSED),
    "long row without a value": (b"s,x\na,1,\n", {}, REFUSED),
    "a name twice": (b"s,x,s\na,1,b\n", {}, REFUSED),
    "an unused name twice": (b"s,y,y,x\na,1,b,2\n", {}, REFUSED),
    "spaces in the header": (b"s , x\na,1\n", {}, REFUSED),
    "quotes in the header": (b'"s","x"\na,1\n', {}, A),
    "another order": (b"x,y,s\n1,9,a\n", {}, A),
    "tabs": (b"s\tx\na\t1\n", {"delimiter": "\t"}, A),
    "comma for decimals": (b"s;x\na;1,0\nb;2\n", {"delimiter": ";", "decimal": ","}, AB),
    "point beside a comma for decimals": (b"s;x\na;1.5\n", {"delimiter": ";", "decimal": ","}, REFUSED),
    "other quotes": (b"s,x\n'a,''b',1\n", {"quote": "'"}, [{"s": "a,'b", "x": 1.0}]),
    "no quotes": (b's,x\n"a",1\n', {"quote": None}, [{"s": '"a"', "x": 1.0}]),
    "escapes": (b's,x\n"\\"\\\\n\\n",1\n', {"escape": "\\"}, [{"s": '"\\n\\n', "x": 1.0}]),
    "escapes without quotes": (b"s,x\na\\b,1\n", {"escape": "\\"}, [{"s": "a\\b", "x": 1.0}]),
    "escaped delimiter": (b"s,x\na\\,b,1\n", {"escape": "\\"}, REFUSED),
    "own nulls": (
        b's,x\n-,-\n"-",1\nNA,1\n', {"null_values": ["-"]},
        [{"s": None, "x": None}, {"s": None, "x": 1.0}, {"s": "NA", "x": 1.0}],
    ),
    "NA is no number with own nulls": (b"s,x\na,NA\n", {"null_values": ["-"]}, REFUSED),
    "utf-16": ("s,x\né,1\n".encode("utf-16"), {"encoding": "utf-16"}, [{"s": "é", "x": 1.0}]),
    "utf-16-le": ("s,x\né,1\n".encode("utf-16-le"), {"encoding": "utf-16-le"}, [{"s": "é", "x": 1.0}]),
    "latin-1": ("s,x\né,1\n".encode("latin-1"), {"encoding": "latin-1"}, [{"s": "é", "x": 1.0}]),
    "cp1252": ("s,x\n€,1\n".encode("cp1252"), {"encoding": "cp1252"}, [{"s": "€", "x": 1.0}]),
    "shift_jis": ("s,x\n日本,1\n".encode("shift_jis"), {"encoding": "shift_jis"}, [{"s": "日本", "x": 1.0}]),
    "not UTF-8": ("s,x\né,1\n".encode("latin-1"), {}, REFUSED),
    "a header that is not": ("s,x,é\na,1,b\n".encode("latin-1"), {}, REFUSED),
    "not ASCII": ("s,x\né,1\n".encode(), {"encoding": "ascii"}, REFUSED),
    "not utf-16": (b"s,x\na,1\n", {"encoding": "utf-16"}, REFUSED),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files(reading, case):
    content, options, wanted = FILES[case]
    assert reading(content, TEXT, options) == [wanted, wanted]


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.csv.gz", gzip.compress(b"s,x\na,1\n"), A),
        ("b.csv.gz", b"s,x\na,1\n", REFUSED),
        ("c.csv.gz", gzip.compress(b"s,x\na,1\n" * 1000)[:50], REFUSED),
        ("d.csv.bz2", bz2.compress(b"s,x\na,1\n"), A),
    ],
)
def test_compressed_files(reading, name, content, wanted):
    assert reading(content, TEXT, name=name) == [wanted, wanted]


def test_columns_without_a_header_or_with_odd_names(reading):
    assert (
        reading(b"a,1\n", schema(**{"0": "string", "1": "double"}), {"header": False}) == [[{"0": "a", "1": 1.0}]] * 2
    )
    names = ["s.t", "s`t", "a,b", 'q"q', "_corrupt_record"]
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    odd = schema(**dict.fromkeys(names, "long"))
    assert reading(f"{header}\n1,2,3,4,5\n".encode(), odd) == [[dict(zip(names, range(1, 6), strict=True))]] * 2


# By type: what both take, and what neither does.
SPELLINGS = {
    "long": (
        ["1", "-1", "007", "0x1F", " 5", "5 ", "9223372036854775807", "-9223372036854775808"],
        ["+1", "1.0", "1e3", "1_000", "1,000", "9223372036854775808", "12L", "1 2", "", "NA", "\u0661"],
    ),
    "integer": (["2147483647"], ["2147483648", "2.5"]),
    "double": (
        ["1", "-1.5", ".5", "5.", "1e5", "1E+05", "nan", "NaN", "inf", "-inf", "Infinity", "-Infinity", "1e400",
         "1e-400", "9007199254740993", "0.1", "", "NA", "null", " 1", "+1.5"],
        ["1d", "1f", "0x1p3", "1_0", "--1", "1 2", "1e", "\u0661", "1,5"],
    ),
    "float": (["16777217", "0.1", "3.4028235e38", "inf"], ["1f", "x"]),
    "boolean": (
        ["1", "0", "true", "True", "TRUE", "false", "False", "FALSE", ""],
        ["tRuE", "t", "yes", "n", "on", " true", "2", "1.0"],
    ),
    "datetime": (
        ["2024-01-31", "2024-01-31 12:00:00", "2024-01-31T12:00:00", "2024-01-31 12:00", "2024-01-31T12:00:00.5",
         "2024-01-31 12:00:00.123456", "1700-01-01", "1969-12-31 23:59:59.999", "2021-03-28 02:30:00", "2262-04-11", "",
         "2024-01-31T12:00:00Z", "2024-01-31 12:00:00+02:00", "2024-01-31T12:00:00.5-0330", "2024-01-31T12:00:00+02",
         "2021-03-28 02:30:00Z", "2021-10-31 01:30:00+01:00"],
        ["2024-1-31", "2024-01-31 12:00:00 UTC", "2024-01-31 12:00:00 Europe/Berlin", "31/01/2024", "20240131",
         "2024-02-30", "2024-01-31T24:00:00", "2024-01-31T23:59:60", "1500-01-01", "9999-12-31", "2024", "now",
         "12:00:00", " 2024-01-31", "2262-04-12"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPELLINGS)
def test_spellings(reading, kind):
    good, bad = SPELLINGS[kind]
    lines = "".join(f'"{text}",{i}\n' for i, text in enumerate([*good, *bad]))
    local, spark = reading(f"x,i\n{lines}".encode(), schema(x=kind, i="long"), on_bad_rows="quarantine")
    for number, text in enumerate([*good, *bad]):
        one, other = local[number], spark[number]
        assert one == other or (one and other and math.isnan(one["x"]) and math.isnan(other["x"])), text
        assert (one is None) is (number >= len(good)), text
    without, _ = reading(f"x,i\n{lines}".encode().partition(f'"{bad[0]}",'.encode())[0], schema(x=kind, i="long"))
    assert [str(row) for row in without] == [str(row) for row in local[: len(good)]], "without quarantine, too"


def test_times_with_a_zone_are_instants_in_utc(reading):
    rows = b"x\n2024-01-31 12:00:00+02:00\n2024-01-31 12:00:00\n2024-07-01T12:00:00-0330\n2024-07-01T12:00:00Z\n"
    for found in reading(rows, schema(x="datetime")):
        times = [str(row["x"]).removesuffix("+00:00") for row in found]
        wanted = ["2024-01-31 10:00:00", "2024-01-31 12:00:00", "2024-07-01 15:30:00", "2024-07-01 12:00:00"]
        assert times == wanted


def test_what_only_one_engine_reads_is_as_the_guide_says(reading):
    """Spark refuses what it would read otherwise than the engine local; but not malformed quotes."""
    cases = {
        b"s,x\na,1\r\nb,2\rc,3\n": TEXT,
        b"s,S,x\na,b,1\n": TEXT,
        b"s,,x\na,b,1\n": TEXT,
        b"d,i\n2024-01-31 12:00:00.123456789,1\n": schema(d="datetime"),
    }
    for content, wanted in cases.items():
        local, spark = reading(content, wanted)
        assert local != REFUSED, content
        assert spark == REFUSED, content
    local, spark = reading(b's,x\n"a"b,1\n', TEXT)
    assert (local[0]["s"], spark[0]["s"]) == ("ab", '"a"b')


def test_an_encoding_that_java_does_not_know(spark, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_bytes(b"x\n1\n")
    monkeypatch.setattr(
        "airflow_uc_models.engines.spark.download_version", lambda hook, version, destination: tmp_path / "model"
    )
    (tmp_path / "model").mkdir()
    Model(signature=ModelSignature(schema(x="double")), flavors={"python_function": {}}).save(
        str(tmp_path / "model" / "MLmodel")
    )
    job = InferenceJob(
        input=str(tmp_path / "in.csv"), output=str(tmp_path / "out"), csv=CsvOptions(encoding="mac-turkish")
    )
    with pytest.raises(InputDataError, match=r"does not know the encoding of csv_options.*Convert the file"):
        SparkEngine().start(job, None, SimpleNamespace(uri="models:/a.b.c/1", name="a.b.c", version=1))


def test_bad_rows_are_put_aside_as_the_options_say(reading):
    content = b"s;x\na;1,5\nb;1.5\nc;-\nd;NA\n"
    options = {"delimiter": ";", "decimal": ",", "null_values": ["-"]}
    wanted = [{"s": "a", "x": 1.5}, None, {"s": "c", "x": None}, None]
    assert reading(content, TEXT, options, on_bad_rows="quarantine") == [wanted, wanted]
