"""Signatures as MLflow writes them, and which of them can take another's place."""

from __future__ import annotations

import itertools
import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_uc_models.exceptions import ModelContentError
from airflow_uc_models.signatures import Field, Signature, compatible, type_name


@pytest.fixture(scope="module")
def types():
    """mlflow.types, and how to read what it writes."""
    import mlflow.types.schema as schema

    return schema


def signature(inputs=None, outputs=None, params=None):
    """Build with MLflow's own classes, write as MLflow does, read with ours."""
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, Schema

    made = ModelSignature(
        inputs and Schema(inputs), outputs and Schema(outputs), ParamSchema(params) if params else None
    )
    read = Signature.of_mlmodel({"flavors": {}, "signature": made.to_dict()})
    assert read is not None
    return read


def col(kind, name=None, required=True):
    from mlflow.types import ColSpec

    return ColSpec(kind, name, required=required)


def tensor(dtype, shape, name=None):
    import numpy as np
    from mlflow.types import TensorSpec

    return TensorSpec(np.dtype(dtype), shape, name)


OUT = "long"


def inputs(*specs):
    return signature(list(specs), [col(OUT)])


def outputs(*specs):
    return signature([col("double", "x")], list(specs))


# -- reading


def test_inferred_signature_is_read(types):
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature

    frame = pd.DataFrame({"a": [1.0], "b": ["x"], "c": [[1, 2]], "d": [{"k": 1, "j": "s"}]})
    made = infer_signature(frame, np.array([1.0]), params={"t": 0.5, "l": [1, 2]})
    read = Signature.of_mlmodel({"signature": made.to_dict()})
    assert [(f.name, type_name(f.type), f.required) for f in read.inputs] == [
        ("a", "double", True),
        ("b", "string", True),
        ("c", "array<long>", True),
        ("d", "object<j: string, k: long>", True),
    ]
    assert [(f.name, type_name(f.type)) for f in read.outputs] == [(None, "tensor<float64, [-1]>")]
    assert [(f.name, type_name(f.type)) for f in read.params] == [("t", "double"), ("l", "list<long>")]


def test_optional_inputs_and_other_types_are_read(types):
    read = signature([col(types.Map("string"), "m"), col(types.AnyType(), "n"), col("long", "o", required=False)])
    assert [(f.name, type_name(f.type), f.required) for f in read.inputs] == [
        ("m", "map<string>", True),
        ("n", "any", True),
        ("o", "long", False),
    ]
    assert read.outputs is None
    assert read.params is None


@pytest.mark.parametrize("mlmodel", [{}, {"signature": None}, {"signature": {}}, {"signature": {"inputs": None}}])
def test_no_signature(mlmodel):
    assert Signature.of_mlmodel(mlmodel) is None


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        {"inputs": "not json"},
        {"inputs": '{"a": 1}'},
        {"inputs": '[{"name": "a"}]'},
        {"inputs": "[1]"},
        {"inputs": "7"},
        {"outputs": '[{"type": "tensor"}]'},
        {"outputs": '[{"type": "tensor", "tensor-spec": {"dtype": "int64"}}]'},
        {"inputs": '[{"type": "array", "name": "a"}]'},
        {"inputs": '[{"type": "object", "properties": {"a": {}}, "name": "a"}]'},
    ],
)
def test_a_signature_that_mlflow_did_not_write_is_told(entry):
    with pytest.raises(ModelContentError, match=r"signature in the MLmodel file"):
        Signature.of_mlmodel({"signature": entry})


# -- inputs


@pytest.mark.parametrize(
    ("candidate", "champion", "reasons"),
    [
        ([("double", "a"), ("long", "b")], [("long", "b"), ("double", "a")], []),
        ([("double", "a")], [("double", "a"), ("long", "b")], ["input 'b' is dropped"]),
        ([("double", "a"), ("long", "b")], [("double", "a")], ["required input 'b' (long) is added"]),
        ([("double", "a"), ("long", "b", False)], [("double", "a")], []),
        ([("double", "a", False)], [("double", "a")], []),
        ([("double", "a")], [("double", "a", False)], ["input 'a' was optional and becomes required"]),
        ([("string", "a")], [("double", "a")], ["input 'a' changes from double to string"]),
        ([("double", "a")], [("float", "a")], []),
        ([("float", "a")], [("double", "a")], ["input 'a' changes from double to float"]),
        (
            [("double", "b"), ("string", "c")],
            [("double", "a"), ("double", "c")],
            ["input 'a' is dropped", "required input 'b' (double) is added", "input 'c' changes from double to string"],
        ),
        ([("double",)], [("double",)], []),
        ([("double",), ("double",)], [("double",)], ["required input 2 (double) is added"]),
        ([("double",)], [("double",), ("double",)], ["input 2 is dropped"]),
        ([("double",)], [("double", "a"), ("double", "b")], ["the inputs change from 'a', 'b' to double"]),
    ],
)
def test_inputs(candidate, champion, reasons):
    new, old = (
        inputs(*(col(*spec[:2], required=(*spec, True, True)[2]) if len(spec) > 1 else col(spec[0]) for spec in s))
        for s in (candidate, champion)
    )
    assert compatible(new, old) == reasons


SCALARS = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")


def sample(kind):
    """A column of a type, with values that no other type holds."""
    import numpy as np

    return {
        "boolean": np.array([True, False]),
        "integer": np.array([7, 8], dtype="int32"),
        "long": np.array([7, 8]),
        "float": np.array([0.5, 7.25], dtype="float32"),
        "double": np.array([0.5, 7.3]),
        "string": np.array(["a", "b"], dtype=object),
        "binary": np.array([b"a", b"b"], dtype=object),
        "datetime": np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[ns]"),
    }[kind]


@pytest.mark.parametrize("old", SCALARS)
@pytest.mark.parametrize(
    ("new", "nested"),
    [*itertools.product(SCALARS, ["column", "array", "object"]), ("any", "column")],
)
def test_a_type_is_as_wide_as_mlflow_takes_it(types, new, old, nested):
    """What we call compatible is what MLflow, asked with the champion's data, accepts by the candidate's schema."""
    import pandas as pd
    from mlflow.exceptions import MlflowException
    from mlflow.models.utils import _enforce_schema
    from mlflow.types import Schema

    def spec(kind):
        kind = types.AnyType() if kind == "any" else types.DataType[kind]
        return {"column": kind, "array": types.Array(kind), "object": types.Object([types.Property("k", kind)])}[nested]

    values = sample(old)
    frame = pd.DataFrame({"a": {"column": values, "array": [list(values)], "object": [{"k": values[0]}]}[nested]})
    try:
        with warnings.catch_warnings(action="ignore"):
            _enforce_schema(frame, Schema([col(spec(new), "a")]))
        accepted = True
    except (MlflowException, TypeError, ValueError):
        accepted = False
    judged = not compatible(inputs(col(spec(new), "a")), inputs(col(spec(old), "a")))
    # MLflow cannot tell text from bytes, or either from flags: a frame holds them all as objects.
    loose = {"boolean", "string", "binary"} >= {old, new}
    assert judged == ((old == new) if loose else accepted)


def test_objects_grow_by_optional_properties_only(types):
    def obj(**properties):
        made = [types.Property(name, kind, required=not name.startswith("opt")) for name, kind in properties.items()]
        return inputs(col(types.Object(made), "o"))

    old = obj(a="long", opt_b="string")
    assert compatible(obj(a="long", opt_b="string", opt_c="long"), old) == []
    assert compatible(obj(a="long", opt_b="string", c="long"), old) == [
        "input 'o' changes from object<a: long, opt_b: string> to object<a: long, c: long, opt_b: string>"
    ]
    assert compatible(obj(a="long"), old)
    assert compatible(obj(a="string", opt_b="string"), old)
    assert compatible(inputs(col(types.Map("long"), "o")), inputs(col(types.Map("integer"), "o"))) == []
    assert compatible(inputs(col(types.Map("integer"), "o")), inputs(col(types.Map("long"), "o")))


@pytest.mark.parametrize(
    ("new", "old", "as_input", "as_output"),
    [
        (("float32", (-1, 4)), ("float32", (-1, 4)), True, True),
        (("float64", (-1, 4)), ("float32", (-1, 4)), False, False),
        (("float32", (-1, 5)), ("float32", (-1, 4)), False, False),
        (("float32", (-1, 4, 1)), ("float32", (-1, 4)), False, False),
        (("float32", (-1, -1)), ("float32", (-1, 4)), True, False),
        (("float32", (-1, 4)), ("float32", (-1, -1)), False, True),
    ],
)
def test_tensors(new, old, as_input, as_output):
    assert (not compatible(inputs(tensor(*new)), inputs(tensor(*old)))) is as_input
    assert (not compatible(outputs(tensor(*new)), outputs(tensor(*old)))) is as_output


def test_columns_do_not_become_a_tensor():
    old = inputs(*(col("double", f"f{i}") for i in range(12)))
    names = ", ".join(f"'f{i}'" for i in range(10))
    assert compatible(inputs(tensor("float64", (-1, 12))), old) == [
        f"the inputs change from {names} and 2 more to tensor<float64, [-1, 12]>"
    ]


# -- outputs and parameters


@pytest.mark.parametrize(
    ("candidate", "champion", "reasons"),
    [
        ([("double", "y")], [("double", "y")], []),
        ([("double", "y"), ("long", "z")], [("double", "y")], []),
        ([("long", "z")], [("double", "y"), ("long", "z")], ["output 'y' is dropped"]),
        ([("double", "y")], [("float", "y")], ["output 'y' changes from float to double"]),
        ([("long", None)], [("double", None)], ["output 1 changes from double to long"]),
        ([("long", "y")], [("long", None)], ["the outputs change from long to 'y'"]),
    ],
)
def test_outputs(candidate, champion, reasons):
    assert compatible(outputs(*(col(*s) for s in candidate)), outputs(*(col(*s) for s in champion))) == reasons


def test_nested_outputs(types):
    def out(**properties):
        made = [types.Property(name, kind) for name, kind in properties.items()]
        return outputs(col(types.Array(types.Object(made)), "o"), col(types.Map("long"), "m"))

    assert compatible(out(a="long", b="string"), out(a="long")) == []
    assert compatible(out(b="string"), out(a="long", b="string"))
    assert compatible(out(a="long"), out(a="integer"))


def test_parameters():
    from mlflow.types import ParamSpec

    def params(*specs):
        return signature([col("double", "x")], [col(OUT)], [ParamSpec(*spec) for spec in specs])

    old = params(("t", "float", 0.5), ("l", "long", [1], (-1,)))
    assert compatible(params(("t", "double", 0.1), ("l", "long", [2], (-1,)), ("n", "string", "x")), old) == []
    assert compatible(params(("t", "float", 0.5)), old) == ["parameter 'l' is dropped"]
    assert compatible(params(("t", "string", "x"), ("l", "long", 1)), old) == [
        "parameter 't' changes from float to string",
        "parameter 'l' changes from list<long> to long",
    ]
    assert compatible(old, params(("t", "float", 0.5))) == []


# -- signatures as a whole


def test_missing_signatures_and_parts():
    whole, no_outputs = inputs(col("double", "x")), signature([col("double", "x")])
    assert compatible(None, None) == []
    assert compatible(whole, None) == []
    assert compatible(None, whole) == ["the candidate has no signature, the champion has one"]
    assert compatible(no_outputs, whole) == ["the candidate's signature has no outputs, the champion's has long"]
    assert compatible(whole, no_outputs) == []


column = st.tuples(st.sampled_from(["integer", "long", "double", "string"]), st.booleans())
columns = st.fixed_dictionaries({"a": column, "b": column})


@given(columns, columns, columns)
def test_what_follows_step_by_step_follows_at_once(one, two, three):
    def read(spec):
        entries = [{"name": name, "type": kind, "required": required} for name, (kind, required) in spec.items()]
        return Signature.of_mlmodel({"signature": {"inputs": json.dumps(entries), "outputs": '[{"type": "long"}]'}})

    first, second, third = read(one), read(two), read(three)
    assert compatible(first, first) == []
    if not compatible(second, first) and not compatible(third, second):
        assert compatible(third, first) == []


def dialect(inputs, **parts):
    return Signature.of_mlmodel({"signature": {"inputs": json.dumps(inputs), **parts}})


def test_what_versions_of_mlflow_wrote_means_the_same():
    """1.x and 2.0 knew names and types only, 2.4 to 2.9 wrote "optional", later ones "required"."""
    assert dialect([{"name": "a", "type": "double"}]).inputs == (Field("a", {"type": "double"}),)
    optional = {"name": "a", "type": "double", "optional": True}
    assert dialect([optional]) == dialect([{"name": "a", "type": "double", "required": False}])
    assert dialect([{**optional, "optional": False}]).inputs[0].required
    tensor = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}]
    assert dialect(tensor).inputs[0].type == tensor[0]
    old, new = (
        dialect([{"name": "o", "type": "object", "properties": {"k": {"type": "long", **flag}}}])
        for flag in ({"optional": True}, {"required": False})
    )
    assert old == new
    assert compatible(old, new) == compatible(new, old) == []
    assert dialect([{"name": 0, "type": "double"}]).inputs[0].column == "0"


def test_parameters_of_old_and_new_files_mean_the_same():
    old = [{"name": "t", "dtype": "float", "default": 0.1, "shape": None}]
    new = [{"name": "t", "type": "float", "default": 0.1, "shape": None}]
    found = [dialect([], params=json.dumps(params)).params for params in (old, new)]
    assert found[0] == found[1]
