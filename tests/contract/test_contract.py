"""What every registry does, and does alike; what one cannot do is refused before anything is sent to it."""

from __future__ import annotations

import time

import pytest
from support.registries import SOURCE, Subject

from airflow_uc_models.conditions import Failed, Met, NewModelVersion, Waiting
from airflow_uc_models.entities import PENDING_REGISTRATION, READY
from airflow_uc_models.exceptions import (
    AlreadyExistsError,
    InvalidArgumentError,
    InvalidRequestError,
    NotFoundError,
    UCModelsError,
)
from airflow_uc_models.names import ModelRef
from airflow_uc_models.registry import mlflow_rest, unity_catalog_rest
from airflow_uc_models.registry.aliases import delete_alias, move_alias, rollback_alias
from airflow_uc_models.registry.registration import resolve, versions_of
from airflow_uc_models.registry.watch import evaluate

# -- registered models


def test_a_model_lives(tested: Subject) -> None:
    name = tested.name()
    made = tested(lambda r: r.create_registered_model(name, description="first"))
    assert (made.name, made.description, made.aliases, made.tags) == (name, "first", {}, {})
    assert abs(made.created_at / 1000 - time.time()) < 600
    assert tested(lambda r: r.get_registered_model(name)).description == "first"
    assert tested(lambda r: r.update_registered_model(name, description="second")).description == "second"
    assert tested(lambda r: r.get_registered_model(name)).description == "second"
    tested(lambda r: r.delete_registered_model(name))
    with pytest.raises(NotFoundError, match=f"Could not get registered model {name}: the .* answered 404"):
        tested(lambda r: r.get_registered_model(name))


def test_a_model_needs_no_description(tested: Subject) -> None:
    name = tested.model()
    assert tested(lambda r: r.get_registered_model(name)).description is None
    tested(lambda r: r.update_registered_model(name, description="d"))
    assert tested(lambda r: r.update_registered_model(name, description="")).description is None
    assert tested(lambda r: r.get_registered_model(name)).description is None


def test_a_name_is_taken_once(tested: Subject) -> None:
    name, other = tested.model(description="mine"), tested.model()
    with pytest.raises(AlreadyExistsError) as caught:
        tested(lambda r: r.create_registered_model(name, description="yours"))
    assert caught.value.permanent
    with pytest.raises(AlreadyExistsError):
        tested(lambda r: r.rename_registered_model(other, name))
    assert tested(lambda r: r.get_registered_model(name)).description == "mine"


def test_a_renamed_model_keeps_what_it_has(tested: Subject) -> None:
    name, new_name = tested.model(description="d"), tested.name()
    version = tested.version(name)
    if tested.can.tags:
        tested(lambda r: r.set_registered_model_tag(name, "team", "risk"))
    if tested.can.aliases:
        tested(lambda r: r.set_registered_model_alias(name, "Champion", 1))
    renamed = tested(lambda r: r.rename_registered_model(name, new_name))
    assert (renamed.name, renamed.description) == (new_name, "d")
    found = tested(lambda r: r.get_registered_model(new_name))
    assert found.tags == ({"team": "risk"} if tested.can.tags else {})
    assert found.aliases == ({"Champion": 1} if tested.can.aliases else {})
    assert tested.versions(new_name) == [version.version]
    assert tested(lambda r: r.get_model_version(new_name, 1)).name == new_name
    with pytest.raises(NotFoundError):
        tested(lambda r: r.get_registered_model(name))


def test_a_model_moves_between_schemas_or_is_kept_from_it(tested: Subject) -> None:
    name = tested.model()
    elsewhere = f"{name.rpartition('.')[0]}_2.moved"
    if not tested.can.moves_between_schemas:
        assert elsewhere in tested.refuses(lambda r: r.rename_registered_model(name, elsewhere), InvalidArgumentError)
        return
    assert tested(lambda r: r.rename_registered_model(name, elsewhere)).name == elsewhere
    tested(lambda r: r.delete_registered_model(elsewhere))


def test_a_model_with_versions_is_deleted_whole_or_kept_whole(tested: Subject) -> None:
    name = tested.model()
    tested.version(name)
    if tested.declared.deletes_versions is False:
        with pytest.raises(InvalidRequestError, match="1 versions"):
            tested(lambda r: r.delete_registered_model(name))
        assert tested.versions(name) == [1]
    if not tested.declared.deletes_versions:
        tested(lambda r: r.delete_model_version(name, 1))
    tested(lambda r: r.delete_registered_model(name))
    # One of the same name is another model
    tested(lambda r: r.create_registered_model(name))
    assert tested.versions(name) == []
    assert tested.version(name).version == 1


def test_models_of_a_schema_are_listed_to_the_end(tested: Subject, monkeypatch) -> None:
    for dialect in (mlflow_rest, unity_catalog_rest):
        monkeypatch.setattr(dialect, "_MODEL_PAGE", 2)
    monkeypatch.setattr(mlflow_rest, "_CATALOG_PAGE", 2)
    names = {tested.model() for _ in range(5)}
    found = tested(lambda r: r.search_registered_models(schema=tested.schema))
    assert names <= {model.name for model in found}
    assert {model.name.rpartition(".")[0] for model in found} == {tested.schema}
    assert len({model.name for model in found}) == len(found)
    for most in (1, 3):
        some = tested(lambda r, most=most: r.search_registered_models(schema=tested.schema, max_results=most))
        assert len(some) == len({model.name for model in some}) == most


def test_names_differ_by_case_or_are_lowered(tested: Subject) -> None:
    name = tested.name()
    upper = f"{tested.schema}.{name.rpartition('.')[2].upper()}"
    tested.made.append(upper)
    assert tested(lambda r: r.create_registered_model(upper)).name == (name if tested.can.lowercase_names else upper)
    tested.version(upper)
    if tested.can.lowercase_names:
        assert tested(lambda r: r.get_registered_model(name)).name == name
        assert tested.versions(upper) == tested.versions(name) == [1]
        assert tested(lambda r: r.get_model_version(upper, 1)).uri == f"models:/{name}/1"
        with pytest.raises(AlreadyExistsError):
            tested(lambda r: r.create_registered_model(name))
    else:
        with pytest.raises(NotFoundError):
            tested(lambda r: r.get_registered_model(name))
        tested(lambda r: r.create_registered_model(name))
        assert (tested.versions(name), tested.versions(upper)) == ([], [1])


# -- versions


def test_a_version_lives(tested: Subject) -> None:
    name = tested.model()
    made = tested(lambda r: r.create_model_version(name, SOURCE, description="d", run_id=None))
    assert (made.name, made.version, made.source, made.description) == (name, 1, SOURCE, "d")
    assert made.uri == f"models:/{name}/1"
    assert made.status == (PENDING_REGISTRATION if tested.can.uploads else READY)
    assert abs(made.created_at / 1000 - time.time()) < 600
    if tested.can.uploads:
        assert tested(lambda r: r.get_model_version(name, 1)).status == PENDING_REGISTRATION
        if tested.upload:
            tested.upload(tested.hook, made)
        assert tested(lambda r: r.finalize_model_version(name, 1)).status == READY
    else:
        assert "READY at once" in tested.refuses(lambda r: r.finalize_model_version(name, 1))
    found = tested(lambda r: r.get_model_version(name, 1))
    assert (found.status, found.is_ready, found.description, found.source) == (READY, True, "d", SOURCE)
    assert (found.aliases, found.tags) == ([], {})
    assert tested(lambda r: r.update_model_version(name, 1, description="e")).description == "e"
    assert tested(lambda r: r.get_model_version(name, 1)).description == "e"
    location = tested(lambda r: r.get_model_version_download_uri(name, 1))
    assert (location == SOURCE) != tested.can.uploads
    tested(lambda r: r.delete_model_version(name, 1))
    with pytest.raises(NotFoundError, match=f"{name}/1"):
        tested(lambda r: r.get_model_version(name, 1))
    assert tested.versions(name) == []


def test_a_number_is_never_given_again(tested: Subject) -> None:
    name = tested.model()
    assert [tested.version(name).version for _ in range(3)] == [1, 2, 3]
    tested(lambda r: r.delete_model_version(name, 3))
    assert tested.version(name).version == 4
    for number in (1, 2, 4):
        tested(lambda r, number=number: r.delete_model_version(name, number))
    assert tested.versions(name) == []
    assert tested.version(name).version == 5


def test_versions_are_listed_to_the_end(tested: Subject, monkeypatch) -> None:
    for dialect in (mlflow_rest, unity_catalog_rest):
        monkeypatch.setattr(dialect, "_VERSION_PAGE", 2)
    name = tested.model()
    for _ in range(5):
        tested(lambda r: r.create_model_version(name, SOURCE, description="d"))
    tested.sent()
    for most, requests in ((None, 3), (1, 1), (3, 2), (4, 2), (9, 3)):
        where = f"name='{name}'"
        found = tested(lambda r, most=most, where=where: r.search_model_versions(filter_string=where, max_results=most))
        assert len({version.version for version in found}) == len(found) == min(most or 5, 5)
        assert {version.version for version in found} <= {1, 2, 3, 4, 5}
        assert {(version.name, version.source, version.description) for version in found} == {(name, SOURCE, "d")}
        # Pages may be empty, too
        assert tested.take is None or len(tested.sent()) >= requests
    newest_first = tested(lambda r: versions_of(r, name))
    assert [version.version for version in newest_first] == [5, 4, 3, 2, 1]
    assert [version.version for version in tested(lambda r: versions_of(r, name, after=3))] == [5, 4]


def test_versions_are_ordered_by_us_or_by_the_registry(tested: Subject) -> None:
    name = tested.model()
    for _ in range(2):
        tested(lambda r: r.create_model_version(name, SOURCE))

    def ordered(r):
        return r.search_model_versions(filter_string=f"name='{name}'", order_by=["version_number DESC"])

    if tested.can.version_order:
        assert [version.version for version in tested(ordered)] == [2, 1]
    else:
        assert "order_by" in tested.refuses(ordered)


# -- what is missing


def test_what_is_missing_is_not_found(tested: Subject) -> None:
    name, present = tested.name(), tested.model()
    calls = {
        "get": lambda r: r.get_registered_model(name),
        "update": lambda r: r.update_registered_model(name, description="d"),
        "rename": lambda r: r.rename_registered_model(name, f"{name}_2"),
        "delete": lambda r: r.delete_registered_model(name),
        "create version": lambda r: r.create_model_version(name, SOURCE),
        "get version": lambda r: r.get_model_version(name, 1),
        "get version of a model": lambda r: r.get_model_version(present, 1),
        "files of a version": lambda r: r.get_model_version_download_uri(present, 1),
        "update version": lambda r: r.update_model_version(present, 1, description="d"),
        "delete version": lambda r: r.delete_model_version(present, 1),
    }
    if tested.can.uploads:
        calls["finalize"] = lambda r: r.finalize_model_version(present, 1)
    if tested.can.aliases:
        calls["alias"] = lambda r: r.set_registered_model_alias(present, "Champion", 1)
        calls["alias of nothing"] = lambda r: r.set_registered_model_alias(name, "Champion", 1)
        calls["deletion of an alias"] = lambda r: delete_alias(r, present, "Champion")
        calls["version by alias"] = lambda r: resolve(r, ModelRef(present, alias="Champion"))
    if tested.can.tags:
        calls["tag"] = lambda r: r.set_registered_model_tag(name, "k", "v")
        calls["tag of a version"] = lambda r: r.set_model_version_tag(present, 1, "k", "v")
    for what, call in calls.items():
        with pytest.raises(NotFoundError) as caught:
            tested(call)
        assert caught.value.permanent, what
        assert name in str(caught.value) or present in str(caught.value), what


def test_the_versions_of_a_missing_model(tested: Subject) -> None:
    name = tested.name()
    if tested.declared.lists_of_missing:
        assert tested.versions(name) == []
    else:
        with pytest.raises(NotFoundError):
            tested.versions(name)


def test_runs_are_tracked_or_refused(tested: Subject) -> None:
    for call in (lambda r: r.get_run("a" * 32), lambda r: r.get_logged_model("m-" + "a" * 32)):
        if tested.declared.tracks:
            with pytest.raises(NotFoundError):
                tested(call)
        else:
            assert "tracking_conn_id" in tested.refuses(call)


# -- aliases


def test_an_alias_moves_and_goes_with_its_version(tested: Subject) -> None:
    if not tested.can.aliases:
        aliases_are_refused(tested)
        return
    name = tested.model()
    for _ in range(2):
        tested.version(name)
    tested(lambda r: r.set_registered_model_alias(name, "Champion", 1))
    tested(lambda r: r.set_registered_model_alias(name, "champion-2", 2))
    assert tested(lambda r: r.get_registered_model(name)).aliases == {"Champion": 1, "champion-2": 2}
    tested(lambda r: r.set_registered_model_alias(name, "Champion", 2))
    version = tested(lambda r: r.get_model_version_by_alias(name, "Champion"))
    assert (version.version, sorted(version.aliases)) == (2, ["Champion", "champion-2"])
    assert sorted(tested(lambda r: r.get_model_version(name, 2)).aliases) == ["Champion", "champion-2"]
    tested(lambda r: r.delete_registered_model_alias(name, "champion-2"))
    assert tested(lambda r: r.get_registered_model(name)).aliases == {"Champion": 2}
    tested(lambda r: r.delete_model_version(name, 2))
    left = {"Champion": 2} if tested.declared.leaves_aliases else {}
    assert tested(lambda r: r.get_registered_model(name)).aliases == left


def aliases_are_refused(tested: Subject) -> None:
    name = tested.model()
    for call in (
        lambda r: r.set_registered_model_alias(name, "Champion", 1),
        lambda r: r.get_model_version_by_alias(name, "Champion"),
        lambda r: r.delete_registered_model_alias(name, "Champion"),
        lambda r: resolve(r, ModelRef(name, alias="Champion")),
        lambda r: move_alias(r, name, "Champion", 1),
        lambda r: rollback_alias(r, name, "Champion", "key"),
        lambda r: delete_alias(r, name, "Champion"),
        lambda r: evaluate(r, NewModelVersion(name, alias="Champion")),
    ):
        message = tested.refuses(call)
        assert f"{tested.can.label} does not support aliases." in message


def test_a_moved_alias_is_rolled_back(tested: Subject) -> None:
    if not tested.can.aliases:
        aliases_are_refused(tested)
        return
    name = tested.model()
    for version in (1, 2, 3):
        tested.version(name)
        tested(lambda r, version=version: move_alias(r, name, "Champion", version))
    tested(lambda r: r.delete_model_version(name, 2))
    move = tested(lambda r: rollback_alias(r, name, "Champion", "key"))
    assert (move.version, move.previous) == (1, 3)
    assert tested(lambda r: resolve(r, ModelRef(name, alias="Champion"))).version == 1


# -- tags


def test_tags_are_set_and_taken_away(tested: Subject) -> None:
    if not tested.can.tags:
        tags_are_refused(tested)
        return
    name = tested.model(tags={"team": "risk", "stays": "ümläut, two words"})
    tested.version(name, tags={"team": "risk", "stays": "yes"})
    tested(lambda r: r.set_registered_model_tag(name, "team", "fraud"))
    tested(lambda r: r.set_registered_model_tag(name, "empty", ""))
    tested(lambda r: r.set_model_version_tag(name, 1, "team", "fraud"))
    tested(lambda r: r.set_model_version_tag(name, 1, "empty", ""))
    model, version = tested(lambda r: r.get_registered_model(name)), tested(lambda r: r.get_model_version(name, 1))
    assert model.tags == {"team": "fraud", "stays": "ümläut, two words", "empty": ""}
    assert version.tags == {"team": "fraud", "stays": "yes", "empty": ""}
    tested(lambda r: r.delete_registered_model_tag(name, "team"))
    tested(lambda r: r.delete_model_version_tag(name, 1, "team"))
    model, version = tested(lambda r: r.get_registered_model(name)), tested(lambda r: r.get_model_version(name, 1))
    assert model.tags == {"stays": "ümläut, two words", "empty": ""}
    assert version.tags == {"stays": "yes", "empty": ""}


def tags_are_refused(tested: Subject) -> None:
    name = tested.model()
    tested.version(name)
    for call in (
        lambda r: r.create_registered_model(f"{name}_2", tags={"k": "v"}),
        lambda r: r.create_model_version(name, SOURCE, tags={"k": "v"}),
        lambda r: r.set_registered_model_tag(name, "k", "v"),
        lambda r: r.delete_registered_model_tag(name, "k"),
        lambda r: r.set_model_version_tag(name, 1, "k", "v"),
        lambda r: r.delete_model_version_tag(name, 1, "k"),
        lambda r: evaluate(r, NewModelVersion(name, tags={"k": "v"})),
    ):
        message = tested.refuses(call)
        assert f"{tested.can.label} does not support tags." in message


def test_tags_that_break_a_rule_are_never_sent(tested: Subject) -> None:
    if tested.can.tags is None:
        tags_are_refused(tested)
        return
    rules = tested.can.tags
    for key, value in (("", "v"), ("k" * (rules.max_key + 1), "v"), ("a=b", "v"), ("k", "v" * (rules.max_value + 1))):
        for call in (
            lambda r, key=key, value=value: r.create_registered_model("a.b.c", tags={"ok": "v", key: value}),
            lambda r, key=key, value=value: r.create_model_version("a.b.c", SOURCE, tags={"ok": "v", key: value}),
            lambda r, key=key, value=value: r.set_registered_model_tag("a.b.c", key, value),
            lambda r, key=key, value=value: r.set_model_version_tag("a.b.c", 1, key, value),
        ):
            tested.refuses(call, InvalidArgumentError)
    name, key = tested.model(tags={"k" * rules.max_key: "v"}), "k" * rules.max_key
    assert tested(lambda r: r.get_registered_model(name)).tags == {key: "v"}


def test_versions_are_found_by_tag_or_that_is_refused(tested: Subject) -> None:
    name = tested.model()

    def by_tag(r):
        return r.search_model_versions(filter_string=f"name='{name}' and tags.team='risk'")

    if tested.can.tag_search:
        tested.version(name)
        tested.version(name, tags={"team": "risk"})
        assert [version.version for version in tested(by_tag)] == [2]
    else:
        with pytest.raises(UCModelsError) as caught:
            tested(by_tag)
        assert caught.value.permanent


# -- what sensors watch


def test_a_new_version_is_seen_when_it_is_ready(tested: Subject) -> None:
    name = tested.name()

    def look(**options):
        return tested(lambda r: evaluate(r, NewModelVersion(name, **options)))

    assert isinstance(look(missing_ok=True), Waiting)
    missing = look()
    assert isinstance(missing, Failed)
    assert isinstance(missing.error, NotFoundError)
    tested(lambda r: r.create_registered_model(name))
    assert isinstance(look(), Waiting)
    tested.version(name)
    assert seen(look()) == seen(look(after_version=0)) == 1
    assert isinstance(look(after_version=1), Waiting)
    pending = tested(lambda r: r.create_model_version(name, SOURCE))
    if tested.can.uploads:
        assert isinstance(look(after_version=1), Waiting)
        assert seen(look()) == 1
        if tested.upload:
            tested.upload(tested.hook, pending)
        tested(lambda r: r.finalize_model_version(name, 2))
    tested.version(name)
    assert (seen(look(after_version=1)), seen(look(after_version=2)), seen(look())) == (2, 3, 3)
    assert isinstance(look(after_version=3), Waiting)


def test_a_version_is_seen_with_its_tags_and_alias(tested: Subject) -> None:
    if not (tested.can.tags and tested.can.aliases):
        tags_are_refused(tested)
        aliases_are_refused(tested)
        return
    name = tested.model()
    for _ in range(2):
        tested.version(name)
    tagged = NewModelVersion(name, after_version=0, tags={"approved": "yes"})
    aliased = NewModelVersion(name, after_version=0, alias="Champion")
    assert isinstance(tested(lambda r: evaluate(r, tagged)), Waiting)
    assert isinstance(tested(lambda r: evaluate(r, aliased)), Waiting)
    tested(lambda r: r.set_model_version_tag(name, 2, "approved", "yes"))
    tested(lambda r: r.set_registered_model_alias(name, "Champion", 2))
    for condition in (tagged, aliased):
        outcome = tested(lambda r, condition=condition: evaluate(r, condition))
        assert seen(outcome) == 2
        assert (outcome.version.tags, outcome.version.aliases) == ({"approved": "yes"}, ["Champion"])


def seen(outcome) -> int:
    assert isinstance(outcome, Met), outcome
    return outcome.version.version
