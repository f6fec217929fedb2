"""From the text of an answer to an object, or to an error for the person who must act on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.exceptions import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RegistryError,
    UCModelsError,
)
from airflow_uc_models.registry import wire
from airflow_uc_models.registry.answers import error_of, expect_object
from airflow_uc_models.registry.call import Request, Response
from airflow_uc_models.registry.mlflow_rest import UNITY_CATALOG, UNITY_CATALOG_PREFIX, MlflowRestRegistry

REQUEST = Request("GET", "/x", action="get model a.b.c", needs="EXECUTE on a.b.c")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


def error(status: int, body: Any, **headers: str) -> RegistryError:
    text = body if isinstance(body, str) else json.dumps(body)
    return error_of(Response(status, text, headers), REQUEST, "Registry X")


def test_an_object_is_returned() -> None:
    assert expect_object(Response(200, '{"a": 1}'), REQUEST, "x") == {"a": 1}
    assert expect_object(Response(204, " \n"), REQUEST, "x") == {}


@pytest.mark.parametrize("text", ["[]", "3", "null", "<html>", '"x"', "{", '{"a":}'])
def test_anything_else_is_an_error(text) -> None:
    with pytest.raises(InvalidRequestError, match="Could not get model"):
        expect_object(Response(200, text), REQUEST, "x")


def test_an_error_says_what_was_asked_answered_and_missing() -> None:
    told = error(403, {"error_code": "PERMISSION_DENIED", "message": "no"})
    assert type(told) is PermissionDeniedError
    assert str(told) == (
        "Could not get model a.b.c: the Registry X answered 403 PERMISSION_DENIED: no. It needs EXECUTE on a.b.c."
    )
    assert (told.status, told.error_code) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, "You are not authenticated", "Check the login, password or token of the connection."),
        (404, "<html>Not Found</html>", "check host, port and path prefix of the connection."),
        (302, "", "It redirects to /login; put the final address into the connection."),
        (500, "", "answered 500: no text."),
        (429, "slow down!", "answered 429: slow down!"),
        (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "bad name."}, "INVALID_PARAMETER_VALUE: bad name."),
    ],
)
def test_an_error_ends_with_what_to_do(status, body, told) -> None:
    assert str(error(status, body, location="/login")).endswith(told)


def test_a_long_answer_is_cut() -> None:
    assert len(str(error(500, "x" * 100_000))) < 500


@given(st.integers(100, 599), st.text() | json_values.map(json.dumps))
def test_any_answer_becomes_an_object_or_one_of_our_errors(status: int, text: str) -> None:
    response = Response(status, text)
    if 200 <= status < 300 and response.body() is not None:
        assert expect_object(response, REQUEST, "x") == response.body()
        return
    with pytest.raises(RegistryError) as caught:
        expect_object(response, REQUEST, "x")
    assert caught.value.status == status
    assert str(caught.value).startswith("Could not get model a.b.c: the x answered ")
    assert str(caught.value)[-1] in ".!?"


KEYS = (
    "name version aliases tags key value alias status creation_timestamp metrics info data run_id model_id outputs "
    "model_outputs step timestamp next_page_token"
)
known = st.sampled_from(KEYS.split())
bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known, inner, max_size=4),
    max_leaves=10,
)
VERBS = {
    "get_registered_model": (("a.b.c",), "registered_model"),
    "get_model_version": (("a.b.c", 1), "model_version"),
    "get_run": (("r",), "run"),
    "get_logged_model": (("m-1",), "model"),
    "search_registered_models": ((), "registered_models"),
    "get_model_version_download_uri": (("a.b.c", 1), "artifact_uri"),
}


@given(st.sampled_from(sorted(VERBS)), bodies)
def test_any_object_becomes_an_entity_or_one_of_our_errors(verb: str, value: Any) -> None:
    arguments, key = VERBS[verb]
    call = getattr(MlflowRestRegistry(), verb)(*arguments)
    next(call)
    try:
        for _ in range(3):
            call.send(Response(200, json.dumps({key: value})))
    except (StopIteration, UCModelsError):
        pass


def test_numbers_may_come_as_strings_and_fields_may_be_missing() -> None:
    body = {"name": "a.b.c", "version": "7", "creation_timestamp": "1700000000005", "last_updated_timestamp": "soon"}
    version = wire.model_version({"model_version": body})
    read = (version.version, version.created_at, version.updated_at, version.status)
    assert read == (7, 1_700_000_000_005, None, "READY")
    seconds = wire.model_version({"model_version": {**body, "creation_timestamp": 1_700_000_000}})
    assert seconds.created_at is None, "nobody may take seconds for milliseconds"
    model = wire.registered_model(
        {"registered_model": {"name": "a.b.c", "aliases": [{"alias": "x", "version": "3"}], "tags": [{"key": "k"}]}}
    )
    assert (model.aliases, model.tags, model.description) == ({"x": 3}, {"k": ""}, None)


def test_aliases_of_a_version_come_as_words_or_objects() -> None:
    for aliases in (["x"], [{"alias": "x", "version": "7"}]):
        version = wire.model_version({"model_version": {"name": "a.b.c", "version": 7, "aliases": aliases}})
        assert version.aliases == ["x"]


def test_the_newest_value_of_a_metric_counts() -> None:
    metrics = [
        {"key": "a", "value": 1.0, "step": "2", "timestamp": "1"},
        {"key": "a", "value": 2.0, "step": 1, "timestamp": 9},
        {"key": "b", "value": "NaN"},
        {"key": "c", "value": "Infinity"},
        {"key": "d", "value": 1, "step": 0, "timestamp": 1},
        {"key": "d", "value": 2, "step": 0, "timestamp": 2},
    ]
    run = wire.run({"run": {"info": {"run_uuid": "r"}, "data": {"metrics": metrics}}})
    assert run.run_id == "r"
    assert repr(run.metrics) == repr({"d": 2.0, "a": 1.0, "b": float("nan"), "c": float("inf")}) or (
        run.metrics["a"] == 1.0 and run.metrics["d"] == 2.0 and run.metrics["c"] == float("inf")
    )
    assert run.metrics["b"] != run.metrics["b"]


def test_logged_models_of_a_run_come_in_the_order_of_their_steps() -> None:
    outputs = {"model_outputs": [{"model_id": "m-2", "step": "5"}, {"model_id": "m-1"}]}
    assert wire.run({"run": {"info": {"run_id": "r"}, "outputs": outputs}}).model_ids == ["m-1", "m-2"]


def test_a_model_id_cannot_leave_its_place() -> None:
    request = next(MlflowRestRegistry().get_logged_model("m-1/../../x?y"))
    assert request.path == "/api/2.0/mlflow/logged-models/m-1%2F..%2F..%2Fx%3Fy"


def test_names_are_lower_case_in_unity_catalog_alone() -> None:
    uc, server = MlflowRestRegistry(UNITY_CATALOG_PREFIX, UNITY_CATALOG), MlflowRestRegistry()
    assert (next(uc.get_registered_model("Prod.ML.Fraud")).params or {})["name"] == "prod.ml.fraud"
    assert (next(server.get_registered_model("Prod.ML.Fraud")).params or {})["name"] == "Prod.ML.Fraud"


def test_privileges_are_named_with_their_securables() -> None:
    uc = MlflowRestRegistry(UNITY_CATALOG_PREFIX, UNITY_CATALOG)
    call = uc.create_model_version("prod.ml.fraud", "dbfs:/x")
    next(call)
    with pytest.raises(PermissionDeniedError) as caught:
        call.send(Response(403, '{"error_code": "PERMISSION_DENIED", "message": "no"}'))
    assert str(caught.value).endswith(
        "It needs CREATE MODEL VERSION on prod.ml.fraud and APPLY TAG on prod.ml.fraud for its tags (or its "
        "ownership), "
        "USE SCHEMA on prod.ml and USE CATALOG on prod."
    )


def test_what_cannot_be_repeated_is_marked() -> None:
    registry = MlflowRestRegistry()
    once = {
        "create_registered_model": ("a.b.c",),
        "create_model_version": ("a.b.c", "s3://x"),
        "rename_registered_model": ("a.b.c", "a.b.d"),
    }
    for verb, arguments in once.items():
        assert not next(getattr(registry, verb)(*arguments)).repeatable
    again = {"get_registered_model": ("a.b.c",), "delete_model_version": ("a.b.c", 1)}
    again["set_registered_model_alias"] = ("a.b.c", "x", 1)
    for verb, arguments in again.items():
        assert next(getattr(registry, verb)(*arguments)).repeatable


@pytest.mark.parametrize("verb", ["delete_registered_model", "delete_model_version", "delete_registered_model_alias"])
def test_missing_on_a_repeated_deletion_is_the_work_of_the_first(verb) -> None:
    arguments = {"delete_registered_model": (), "delete_model_version": (1,)}.get(verb, ("x",))
    gone = '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}'
    call = getattr(MlflowRestRegistry(), verb)("a.b.c", *arguments)
    next(call)
    with pytest.raises(StopIteration):
        call.send(Response(404, gone, repeated=True))
    call = getattr(MlflowRestRegistry(), verb)("a.b.c", *arguments)
    next(call)
    with pytest.raises(NotFoundError):
        call.send(Response(404, gone))
    call = getattr(MlflowRestRegistry(), verb)("a.b.c", *arguments)
    next(call)
    with pytest.raises(InvalidRequestError):
        call.send(Response(404, "<html>", repeated=True))
