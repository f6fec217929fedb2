"""Models tried out before they are judged, on a real MLflow server: evaluation on data, and the smoke test."""

from __future__ import annotations

import pandas as pd
import pytest
from support.models import Logged, add_version, tracking
from support.trials import LABEL, log_example_model, write_rows
from support.validation import NO_SIGNATURE, artifact_text, tags_of


@pytest.fixture(scope="module")
def tried(mlflow_server):
    """Classifiers of f0 > 0.5: a good one, and one that says the opposite and has no example; both logs mislead."""
    return {
        "good": log_example_model(mlflow_server, metrics={"accuracy_score": 0.1, "trained": 1.0}),
        "bad": log_example_model(mlflow_server, metrics={"accuracy_score": 0.9}, flipped=True, with_example=False),
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "test.parquet")


def evaluation(rows, **options):
    return {"data": str(rows), "targets": LABEL, "model_type": "classifier", **options}


def test_candidate_and_champion_are_measured_on_the_same_data(
    validate, client, mlflow_server, model_name, tried, rows, tmp_path
):
    add_version(mlflow_server, model_name, tried["bad"])
    add_version(mlflow_server, model_name, tried["good"])
    client.set_registered_model_alias(model_name, "Champion", "1")
    policy = {
        "metrics": [
            {"name": "accuracy_score", "min": 0.9, "min_gain": 0.5},
            {"name": "recall_score", "min": 0.9, "slices": ["country=DE", "country=FR"]},
            {"name": "trained", "min": 1},
        ],
        "evaluation": evaluation("{{ params.rows }}", slices=["country"]),
        "smoke_test": True,
        "env_manager": "local",
    }
    result = validate(2, policy, params={"rows": str(rows)})
    verdict = result.xcom("validate")
    assert result.state == "success", verdict["reasons"]
    checks = {check["rule"]: check for check in verdict["checks"]}
    assert list(checks) == [
        "accuracy_score >= 0.9",
        "accuracy_score gain >= 0.5",
        "recall_score/country_DE >= 0.9",
        "recall_score/country_FR >= 0.9",
        "trained >= 1",
        "signature",
        "signature compatible",
        "smoke test",
    ]
    measured = checks["accuracy_score >= 0.9"]
    assert measured["candidate"] > 0.9
    assert f"(evaluated on {rows})" in measured["reason"]
    assert "trained 1 (logged)" in checks["trained >= 1"]["reason"]
    assert verdict["metrics"]["accuracy_score"]["champion"] < 0.4
    # Measured values stand beside those of the training.
    run = client.get_run(client.get_model_version(model_name, "2").run_id).data.metrics
    assert run["validation/accuracy_score"] == measured["candidate"]
    assert run["validation/recall_score/country_DE"] == checks["recall_score/country_DE >= 0.9"]["candidate"]
    assert run["accuracy_score"] == 0.1
    of_model = {metric.key: metric.value for metric in client.get_logged_model(tried["good"].model_id).metrics}
    assert of_model["validation/accuracy_score"] == measured["candidate"]
    of_champion = client.get_run(client.get_model_version(model_name, "1").run_id).data.metrics
    assert not [name for name in of_champion if name.startswith("validation/")]
    report = artifact_text(client, verdict["report"], tmp_path)
    assert "recall_score/country_DE" in report
    assert "<title>" + model_name + "/2: approved</title>" in report  # over the one that said it was not finished


def test_a_model_without_an_example_is_refused_and_not_measured(
    validate, client, mlflow_server, model_name, tried, rows
):
    add_version(mlflow_server, model_name, tried["bad"])
    policy = {
        "metrics": [{"name": "accuracy_score", "max": 1}],
        "evaluation": evaluation(rows),
        "smoke_test": True,
        "env_manager": "local",
        **NO_SIGNATURE,
    }
    result = validate(1, policy)
    assert result.state == "failed"
    reasons = result.xcom("validate")["reasons"]
    assert "which was not made after the smoke test failed" in reasons[0]
    assert reasons[1] == "the model has no input example: log it with input_example=..."
    assert tags_of(client, model_name, 1)["validation_status"] == "rejected"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "nothing"}, "has no column 'nothing'; it has: f0"),
        ({"slices": ["planet"]}, "has no column 'planet'"),
        ({"max_rows": 10}, "has more than 10 rows"),
        ({"data": "/nowhere/x.parquet"}, "nowhere"),
    ],
)
def test_data_that_are_none_fail_before_models_are_downloaded(validate, measured, rows, options, message):
    measured(0.9)
    policy = {"metrics": [{"name": "a", "min": 0}], "evaluation": evaluation(rows, **options), **NO_SIGNATURE}
    result = validate(1, policy)
    assert result.state == "failed"
    assert result.ti("validate").try_number == 1
    assert message in result.output
    assert result.xcom("validate") is None


PLANTED = "Quetzalcoatl"


@pytest.fixture(scope="module")
def quoting(mlflow_server):
    """A model whose errors quote the rows that it was given, as those of its input example."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    class Quoting(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            raise ValueError(f"cannot predict {model_input.to_dict('records')}")

    signature = ModelSignature(Schema([ColSpec("string", "name")]), Schema([ColSpec("double")]))
    with tracking(mlflow_server) as mlflow, mlflow.start_run(experiment_id=mlflow.create_experiment("quoting")) as run:
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=Quoting(),
            signature=signature,
            input_example=pd.DataFrame({"name": [f"{PLANTED} I"]}),
            pip_requirements=["mlflow"],
        )
    return Logged(info.model_id, run.info.run_id, ["name"])


@pytest.mark.parametrize("trial", ["evaluation", "smoke test"])
def test_what_a_model_says_of_rows_is_told_nowhere(
    validate, client, mlflow_server, model_name, quoting, tmp_path, trial
):
    add_version(mlflow_server, model_name, quoting)
    pd.DataFrame({"name": [f"{PLANTED} II", "x"], LABEL: [0.0, 1.0]}).to_parquet(tmp_path / "rows.parquet")
    policy = {"env_manager": "local", **NO_SIGNATURE}
    if trial == "evaluation":
        data = evaluation(tmp_path / "rows.parquet", model_type="regressor")
        policy |= {"metrics": [{"name": "mean_squared_error", "max": 1}], "evaluation": data}
    else:
        policy |= {"smoke_test": True}
    result = validate(1, policy)
    assert result.state == "failed"
    assert "ValueError" in result.output
    told = [result.output, str(result.xcom("validate")), str(tags_of(client, model_name, 1))]
    assert [text for text in told if PLANTED in text] == []
