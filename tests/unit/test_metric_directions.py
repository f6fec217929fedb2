import warnings

import pytest

from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.metric_directions import is_higher_better
from airflow_uc_models.policies import Facts, MetricRule, PromotionPolicy


def test_all_scorers_of_scikit_learn_and_the_metrics_behind_them_are_known():
    from sklearn.metrics import get_scorer, get_scorer_names

    for name in get_scorer_names():
        scorer = get_scorer(name)
        assert is_higher_better(name) is True, name  # that is what a scorer is
        assert is_higher_better(scorer._score_func.__name__) is (scorer._sign > 0), name


def test_all_metrics_of_mlflow_have_the_direction_that_mlflow_gives_them():
    import mlflow.metrics

    needed = dict.fromkeys(("precision_at_k", "recall_at_k", "ndcg_at_k"), (3,))
    found = {}
    for name in mlflow.metrics.__all__:
        make = getattr(mlflow.metrics, name)
        if callable(make) and name not in ("EvaluationMetric", "MetricValue", "make_metric"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated, and still what older models were measured with
                metric = make(*needed.get(name, ()))
            found[metric.name] = metric.greater_is_better
    assert {"latency", "toxicity", "rougeL", "root_mean_squared_error"} <= set(found)
    assert {name: is_higher_better(name) for name in found} == found


def test_what_evaluations_of_classifiers_and_regressors_give_is_known_but_for_counts():
    from mlflow.models.evaluation.evaluators import classifier, regressor

    measured = {
        **classifier._get_binary_classifier_metrics(y_true=[0, 1], y_pred=[0, 1], labels=[0, 1]),
        **regressor._get_regressor_metrics([1.0, 2.0], [1.0, 2.0], None),
    }
    unknown = {name for name in measured if is_higher_better(name) is None}
    assert unknown == {"example_count", "sum_on_target", "mean_on_target"}
    assert is_higher_better("false_positives") is False


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("val_log_loss", False),
        ("validation/neg_log_loss", True),
        ("training_f1_score", True),
        ("Test/RMSE", False),
        ("neg_root_mean_squared_error", True),
        ("neg_accuracy", False),
        ("f1_score_macro", True),
        ("toxicity/v1/p90", False),
        ("toxicity/v1/variance", None),
        ("precision_at_5/mean", True),
        ("brier_score", False),
        ("val", None),
        ("logistic", None),
        ("profit", None),
        ("neg_profit", None),
    ],
)
def test_names_with_their_data_average_or_aggregation(name, higher):
    assert is_higher_better(name) is higher


@pytest.mark.parametrize("limit", ["min_gain", "min_relative_gain"])
def test_a_better_loss_is_a_gain_without_a_word_about_its_direction(limit):
    rule = MetricRule("log_loss", max=0.5, **{limit: 0})
    policy = PromotionPolicy(metrics=[rule], require_signature=False, compatible_signature=False)
    better, worse = Facts(metrics={"log_loss": 0.3}), Facts(metrics={"log_loss": 0.4})
    assert policy.judge(better, worse).approved
    assert not policy.judge(worse, better).approved
    assert rule == MetricRule("log_loss", max=0.5, higher_is_better=False, **{limit: 0})


@pytest.mark.parametrize("limit", ["min_gain", "min_relative_gain"])
def test_a_gain_of_an_unknown_metric_needs_a_direction(limit):
    with pytest.raises(InvalidArgumentError, match="Set higher_is_better=True in the rule"):
        MetricRule("profit", **{limit: 0})
    with pytest.raises(InvalidArgumentError, match="Set higher_is_better=True in the rule"):
        PromotionPolicy.of({"metrics": [{"name": "profit", limit: 0}]})
    assert MetricRule("profit", higher_is_better=True, **{limit: 0}).higher_is_better is True
    assert MetricRule("profit", min=1, max=2).higher_is_better is None


def test_what_the_user_sets_wins():
    assert MetricRule("accuracy", min_gain=0, higher_is_better=False).higher_is_better is False
