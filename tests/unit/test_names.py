"""Names, versions, aliases and URIs: whatever parses formats back, and whatever does not is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_uc_models.exceptions import InvalidNameError
from airflow_uc_models.names import (
    LocalSource,
    LoggedModelSource,
    ModelName,
    ModelRef,
    RunSource,
    parse_alias,
    parse_schema,
    parse_source,
    parse_version,
)

# Text that is near the grammar finds more than text at large.
PARTS = [*"ab.V13/@:-_ \n\t\x00é\u0663\uffff", "models:/", "runs:/", "file:/", "latest", "m-", ".."]
near = st.lists(st.sampled_from(PARTS)).map("".join)
anything = near | st.text()
levels = st.text(
    st.characters(exclude_characters="./:", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=255
)
names = st.builds(ModelName, levels, levels, levels)
aliases = st.from_regex(r"[\w-]{1,255}", fullmatch=True).filter(
    lambda alias: alias.lower() != "latest" and not (alias[0] in "vV" and alias[1:].isdecimal())
)
versions = st.integers(1, 10**18 - 1)


def complaint(parse: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(InvalidNameError) as caught:
        parse(*arguments, **named)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# -- model names


@given(names)
def test_names_come_back(name: ModelName) -> None:
    assert ModelName.parse(str(name)) == name
    assert ModelName.parse(name) is name


@given(anything)
@example("a.b.c")
@example("a.b.c\ud800")
def test_every_text_is_a_name_or_told(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidNameError as error:
        assert str(error).endswith((".", "'prod.ml_team.fraud'."))  # noqa: PT017
    else:
        assert str(name) == text
        str(name).encode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has 1 level(s); it needs three: catalog.schema.model"),
        ("fraud", "has 1 level(s)"),
        ("ml.fraud", "has 2 level(s)"),
        ("a.b.c.d", "has 4 level(s)"),
        (".b.c", "The catalog in model name '.b.c' is empty"),
        ("a..c", "The schema in model name 'a..c' is empty"),
        ("a.b.", "The model in model name 'a.b.' is empty"),
        ("..", "is empty"),
        (f"a.{'b' * 256}.c", "has 256 characters; 255 are allowed"),
        ("a.b c.d", "holds ' '"),
        (" a.b.c", "holds ' '"),
        ("a.b.c\n", r"holds '\n'"),
        ("a.b.c/d", "holds '/'"),
        ("a.b.c:d", "holds ':'"),
        ("a.b.c\x00", "holds"),
        ("a.b.c\x7f", "holds"),
        ("a.b.c\x9f", "holds"),
        ("a.b.c\u2003", "white space"),
        ("a.b.c\u00a0", "white space"),
        ("a.b.c\u3000", "white space"),
        ("a.b.c\ud800", "holds"),
        ("models:/a.b.c", "holds ':'"),
    ],
)
def test_what_no_registry_would_store(text, told) -> None:
    assert told in complaint(ModelName.parse, text)


@pytest.mark.parametrize("value", [None, 3, b"a.b.c", ["a", "b", "c"], 1.5, True])
def test_a_name_is_text(value) -> None:
    assert "A model name is a string like 'prod.ml_team.fraud'" in complaint(ModelName.parse, value)


@pytest.mark.parametrize("text", ["a.b.c", "a-1._b.c@d", "prod.ml_team.käse", "1.2.3", f"a.b.{'c' * 255}", "a.b.{{x}}"])
def test_what_registries_store(text) -> None:
    assert str(ModelName.parse(text)) == text


def test_a_name_has_parts() -> None:
    name = ModelName.parse("Prod.ML.Fraud")
    assert (name.catalog, name.schema, name.model, name.full_schema) == ("Prod", "ML", "Fraud", "Prod.ML")
    assert str(name.lower()) == "prod.ml.fraud"


def test_a_name_is_checked_however_it_is_made() -> None:
    complaint(ModelName, "a.b", "c", "d")
    complaint(ModelName, "a", "", "d")


@given(anything)
def test_every_text_is_a_schema_or_told(text: str) -> None:
    try:
        catalog, schema = parse_schema(text)
    except InvalidNameError:
        return
    assert f"{catalog}.{schema}" == text


@pytest.mark.parametrize("value", ["", "a", "a.b.c", "a.", ".b", "a.b ", None, 3])
def test_what_is_no_schema(value) -> None:
    complaint(parse_schema, value)


# -- versions


@given(versions)
def test_versions_come_back(version: int) -> None:
    assert parse_version(version) == version
    assert parse_version(str(version)) == version
    assert parse_version(f" {version}\n") == version


@given(anything | st.integers() | st.floats() | st.booleans() | st.none() | st.binary())
@example(10**5000)
@example(-(10**5000))
@example(-1)
@example("9" * 5000)
def test_everything_is_a_version_or_told(value: Any) -> None:
    try:
        version = parse_version(value)
    except InvalidNameError:
        return
    assert type(version) is int
    assert 1 <= version < 10**18
    assert str(version) == str(value).strip()


@pytest.mark.parametrize(
    "value",
    [
        "0",
        0,
        "-1",
        -1,
        "1.0",
        1.0,
        "+1",
        "01",
        "1e3",
        "1_000",
        "",
        " ",
        True,
        False,
        None,
        "\u0663",
        "\uff13",
        "²",
        "1" * 19,
        b"1",
    ],
)
def test_what_is_no_version(value) -> None:
    told = complaint(parse_version, value)
    assert "A model version is a whole number from 1" in told
    assert "Stages" not in told


@pytest.mark.parametrize("value", ["latest", "Latest", "Production", "staging", " Archived "])
def test_stages_are_told_as_such(value) -> None:
    assert "Stages and 'latest' are not versions in Unity Catalog: use an alias." in complaint(parse_version, value)


@pytest.mark.parametrize(("value", "version"), [(" 3 ", 3), ("3\n", 3), (7, 7), ("\u20033", 3)])
def test_what_templates_deliver(value, version) -> None:
    assert parse_version(value) == version


# -- aliases


@given(aliases)
def test_aliases_come_back(alias: str) -> None:
    assert parse_alias(alias) == alias


@given(anything)
def test_every_text_is_an_alias_or_told(text: str) -> None:
    try:
        assert parse_alias(text) == text
    except InvalidNameError:
        return
    # the client's own rules, which every MLflow server applies, too
    from mlflow.utils.validation import _validate_model_alias_name, _validate_model_alias_name_reserved

    _validate_model_alias_name(text)
    _validate_model_alias_name_reserved(text)


@pytest.mark.parametrize("value", ["latest", "LATEST", "Latest", "v3", "V3", "v0", "V12", "v\u0663"])
def test_reserved_aliases(value) -> None:
    assert "is reserved" in complaint(parse_alias, value)


@pytest.mark.parametrize("value", ["latest_", "vv3", "v3a", "version3", "3", "champion-2", "_", "-", "x" * 255, "ü"])
def test_free_aliases(value) -> None:
    assert parse_alias(value) == value


@pytest.mark.parametrize("value", ["", " ", "a b", "a.b", "a@b", "a/b", "a\n", "\na", "a\x00", None, 3, True, b"a"])
def test_what_is_no_alias(value) -> None:
    assert "use letters, digits, underscores and dashes" in complaint(parse_alias, value)


def test_a_long_alias() -> None:
    assert "has 256 characters; 255 are allowed" in complaint(parse_alias, "x" * 256)


# -- references


@given(names, versions)
def test_references_by_version_come_back(name: ModelName, version: int) -> None:
    reference = ModelRef(name, version=version)
    assert ModelRef.parse(reference.uri) == reference
    assert ModelRef.of(str(name), version=str(version)) == reference


@given(names, aliases)
@example(ModelName("a", "b", "c@d"), "x")
def test_references_by_alias_come_back(name: ModelName, alias: str) -> None:
    reference = ModelRef(name, alias=alias)
    assert ModelRef.parse(reference.uri) == reference
    assert ModelRef.of(name, alias=alias) == reference


@given(anything | near.map("models:/".__add__))
@example("models:/a.b.c/3@x")
@example("models:/a.b.c@x/3")
def test_every_text_is_a_reference_or_told(text: str) -> None:
    try:
        reference = ModelRef.parse(text)
    except InvalidNameError:
        return
    assert reference.uri == text or reference.uri == text.rstrip() or "".join(text.split()) == reference.uri


@given(names, versions, aliases)
def test_mlflow_reads_our_uris_alike(name: ModelName, version: int, alias: str) -> None:
    from mlflow.store.artifact.utils.models import _parse_model_uri

    # urlparse, with which MLflow reads URIs, knows these as its own
    assume(not set("?;[]") & set(str(name)))
    theirs = _parse_model_uri(ModelRef(name, version=version).uri)
    assert (theirs.name, theirs.version, theirs.alias) == (str(name), str(version), None)
    theirs = _parse_model_uri(ModelRef(name, alias=alias).uri)
    assert (theirs.name, theirs.version, theirs.alias) == (str(name), None, alias)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("models:/a.b.c/Production", "Stages and 'latest' are not versions"),
        ("models:/a.b.c/latest", "use an alias"),
        ("models:/a.b.c", "names no version: write models:/a.b.c/<version> or models:/a.b.c@<alias>"),
        ("models:/", "names no version: write models:/catalog.schema.model/<version>"),
        ("models:/a.b.c/", "not ''"),
        ("models:/a.b.c@", "Alias '' is not allowed"),
        ("models:/a.b.c@latest", "is reserved"),
        ("models:/a.b.c@v3", "is reserved"),
        ("models:/a.b.c@x@y", "holds"),
        ("models:/a.b.c/3/4", "not '3/4'"),
        ("models:/a.b.c/3@x", "not '3@x'"),
        ("models:/fraud/3", "has 1 level(s)"),
        ("models://host/a.b.c/3", "name the registry with registry_conn_id"),
        ("models:///a.b.c/3", "registry"),
        ("runs:/a/b", "is not a models:/ URI"),
        ("a.b.c/3", "is not a models:/ URI"),
        ("", "is not a models:/ URI"),
        (None, "is not a models:/ URI"),
        (3, "is not a models:/ URI"),
        ("models:/m-0123abc", "names no version"),
    ],
)
def test_what_is_no_reference(uri, told) -> None:
    if uri == "models:/a.b.c@x@y":
        assert ModelRef.parse(uri) == ModelRef(ModelName("a", "b", "c@x"), alias="y")
    else:
        assert told in complaint(ModelRef.parse, uri)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"version": 3, "alias": "x"}, "give either version or alias, not both."),
        ({}, "Name one version of a.b.c: give either version or alias."),
        ({"version": "", "alias": ""}, "give either version or alias."),
        ({"version": 0}, "whole number from 1"),
        ({"version": False}, "whole number from 1"),
        ({"alias": " "}, "Alias ' ' is not allowed"),
    ],
)
def test_a_reference_names_one_version(given_, told) -> None:
    assert told in complaint(ModelRef.of, "a.b.c", **given_)


def test_unset_templates_count_as_not_given() -> None:
    assert ModelRef.of("a.b.c", version="", alias="x") == ModelRef.of("a.b.c", alias="x")
    assert ModelRef.of("a.b.c", version="3", alias="") == ModelRef.of("a.b.c", version=3)


def test_a_reference_is_checked_however_it_is_made() -> None:
    name = ModelName("a", "b", "c")
    complaint(ModelRef, name)
    complaint(ModelRef, name, 1, "x")
    complaint(ModelRef, name, 0)
    complaint(ModelRef, name, None, "latest")


def test_a_reference_reads_well() -> None:
    assert str(ModelRef.of("a.b.c", version=3)) == "a.b.c/3"
    assert str(ModelRef.of("a.b.c", alias="x")) == "a.b.c@x"


# -- sources


@given(anything | near.map("runs:/".__add__) | near.map("models:/".__add__) | near.map("file:/".__add__))
@example("//[::1")
@example("http://[::1")
@example("~nobody-of-that-name/x")
@example("file://~nobody-of-that-name/x")
@example("./a:/b")
@example("./~x")
@example("./ ")
@example("file:/%00")
@example("runs:/r/x\x00")
def test_every_text_is_a_source_or_told(text: str) -> None:
    try:
        source = parse_source(text)
    except InvalidNameError:
        return
    assert parse_source(source.uri) == source
    if isinstance(source, LocalSource):
        assert "\x00" not in str(source.path)
    else:
        assert ".." not in source.uri.split("/")


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("runs:/abc123/model", RunSource("abc123", "model")),
        ("runs:/abc123/a/b/", RunSource("abc123", "a/b")),
        ("models:/m-0123abcDEF", LoggedModelSource("m-0123abcDEF")),
        ("/data/model", LocalSource(Path("/data/model"))),
        ("model", LocalSource(Path("model"))),
        ("file:///data/my%20model", LocalSource(Path("/data/my model"))),
        ("file:/data/model", LocalSource(Path("/data/model"))),
        ("file://localhost/data/model", LocalSource(Path("/data/model"))),
        ("FILE:///data/model", LocalSource(Path("/data/model"))),
        ("file:///data/a?b#c", LocalSource(Path("/data/a?b#c"))),
        ("~/model", LocalSource(Path.home() / "model")),
    ],
)
def test_sources(uri, source) -> None:
    assert parse_source(uri) == source
    assert parse_source(source.uri) == source


@pytest.mark.parametrize(
    "uri", ["runs:/", "runs:/abc", "runs:/abc/", "runs://abc/model", "runs:/abc/../x", "runs:/a b/x"]
)
def test_what_names_no_model_of_a_run(uri) -> None:
    told = complaint(parse_source, uri)
    assert "is not runs:/<run_id>/<path of the model in the run>" in told or "registry" in told


@pytest.mark.parametrize(
    "uri", ["models:/a.b.c/3", "models:/a.b.c@x", "models:/m-", "models:/m-\u0661", "models:/m-a/b"]
)
def test_what_is_no_logged_model(uri) -> None:
    assert "use CopyModelVersionOperator" in complaint(parse_source, uri)


@pytest.mark.parametrize("uri", ["s3://bucket/model", "dbfs:/x", "http://h/x", "mlflow-artifacts:/x", "c:/model"])
def test_what_kind_of_source_is_unknown(uri) -> None:
    assert "is of an unknown kind; give runs:/<run_id>/<path>, models:/m-<id> or a local folder" in complaint(
        parse_source, uri
    )


@pytest.mark.parametrize("uri", ["file://host/x", "file://x", "file://"])
def test_folders_of_other_hosts_are_out_of_reach(uri) -> None:
    assert "another host" in complaint(parse_source, uri)


@pytest.mark.parametrize("uri", ["", " ", "\n", None, 3, Path("x")])
def test_a_source_is_text(uri) -> None:
    assert "model_uri is empty" in complaint(parse_source, uri)
