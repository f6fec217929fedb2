"""Files as tables: what is read, in which pieces, and how the output takes its place."""

from __future__ import annotations

import contextlib
import gzip
import io
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.engines.csv_stream import _Stream
from airflow_uc_models.engines.paths import Location, new_file
from airflow_uc_models.engines.tables import _resized, open_table
from airflow_uc_models.exceptions import InputDataError, InvalidArgumentError, TakenOverError


def table_at(path, input_format=None):
    return open_table(Location.parse(str(path)), input_format)


def read(table, columns=None, batch_size=1000):
    return list(table.parts(columns or table.schema.names, batch_size))


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@given(st.lists(st.integers(0, 25), max_size=8), st.integers(1, 12))
def test_batches_are_cut_and_joined_without_loss(sizes, wanted):
    numbers = iter(range(sum(sizes)))
    batches = [pa.record_batch({"x": [next(numbers) for _ in range(size)]}) for size in sizes]
    batches = [b.cast(pa.schema([("x", pa.int64())])) for b in batches]
    resized = list(_resized(iter(batches), wanted))
    assert [x for b in resized for x in b["x"].to_pylist()] == list(range(sum(sizes)))
    assert all(b.num_rows == wanted for b in resized[:-1])
    assert all(0 < b.num_rows <= wanted for b in resized)


@pytest.mark.soak  # takes 4 GB of memory
def test_more_text_than_one_column_holds_is_not_lost():
    gigabyte = pa.record_batch({"text": ["x" * 1_100_000_000]})
    assert sum(batch.num_rows for batch in _resized(iter([gigabyte, gigabyte]), 2)) == 2


def test_parts_say_where_they_are_from(tmp_path):
    path = write(tmp_path / "a.parquet", x=list(range(25)))
    table = table_at(path)
    assert table.rows == 25
    assert [part.where for part in read(table, batch_size=10)] == [
        f"rows 1 to 10 of {path}",
        f"rows 11 to 20 of {path}",
        f"rows 21 to 25 of {path}",
    ]


def test_the_size_of_a_row_is_known_beforehand(tmp_path):
    columns = {"x": [1.5] * 1000, "text": ["a" * 500 + str(i) for i in range(1000)], "same": ["b" * 100] * 1000}
    table = table_at(write(tmp_path / "a.parquet", embedding=[[float(i)] * 768 for i in range(1000)], **columns))
    assert table.row_bytes(["x"]) == 8
    assert 500 < table.row_bytes(["text"]) < 550
    assert table.row_bytes(["x", "same"]) == 8 + 32
    assert table.row_bytes(["embedding"]) == 768 * 8, "repeated numbers are stored once, but read as many"
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    table = table_at(tmp_path / "a.csv").typed({"x": pa.float64()})
    assert table.row_bytes(["x", "y"]) == 8 + 32


def test_only_the_columns_asked_for_in_that_order(tmp_path):
    path = write(tmp_path / "a.parquet", **{"a": [1], "a.b": [2], "c": [3]})
    [part] = read(table_at(path), ["c", "a"])
    assert part.batch.to_pydict() == {"c": [3], "a": [1]}


def test_dictionaries_are_decoded_and_pandas_notes_dropped(tmp_path):
    path = write(tmp_path / "a.parquet", x=pa.array(["a", "b", "a"]).dictionary_encode())
    table = table_at(path)
    assert table.schema == pa.schema([("x", pa.string())])
    assert table.schema.metadata is None
    assert read(table)[0].batch["x"].to_pylist() == ["a", "b", "a"]


def test_views_of_text_are_read_as_text(tmp_path):
    """Arrow cannot pick single rows of them, which putting bad rows aside takes."""
    columns = {"x": pa.array(["a", None], pa.string_view()), "y": pa.array([b"a", None], pa.binary_view())}
    try:
        path = write(tmp_path / "a.parquet", **columns)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"this version of pyarrow writes no views: {error}")
    table = table_at(path)
    assert table.schema == pa.schema([("x", pa.string()), ("y", pa.binary())])
    assert read(table)[0].batch.take([0]).to_pydict() == {"x": ["a"], "y": [b"a"]}


def test_the_last_row_group_is_not_held_with_the_first(tmp_path):
    """One row group of 80 MB is read in pieces of a few MB."""
    path = write(tmp_path / "a.parquet", **{f"x{i}": pa.array(range(i, i + 1_000_000)) for i in range(10)})
    assert pq.ParquetFile(path).num_row_groups == 1
    pool, most = pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    table = table_at(path)
    for _ in table.parts(table.schema.names, 10_000):
        most = max(most, pool.bytes_allocated() - before)
    assert 0 < most < 40_000_000


def test_files_of_a_folder_may_order_their_columns_differently(tmp_path):
    write(tmp_path / "b.parquet", y=["v"], x=[2])
    write(tmp_path / "a.parquet", x=[1], y=["u"])
    (tmp_path / ".hidden.csv").touch()
    assert [p.batch.to_pydict() for p in read(table_at(tmp_path))] == [{"x": [1], "y": ["u"]}, {"x": [2], "y": ["v"]}]


@pytest.mark.parametrize("names", [("a", "b", "c"), ("b", "a", "c"), ("c", "b", "a")])
def test_a_column_without_values_has_the_type_of_other_files(tmp_path, names):
    """pandas writes it so, and text as Arrow's large or small one, by its version."""
    texts = [pa.array(["u"]), pa.array([None]), pa.array(["v"], pa.large_string())]
    for name, text in zip(names, texts, strict=True):
        write(tmp_path / f"{name}.parquet", text=text, x=[1])
    table = table_at(tmp_path)
    parts = read(table)
    assert {part.batch.schema for part in parts} == {table.schema}
    assert sorted(str(part.batch["text"][0]) for part in parts) == ["None", "u", "v"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"x": [1], "y": [b"u"]}, "'y' is string and binary"),
        ({"x": [1.5], "y": ["u"]}, r"b\.parquet have different columns: 'x' is int64 and double\."),
        ({"x": [1]}, "'y' is string and missing"),
        ({"x": [1], "y": ["u"], "z": [0]}, "'z' is missing and int64"),
    ],
)
def test_files_with_different_columns_are_refused(tmp_path, second, message):
    write(tmp_path / "a.parquet", x=[1], y=["u"])
    write(tmp_path / "b.parquet", **second)
    with pytest.raises(InputDataError, match=message):
        table_at(tmp_path)


def test_csv_files_with_different_headers_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x\n1\n")
    with pytest.raises(InputDataError, match="'y' is string and missing"):
        table_at(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.parquet", "b.csv"], r"all of one kind, but there is a\.parquet, b\.csv"),
        (["a.txt"], "input_format"),
        (["a.parquet", "sub/b.parquet"], r"has folders in it \(sub\)"),
        (["a.parquet", "_delta_log/0.json"], "is a Delta table"),
        (["_SUCCESS"], "has no files"),
    ],
)
def test_folders_that_are_no_table(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputDataError, match=message):
        table_at(tmp_path)


def test_the_format_can_be_told(tmp_path):
    (tmp_path / "part-0").write_text("x\n1\n")
    assert read(table_at(tmp_path, "csv"))[0].batch.to_pydict() == {"x": ["1"]}


def test_doubled_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,x\n1,2,3\n")
    with pytest.raises(InputDataError, match=r"a\.csv has more than one column 'x'"):
        table_at(tmp_path / "a.csv")


def test_csv_columns_have_the_types_asked_for_and_are_text_else(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffid,x,d,b,n\n007,1,2024-01-31,true,NA\n008,,2024-01-31 12:00:00,false,\n")
    types = {"x": pa.float64(), "d": pa.timestamp("ns"), "b": pa.bool_(), "n": pa.string(), "l": pa.list_(pa.int64())}
    table = table_at(tmp_path / "a.csv").typed(types)
    batch = read(table)[0].batch
    assert batch.schema == pa.schema([("id", pa.string()), *((n, types[n]) for n in ("x", "d", "b", "n"))])
    assert batch["id"].to_pylist() == ["007", "008"]
    assert batch["x"].to_pylist() == [1, None]
    assert batch["n"].to_pylist() == ["NA", ""], "text is taken as it stands"
    assert [str(d) for d in batch["d"].to_pylist()] == ["2024-01-31 00:00:00", "2024-01-31 12:00:00"]


def test_csv_types_are_guessed_once_for_all_files(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,a\n")
    (tmp_path / "b.csv").write_text("y,x\nb,oops\n")
    table = table_at(tmp_path).typed(None)
    assert table.schema == pa.schema([("x", pa.int64()), ("y", pa.string())])
    with pytest.raises(
        InputDataError, match=r"b\.csv cannot be read: In column 'x': Row #2: CSV conversion error to int64$"
    ):
        read(table)


def test_csv_values_with_line_breaks_across_blocks(tmp_path):
    lines = "\n" * 1000
    (tmp_path / "a.csv").write_text("x,y\n" + f'"{lines}",1\n' * 6000)
    parts = read(table_at(tmp_path / "a.csv"))
    assert sum(part.batch.num_rows for part in parts) == 6000
    assert {value for part in parts for value in part.batch["x"].to_pylist()} == {lines}


def test_ragged_and_binary_csv(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3\n")
    with pytest.raises(InputDataError, match=r"a\.csv cannot be read: CSV parse error: Row #3: Expected 2 columns"):
        read(table_at(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_bytes(b"x\n\xff\xfe\n")
    with pytest.raises(InputDataError, match=r"b\.csv cannot be read: In column 'x': .*UTF8"):
        read(table_at(tmp_path / "b.csv"))


def test_compressed_csv_and_one_that_is_not(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x\n1\n"))
    assert read(table_at(tmp_path / "a.csv.gz"))[0].batch.to_pydict() == {"x": ["1"]}
    (tmp_path / "b.csv.gz").write_bytes(b"x\n1\n")
    with pytest.raises(InputDataError, match=r"b\.csv\.gz cannot be read: zlib"):
        table_at(tmp_path / "b.csv.gz")


def test_a_truncated_parquet_file(tmp_path):
    path = write(tmp_path / "a.parquet", x=list(range(1000)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputDataError, match=r"a\.parquet cannot be read"):
        table_at(path)


# -- the output


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "out.parquet"
    target.write_text("old")
    with new_file(Location.parse(str(target)), "key") as file:
        file.write(b"new")
        assert target.read_text() == "old"
        assert len(names(tmp_path)) == 2
    assert target.read_text() == "new"
    assert names(tmp_path) == ["out.parquet"]


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "out.parquet"
    target.write_text("old")
    with pytest.raises(TypeError), new_file(Location.parse(str(target)), "key") as file:
        file.write("no bytes")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.parquet"]


KILLED = """
    import os, signal, sys
    from airflow_uc_models.engines.paths import Location, new_file
    with new_file(Location.parse(sys.argv[1]), sys.argv[2]) as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_try_left_is_removed_by_the_next(tmp_path):
    target = Location.parse(str(tmp_path / "out.parquet"))
    for key in ("this-task", "other-task"):
        subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), target.path, key], check=False)
    assert len(names(tmp_path)) == 2
    with new_file(target, "this-task") as file:
        file.write(b"whole")
    assert (tmp_path / "out.parquet").read_text() == "whole"
    left = names(tmp_path)
    assert len(left) == 2
    assert left[0].startswith(".out.parquet.other-task-"), "another task's file is not ours to remove"


def test_a_try_that_is_still_alive_cannot_spoil_the_next(tmp_path):
    target = Location.parse(str(tmp_path / "out.parquet"))
    with contextlib.ExitStack() as alive:
        alive.enter_context(new_file(target, "key")).write(b"first")
        with new_file(target, "key") as second:
            second.write(b"second")
        with pytest.raises(TakenOverError):
            alive.close()
    assert (tmp_path / "out.parquet").read_text() == "second"
    assert names(tmp_path) == ["out.parquet"]


# -- files that cannot be read: told by name, without any value of theirs, and not tried again


ROWS = b"x,name\n1.5,a\n"
DAMAGED = {
    "latin1.csv": "x,größe\n1.5,a\n".encode("latin-1"),
    "value.csv": ROWS + "2.5,Canary-größe\n".encode("latin-1"),
    "zipped.csv": gzip.compress(ROWS),
    "utf16.csv": ROWS.decode().encode("utf-16"),
    "empty.csv": b"",
    "blank.csv": b"\n",
    "ragged.csv": ROWS + b"2.5,Canary,7\n",
    "number.csv": ROWS + b"Canary,b\n",
    "escaped.csv": ROWS + b'2.5,"Canary \\"b\\""\n',
    "doubled.csv": b"x,name,x\n1,2,3\n",
    "cut.csv.gz": gzip.compress(ROWS * 1000)[:60],
    "plain.csv.gz": ROWS,
    "empty.parquet": b"",
    "text.parquet": ROWS * 10,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_told_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(InputDataError) as caught:
        read(table_at(tmp_path / name).typed({"x": pa.float64()}))
    assert str(tmp_path / name) in str(caught.value)
    assert "Canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.permanent


@pytest.mark.parametrize("start", [4, 200])
def test_damaged_pages_are_told_when_they_are_read(tmp_path, start):
    path = write(tmp_path / "a.parquet", x=[float(i) for i in range(1000)])
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(100) + content[start + 100 :])
    with pytest.raises(InputDataError, match=r"a\.parquet cannot be read: "):
        read(table_at(path), batch_size=10)


def test_a_file_that_is_gone_when_it_is_its_turn(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", x=[1])
    parts = table_at(tmp_path).parts(["x"], 10)
    next(parts)
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(InputDataError, match=r"b\.parquet cannot be read: FileNotFoundError"):
        next(parts)


@pytest.mark.parametrize(
    ("error", "is_permanent"),
    [(PermissionError(13, "denied"), True), (ConnectionResetError(104, "reset"), False), (TimeoutError(), False),
     (OSError(5, "Input/output error"), False)],
)  # fmt: skip
def test_faults_of_a_storage_may_pass(tmp_path, monkeypatch, error, is_permanent):
    table = table_at(write(tmp_path / "a.parquet", x=[1]))

    def fail(self, **options):
        raise error

    monkeypatch.setattr(Location, "open_input", fail)
    with pytest.raises(InputDataError if is_permanent else type(error)):
        read(table)


@pytest.mark.parametrize("text", ["x,name", "x,name\n", '"x","name"\r\n', "\ufeffx,name"])
def test_a_header_without_rows_is_a_table(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, newline="")
    table = table_at(tmp_path / "a.csv")
    assert table.schema.names == ["x", "name"]
    assert read(table) == []


def csv_read(tmp_path, content, **options):
    (tmp_path / "a.csv").write_bytes(content)
    table = open_table(Location.parse(str(tmp_path / "a.csv")), csv=CsvOptions(**options))
    [part] = read(table.typed({table.schema.names[0]: pa.float64()}))
    return part.batch.to_pydict()


@pytest.mark.parametrize(
    ("options", "content", "found"),
    [
        ({"delimiter": ";", "decimal": ","}, b"x;y\n1,5;a,b\n", {"x": [1.5], "y": ["a,b"]}),
        ({"quote": "'"}, b"x,y\n1,'a,''b'''\n", {"x": [1], "y": ["a,'b'"]}),
        ({"quote": None}, b'x,y\n1,"a"\n', {"x": [1], "y": ['"a"']}),
        ({"escape": "\\"}, b'x,y\n1,"a \\"b\\"\nc"\n', {"x": [1], "y": ['a "b"\nc']}),
        ({"encoding": "cp1252"}, "x,y\n1,ä€\n".encode("cp1252"), {"x": [1], "y": ["ä€"]}),
        ({"encoding": "utf-16"}, "x,y\n1,ä€".encode("utf-16"), {"x": [1], "y": ["ä€"]}),
        ({"null_values": ["-"]}, b"x,y\n-,-\n1,NA\n", {"x": [None, 1], "y": [None, "NA"]}),
        ({"header": False}, b"1,a\n2,b", {"0": [1, 2], "1": ["a", "b"]}),
    ],
)
def test_csv_as_the_options_say(tmp_path, options, content, found):
    assert csv_read(tmp_path, content, **options) == found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_escapes_are_kept_where_a_read_ends_between_them_and_what_they_stand_before(size):
    content = rb'''"a\"b\\","C:\new\t"\x"'''
    stream = _Stream(io.BytesIO(content), CsvOptions(escape="\\"))
    read = b"".join(iter(lambda: stream.read(size), b""))
    assert read == rb'''"a\"b\\","C:\\new\\t"\\x"''' + b"\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": "||"}, "delimiter must be one ASCII character"),
        ({"delimiter": None}, "delimiter must be one ASCII character"),
        ({"quote": "ä"}, "quote must be one ASCII character"),
        ({"escape": '"'}, "must be different characters"),
        ({"decimal": ","}, "must be different characters"),
        ({"decimal": "x"}, "decimal must be"),
        ({"encoding": "klingon"}, "encoding must be"),
        ({"encoding": "base64"}, "encoding must be"),
        ({"null_values": "NA"}, "null_values must be a list"),
        ({"quote": None, "escape": "\\"}, "quote is None"),
        ({"heading": True}, "'heading'; it knows"),
        ("a;b", "must be CsvOptions or a dict"),
    ],
)
def test_csv_options_that_cannot_be_meant(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        CsvOptions.parse(options)


def test_csv_options_as_templates_leave_them():
    rendered = {"delimiter": ";", "quote": "None", "header": "False", "null_values": ["-"]}
    assert CsvOptions.parse(rendered) == CsvOptions(delimiter=";", quote=None, header=False, null_values=["-"])
    assert CsvOptions.parse(CsvOptions.parse(rendered).to_json()) == CsvOptions.parse(rendered)
    assert CsvOptions.parse(None) == CsvOptions.parse("") == CsvOptions()
