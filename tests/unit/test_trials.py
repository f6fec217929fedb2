"""What is asked of trials, and what is made of their answers: pure, but for pyarrow and a database in memory."""

from __future__ import annotations

import decimal
import sqlite3
from concurrent.futures import Future
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from airflow_uc_models.csv_options import CsvOptions
from airflow_uc_models.evaluation import Evaluation
from airflow_uc_models.exceptions import (
    InputDataError,
    InvalidArgumentError,
    ModelContentError,
    ModelEnvironmentError,
    PredictionError,
    RegistryUnavailableError,
    UnsupportedOperationError,
)
from airflow_uc_models.hooks import databricks_sql
from airflow_uc_models.operators.trial_data import TrialData
from airflow_uc_models.operators.trials import Trials, metrics_of, not_measured, refuse_lookups, smoke_test_problem
from airflow_uc_models.policies import Facts, MetricRule, PromotionPolicy
from airflow_uc_models.signatures import Signature

ASKED = {"data": "a.parquet", "targets": "label", "model_type": "classifier"}
RULE = MetricRule("accuracy_score", min=0)


# -- what is asked


def test_an_evaluation_as_json():
    plain = {**ASKED, "slices": ["country"], "max_rows": "1000", "evaluator_config": {"pos_label": 1}}
    plain["csv_options"] = {"delimiter": ";", "header": "true"}
    policy = PromotionPolicy.of({"metrics": [{"name": "a", "min": 0}], "evaluation": plain, "env_manager": "uv"})
    assert policy.evaluation == Evaluation(**{**plain, "max_rows": 1000, "csv_options": CsvOptions(delimiter=";")})
    assert policy.runs_models


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "data in evaluation of the policy must be given"),
        ({"data": None}, "data in evaluation of the policy must be given"),
        ({"targets": " "}, "targets in evaluation of the policy must be given"),
        ({"model_type": "clasifier"}, "model_type of the evaluation must be one of classifier"),
        ({"slices": []}, "at least one column"),
        ({"slices": "country"}, "list of at least one column"),
        ({"slices": ["label"]}, "not the targets"),
        ({"slices": ["a", "a"]}, "different columns"),
        ({"slice_metric": "{metric}"}, "each once"),
        ({"input_format": "json"}, "parquet or csv"),
        ({"csv_options": {"sep": ";"}}, "csv_options has 'sep'"),
        ({"csv_options": ";"}, "csv_options must be CsvOptions or a dict"),
        ({"csv_options": {"delimiter": ";"}, "input_format": "parquet"}, "are for CSV files"),
        ({"evaluator_config": "x"}, "must be a dict"),
        ({"max_rows": 0}, "whole number above 0"),
        ({"max_rows": "1.5"}, "whole number above 0"),
        ({"max_rows": "many"}, "a number"),
        ({"max_rows": "inf"}, "whole number above 0"),
        ({"max_rows": "nan"}, "whole number above 0"),
        ({"dataset": "x"}, "Unknown key 'dataset' in evaluation"),
        ({"http_path": None}, "http_path"),
        ({"http_path": " "}, "http_path in evaluation of the policy must be given, or left out"),
        ({"databricks_conn_id": ""}, "databricks_conn_id"),
    ],
)
def test_an_evaluation_that_is_none(changes, message):
    with pytest.raises(InvalidArgumentError, match=message):
        PromotionPolicy.of({"metrics": [{"name": "a", "min": 0}], "evaluation": {**ASKED, **changes}})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PromotionPolicy(evaluation=Evaluation(**ASKED)), "no rule on a metric"),
        (lambda: PromotionPolicy(metrics=[RULE], evaluation={"data": "a"}), "lacks targets, model_type"),
        (lambda: PromotionPolicy(metrics=[RULE], evaluation="a.parquet"), "evaluation must be a dict"),
        (lambda: Evaluation(**{**ASKED, "data": " "}), "data of the evaluation must be a name"),
        (lambda: Evaluation(**{**ASKED, "targets": 1}), "targets of the evaluation must be a name"),
        (lambda: PromotionPolicy(metrics=[RULE], env_manager="uv"), "policy has neither"),
        (lambda: PromotionPolicy(smoke_test=True, env_manager="conda"), "env_manager of the policy must be one of"),
        (lambda: PromotionPolicy.of({"smoke_test": True, "env_manager": None}), "env_manager"),
    ],
)
def test_trials_that_are_none(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()


# -- what is measured on


@pytest.fixture
def table():
    return pa.table(
        {
            "x": [1, 2, 3, 4],
            "amount": [decimal.Decimal("1.5")] * 4,
            "country": ["DE", "FR", None, "DE"],
            "label": ["no", "yes", "no", "yes"],
        }
    )


@pytest.fixture
def read(table, tmp_path):
    def read(changed=None, **options):
        path = tmp_path / "rows.parquet"
        parquet.write_table(table if changed is None else changed, path)
        return TrialData.read(Evaluation(**{**ASKED, "data": str(path), **options}), "unused")

    return read


def test_csv_files_are_read_as_the_evaluation_describes_them(tmp_path):
    (tmp_path / "rows.csv").write_bytes("x;größe;label\n1,5;-;no\n2;klein;yes\n".encode("latin-1"))
    options = {"delimiter": ";", "decimal": ",", "encoding": "latin-1", "null_values": ["-"]}
    given = {**ASKED, "data": str(tmp_path / "rows.csv")}
    found = TrialData.read(Evaluation(**given, csv_options=options), "unused")
    assert found.table.to_pydict() == {"x": [1.5, 2.0], "größe": [None, "klein"], "label": ["no", "yes"]}
    with pytest.raises(InputDataError, match=r"rows\.csv cannot be read: it is not UTF-16"):
        TrialData.read(Evaluation(**given, csv_options={**options, "encoding": "utf-16"}), "unused")


def test_a_table_has_no_csv_options():
    with pytest.raises(InvalidArgumentError, match=r"csv_options .* are for CSV files; main\.ml\.test is a table"):
        TrialData.read(Evaluation(**{**ASKED, "data": "main.ml.test", "csv_options": {"delimiter": ";"}}), "unused")


SIGNATURE = Signature.of_mlmodel(
    {
        "signature": {
            "inputs": '[{"type": "double", "name": "x"}, {"type": "double", "name": "amount"}]',
            "outputs": '[{"type": "long"}]',
        }
    }
)


def test_each_model_gets_its_columns_in_its_types(read):
    batches, arguments = read(slices=["country"]).given_to(SIGNATURE, "models:/a.b.c/1")
    [batch] = batches
    assert batch.schema.field("x").type == batch.schema.field("amount").type == pa.float64()
    assert arguments == {
        "labels": None,
        "inferred": [],
        "features": ["x", "amount"],
        "targets": "label",
        "model_type": "classifier",
        "evaluator_config": {"log_model_explainability": False, "label_list": ["no", "yes"]},
        "slices": {
            "country=DE": ["__slice_0", 0],
            "country=FR": ["__slice_0", 1],
            "country=null": ["__slice_0", 2],
        },
    }
    assert batch.column("__slice_0").to_pylist() == [0, 1, 2, 0]
    assert batch.column("label").to_pylist() == ["no", "yes", "no", "yes"]


def test_a_model_without_a_signature_gets_all_that_has_no_other_purpose(read):
    _, arguments = read(slices=["country"]).given_to(None, "models:/a.b.c/1")
    assert arguments["features"] == ["x", "amount"]


def test_columns_that_do_not_fit_the_signature(read, table):
    with pytest.raises(ModelContentError, match="column 'amount' is missing"):
        read(table.drop_columns(["amount"])).given_to(SIGNATURE, "models:/a.b.c/1")


def test_the_evaluators_configuration_is_the_users(read):
    _, arguments = read(evaluator_config={"label_list": ["x"], "pos_label": "yes"}).given_to(SIGNATURE, "m")
    assert arguments["evaluator_config"] == {"log_model_explainability": False, "label_list": ["x"], "pos_label": "yes"}


def test_rows_that_nothing_can_be_measured_on(read, table):
    with pytest.raises(InputDataError, match="has no rows"):
        read(table.slice(0, 0))
    with pytest.raises(InputDataError, match=r"'country' of .* has no value in 1 of 4 rows"):
        read(targets="country")
    with pytest.raises(InputDataError, match="more than 3 rows"):
        read(max_rows=3)
    assert read(max_rows=4).rows == 4


def test_columns_that_make_no_slices(read):
    many = pa.table({"x": range(101), "y": range(101), "label": [1] * 101})
    with pytest.raises(InputDataError, match="has 101 values"):
        read(many, slices=["x"]).given_to(None, "m")
    alike = pa.table({"x": ["a+b", "a*b"], "y": [1, 2], "label": [0, 1]})
    with pytest.raises(InputDataError, match="differ only in characters"):
        read(alike, slices=["x"]).given_to(None, "m")
    columns = pa.table({"x+": ["a"] * 2, "x*": ["a"] * 2, "y": [1, 2], "label": [0, 1]})
    with pytest.raises(InputDataError, match=r"'x\+=a' and 'x\*=a' of .* differ only in characters"):
        read(columns, slices=["x+", "x*"]).given_to(None, "m")
    with pytest.raises(InputDataError, match="no columns for a model beside label, x"):
        read(alike.drop_columns("y"), slices=["x"]).given_to(None, "m")


def test_csv_files(tmp_path):
    for i in range(2):
        (tmp_path / f"part-{i}.csv").write_text(f"x,amount,label\n{i},1.5,0\n{i},2,1\n")
    data = TrialData.read(Evaluation(**{**ASKED, "data": str(tmp_path)}), "unused")
    [batch], arguments = data.given_to(SIGNATURE, "m")
    assert batch.to_pydict() == {"x": [0.0, 0.0, 1.0, 1.0], "amount": [1.5, 2.0] * 2, "label": [0, 1] * 2}
    assert arguments["evaluator_config"]["label_list"] == [0, 1]


class Sqlite:
    """The edge to a warehouse: a DB-API connection of another database, which takes the same statement."""

    databricks_conn_id = "warehouse"

    def __init__(self, *rows):
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("CREATE TABLE test (x INTEGER, label INTEGER)")
        self.connection.executemany("INSERT INTO test VALUES (?, ?)", rows)
        self.is_closed = False

    def get_conn(self):
        return self

    def cursor(self):
        return self

    def execute(self, statement):
        self.statement = statement
        self.rows = self.connection.execute(statement.replace("`main`.`ml`.", ""))
        self.description = self.rows.description

    def fetchall(self):
        return self.rows.fetchall()

    def close(self):
        self.is_closed = True


def test_a_table_of_databricks(monkeypatch):
    asked = []
    warehouse = Sqlite((1, 0), (2, 1), (3, 1))

    def sql_hook(*arguments):
        asked.append(arguments)
        return warehouse

    monkeypatch.setattr("airflow_uc_models.operators.trial_data.sql_hook", sql_hook)
    data = TrialData.read(Evaluation(**{**ASKED, "data": "main.ml.test"}, http_path="/sql/1", max_rows=10), "dbx")
    assert data.table.to_pydict() == {"x": [1, 2, 3], "label": [0, 1, 1]}
    assert asked == [("dbx", "/sql/1", None)]
    assert warehouse.statement == "SELECT * FROM `main`.`ml`.`test` LIMIT 11"
    assert warehouse.is_closed
    warehouse = Sqlite(*[(i, 0) for i in range(3)])
    with pytest.raises(InputDataError, match="more than 2 rows"):
        TrialData.read(Evaluation(**{**ASKED, "data": "main.ml.test"}, databricks_conn_id="other", max_rows=2), "dbx")
    assert asked[-1][0] == "other"


def test_rows_come_as_arrow_where_the_driver_gives_it():
    warehouse = Sqlite()
    warehouse.fetchall_arrow = lambda: pa.table({"x": [decimal.Decimal("1.5")]})
    assert databricks_sql.read_table(warehouse, "main.ml.test", 1).schema.field("x").type == pa.decimal128(2, 1)
    assert warehouse.is_closed


def test_a_table_that_cannot_be_read():
    with pytest.raises(RegistryUnavailableError, match=r"no such table: nothing.*It needs SELECT.*'warehouse'"):
        databricks_sql.read_table(Sqlite(), "main.ml.nothing", 1)


def test_the_hook_is_the_databricks_providers(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_DBX", '{"conn_type": "databricks", "host": "127.0.0.1", "password": "x"}')
    hook = databricks_sql.sql_hook("dbx", None, "warehouse")
    assert type(hook).__name__ == "DatabricksSqlHook"
    assert callable(hook.get_conn)


def test_a_model_that_looks_features_up_is_refused():
    refuse_lookups({"flavors": {"python_function": {"loader_module": "mlflow.sklearn"}}}, "m")
    lookups = {"flavors": {"python_function": {"loader_module": "databricks.feature_store.mlflow_model"}}}
    with pytest.raises(UnsupportedOperationError, match="judge it by logged metrics"):
        refuse_lookups(lookups, "m")


# -- what came of it


def test_metrics_of_slices_get_the_names_that_rules_read():
    answer = {
        "metrics": {"f1": 0.5},
        "slices": {"country=DE": {"metrics": {"f1": 0.6}}, "country=FR": {"error": "too few"}},
    }
    assert metrics_of(answer, "{metric}/{slice}") == {"f1": 0.5, "f1/country_DE": 0.6}
    assert metrics_of(answer, "{slice}.{metric}") == {"f1": 0.5, "country_DE.f1": 0.6}


@pytest.mark.parametrize(
    ("rule", "left_out"),
    [
        ({"name": "profit"}, set()),
        ({"name": "profit", "slices": ["country=DE"]}, set()),  # mlflow measures no profit: it can only be logged
        ({"name": "f1"}, set()),
        ({"name": "f1", "slices": ["country=DE", "country=IT"]}, {"f1/country_IT"}),
        ({"name": "f1", "slices": ["age=young"]}, set()),  # not evaluated
        ({"name": "roc_auc"}, {"roc_auc"}),
        ({"name": "roc_auc", "slices": ["country=DE"]}, {"roc_auc/country_DE"}),
    ],
)
def test_what_was_logged_does_not_stand_in_for_what_should_have_been_measured(rule, left_out):
    asked = Evaluation(**ASKED, slices=["country"])
    measured = {"f1": 0.5, "f1/country_DE": 0.6}
    assert not_measured([MetricRule(**rule, min=0)], asked, measured) == left_out


@pytest.mark.parametrize(
    ("model_type", "name", "is_left_out"),
    [
        ("classifier", "eval_roc_auc", True),
        ("classifier", "eval_profit", False),
        ("text", "eval_toxicity/v1/ratio", True),  # by a package that may not be there
        ("text", "toxicity/v1/mean", True),
        ("question-answering", "exact_match/v1", True),
        ("retriever", "precision_at_3/mean", True),
        ("text", "profit", False),
        ("regressor", "profit/v1", False),
    ],
)
def test_what_only_mlflow_measures_is_not_taken_from_the_log(model_type, name, is_left_out):
    asked = Evaluation(**{**ASKED, "model_type": model_type}, evaluator_config={"metric_prefix": "eval_"})
    assert not_measured([MetricRule(name, min=0)], asked, {}) == ({name} if is_left_out else set())


def measured(answer):
    """The facts that come of an evaluation, over those that were logged."""
    policy = PromotionPolicy(metrics=[MetricRule("roc_auc", min=0), RULE], evaluation=Evaluation(**ASKED))
    trials = Trials(None, policy)
    given = {"name": "a.parquet", "rows": 9, "evaluation": policy.evaluation, "given_to": lambda *_: ([], {})}
    trials.__dict__["data"] = SimpleNamespace(**given)
    process = SimpleNamespace(submit=lambda *_: answer)
    logged = Facts(metrics={"roc_auc": 0.99, "accuracy_score": 0.9, "profit": 1})
    return trials._measured(process, SimpleNamespace(uri="models:/a.b.c/1"), logged, None)


def test_what_was_not_measured_is_unknown_though_the_training_logged_it():
    answer = Future()
    answer.set_result(SimpleNamespace(head={"metrics": {"accuracy_score": 0.5}, "slices": {}}))
    assert measured(answer).metrics == {"accuracy_score": 0.5, "profit": 1}


@pytest.mark.parametrize("error", [ModelContentError, PredictionError])
def test_a_model_that_cannot_be_loaded_or_fails_on_the_data_is_refused(error):
    answer = Future()
    answer.set_exception(error("models:/a.b.c/1 cannot be loaded: KeyError"))
    facts = measured(answer)
    assert facts.metrics == {}
    assert "which failed: models:/a.b.c/1 cannot be loaded: KeyError" in facts.metrics_from


def test_a_passing_fault_while_a_model_is_loaded_is_no_verdict():
    answer = Future()
    answer.set_exception(ModelEnvironmentError("memory"))
    with pytest.raises(ModelEnvironmentError):
        measured(answer)


def signature(*outputs):
    return Signature.of_mlmodel({"signature": {"outputs": list(outputs)}})


LONG, DOUBLE = {"type": "long"}, {"type": "double"}


@pytest.mark.parametrize(
    ("declared", "found", "rows", "problem"),
    [
        ([LONG], [LONG], (3, 3), ""),
        ([LONG], [LONG], (None, 3), ""),
        ([LONG], [LONG], (2, 3), "predicts 2 rows for the 3"),
        ([LONG], [DOUBLE], (3, 3), "output 1 changes from long to double"),
        ([LONG | {"name": "a"}], [LONG | {"name": "a"}], (3, 3), ""),
        ([LONG | {"name": "a"}], [LONG | {"name": "b"}], (3, 3), "output 'a' is dropped; output 'b' is added"),
        ([LONG | {"name": "a"}], [LONG | {"name": "a"}, LONG | {"name": "b"}], (3, 3), "output 'b' is added"),
        ([], [LONG], (3, 3), "no outputs that its prediction could be checked against"),
        ([LONG], [LONG, LONG], (3, 3), "there are 2 outputs instead of 1"),
        ([LONG], [], (3, 3), "predicts nothing"),
    ],
)
def test_the_prediction_of_an_example_is_held_to_the_signature(declared, found, rows, problem):
    answer = {"outputs": found, "rows": rows[0], "expected_rows": rows[1]}
    told = smoke_test_problem(answer, signature(*declared))
    assert problem in told
    assert bool(told) is bool(problem)


def test_a_problem_is_told_as_it_is():
    assert smoke_test_problem({"problem": "it broke"}, signature(LONG)) == "it broke"
