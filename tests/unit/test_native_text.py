"""Text stays text in Dags that render templates as native objects: every template field of every public class."""

from __future__ import annotations

import datetime as dt
import inspect
import itertools

import pytest
from airflow.sdk import DAG, BaseOperator

from airflow_uc_models import operators, sensors
from airflow_uc_models.compat import AirflowFailException
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.operators.text_fields import TextFieldsMixin
from airflow_uc_models.quantities import as_switch

# Every template field is in one of these, by what it holds.
TEXT = {
    *("registry_conn_id", "model_name", "alias", "description", "model_uri", "tracking_conn_id", "new_name"),
    *("destination", "destination_model_name", "destination_conn_id", "champion_alias", "champion_model_name"),
    *("input_path", "output_path", "engine", "env_manager", "mode", "on_bad_rows", "input_format", "schema"),
    *("filter_string", "status", "subject", "body", "tag", "scope", "consumer"),
}
NUMBERS = {"version", "steps", "to_version", "expected_version", "keep_last", "batch_size", "limit", "after_version"}
NUMBERS |= {"newer_than", "created_after"}
LISTS = {"keys", "partition_by", "keep_columns"}
ONE_OR_MORE = {"value", "failed_value", "follow_if_approved", "follow_if_rejected"}
SWITCHES = {"copy_tags", "metadata_columns"}
TAGS = {"tags"}
OBJECTS = {"policy", "verdict", "engine_options", "csv_options", "asset"}

# What Python reads as something else than text, or as other text.
TEXTS = [
    "42",
    "1.5",
    "1e5",
    "1_000",
    "0x10",
    "007",
    "True",
    "None",
    "[1, 2]",
    "{'a': 1}",
    "'quoted'",
    " 42",
    "2024-01-01",
]
REQUIRED = {"model_name": "c.s.m", "pending": [], "policy": {}, "tags": {"a": "b"}, "keys": ["a"]}


def classes():
    for package in (operators, sensors):
        for name in package.__all__:
            found = getattr(package, name)
            renders_nothing = found.__name__ == "MarkModelVersionsHandledOperator"
            if issubclass(found, BaseOperator) and not renders_nothing:
                yield found


CLASSES = [pytest.param(cls, id=cls.__name__) for cls in classes()]


def task_with(cls, values):
    """A task whose template fields have these values, in a Dag of native objects."""
    required = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and issubclass(base, TextFieldsMixin):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            required |= {k: "x" for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    with DAG("native", schedule=None, render_template_as_native_obj=True):
        task = cls(task_id="t", **{**required, **{k: v for k, v in REQUIRED.items() if k in required}})
    for field, value in values.items():
        setattr(task, field, value)
    return task


def rendered(cls, values, **params):
    """What the fields hold when the work begins."""
    task = task_with(cls, values)
    task.render_template_fields({"params": params})
    task.check_text()
    return {field: getattr(task, field) for field in values}


def of(cls, *kinds):
    fields = set(cls.template_fields) & set().union(*kinds)
    # The one name that means two things.
    if "value" in cls.template_fields and not issubclass(cls, sensors.ModelVersionTagSensor):
        fields = fields - {"value"} | ({"value"} if TEXT in kinds else set())
    return fields


def is_optional(cls, field):
    name = cls.field_parameters.get(field, field)
    owner = next(
        c for c in cls.__mro__ if "__init__" in vars(c) and name in inspect.signature(vars(c)["__init__"]).parameters
    )
    return "None" in str(inspect.signature(vars(owner)["__init__"]).parameters[name].annotation)


def test_every_template_field_is_known_to_these_tests():
    known = [TEXT, NUMBERS, LISTS, ONE_OR_MORE, SWITCHES, TAGS, OBJECTS]
    fields = {field for cls in classes() for field in cls.template_fields}
    assert fields == set().union(*known)
    assert sum(map(len, known)) == len(fields)


@pytest.mark.parametrize("cls", CLASSES)
def test_text_is_what_was_written(cls):
    for text, template in itertools.product(TEXTS, ("{}", "{{{{ params.text }}}}")):
        one, lists, tags = of(cls, TEXT, NUMBERS), of(cls, LISTS), of(cls, TAGS)
        if text[0] not in "[{":  # where lists are taken, too, a text that spells one is one
            one |= of(cls, ONE_OR_MORE)
        given, params = template.format(text), {"text": text}
        found = rendered(cls, dict.fromkeys(one, given) | {field: [given, "a"] for field in lists}, **params)
        assert found == dict.fromkeys(one, text) | {field: [text, "a"] for field in lists}
        assert rendered(cls, {field: {text: given} for field in tags}, **params) == {
            field: {text: text} for field in tags
        }


@pytest.mark.parametrize("cls", CLASSES)
def test_objects_become_text_where_text_is_wanted(cls):
    template, one, lists = "{{ params.value }}", of(cls, TEXT, ONE_OR_MORE), of(cls, LISTS)
    for value in (42, 1.5, True, dt.datetime(2024, 1, 1, tzinfo=dt.UTC)):
        text = str(value)
        for given in (template, value):  # the value itself as from the XCom of another task
            assert rendered(cls, dict.fromkeys(one, given), value=value) == dict.fromkeys(one, text)
        for given, params in ((template, [value, "a"]), ([template, "a"], value), ([value, "a"], None)):
            assert rendered(cls, dict.fromkeys(lists, given), value=params) == {field: [text, "a"] for field in lists}


@pytest.mark.parametrize("cls", CLASSES)
def test_none_and_lists_are_no_text(cls):
    for field in of(cls, TEXT):
        name = cls.field_parameters.get(field, field)
        if is_optional(cls, field) and name not in getattr(cls, "names_of_models", ()):
            assert rendered(cls, {field: "{{ params.nothing }}"}, nothing=None) == {field: None}
        else:
            with pytest.raises((InvalidArgumentError, AirflowFailException), match=f"^{name} is None"):
                rendered(cls, {field: "{{ params.nothing }}"}, nothing=None)
        with pytest.raises(InvalidArgumentError, match=f"^{name} must be text"):
            task_with(cls, {field: ["a"]}).check_text()


@pytest.mark.parametrize("cls", CLASSES)
def test_lists_dicts_and_flags_stay_native(cls):
    lists = of(cls, LISTS, SWITCHES, ONE_OR_MORE, OBJECTS)
    dicts = of(cls, OBJECTS, TAGS)
    for fields, value in ((lists, ["a"]), (dicts, {"a": 1})):
        for template in ("{{ params.value }}", str(value)):
            assert rendered(cls, dict.fromkeys(fields, template), value=value) == dict.fromkeys(fields, value)
    for field in of(cls, SWITCHES):
        for template, value in (("True", True), ("false", False), ("{{ params.value }}", True)):
            assert as_switch(rendered(cls, {field: template}, value=value)[field]) is value


def test_a_list_or_dict_of_templates_keeps_its_objects():
    options = {"workers": "{{ params.n }}", "conf": "{{ params.conf }}"}
    found = rendered(operators.BatchInferenceOperator, {"engine_options": options}, n=2, conf={"a": "1"})
    assert found == {"engine_options": {"workers": 2, "conf": {"a": "1"}}}


def test_text_in_dags_without_native_rendering_is_left_to_airflow():
    with DAG("plain", schedule=None):
        task = operators.GetRegisteredModelOperator(task_id="t", model_name="{{ params.a }}.{{ 1 + 1 }}.x")
    task.render_template_fields({"params": {"a": "c"}})
    assert task.model_name == "c.2.x"
