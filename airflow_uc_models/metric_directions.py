"""Whether a greater value of a metric is better, for the metrics that MLflow and scikit-learn name. Pure.

Sources: ``mlflow/models/evaluation/evaluators`` and ``mlflow/metrics`` (``greater_is_better`` of ``mlflow.evaluate``),
``mlflow/sklearn/utils.py`` (autologging), ``mlflow/genai/scorers/builtin_scorers.py`` and scikit-learn's "Metrics and
scoring" (``sklearn.metrics``, ``get_scorer_names()``). Counts, sums and spreads, such as ``example_count``, have no
direction, and neither does a name that is not here.
"""

from __future__ import annotations

import re


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_HIGHER = _names(
    "accuracy accuracy_score adjusted_mutual_info_score adjusted_rand_score auc average_precision",
    "average_precision_score balanced_accuracy balanced_accuracy_score calinski_harabasz_score cohen_kappa_score",
    "completeness_score consensus_score d2_absolute_error_score d2_brier_score d2_log_loss_score d2_pinball_score",
    "d2_tweedie_score dcg_score explained_variance explained_variance_score f1 f1_score fbeta_score",
    "fowlkes_mallows_score homogeneity_score jaccard jaccard_score label_ranking_average_precision_score",
    "matthews_corrcoef mutual_info_score ndcg_score normalized_mutual_info_score positive_likelihood_ratio precision",
    "precision_score r2 r2_score rand_score recall recall_score roc_auc roc_auc_score silhouette_score top_k_accuracy",
    "top_k_accuracy_score v_measure_score",
    "best_cv_score precision_recall_auc score true_negatives true_positives",
    "answer_correctness answer_relevance answer_similarity bleu exact_match faithfulness relevance rouge1 rouge2",
    "rougel rougelsum token_count",
    "completeness conversation_completeness conversational_guidelines conversational_safety correctness equivalence",
    "expectations_guidelines fluency guidelines knowledge_retention relevance_to_query retrieval_groundedness",
    "retrieval_relevance retrieval_sufficiency safety summarization tool_call_correctness tool_call_efficiency",
)
_LOWER = _names(
    "brier_score brier_score_loss coverage_error davies_bouldin_score hamming_loss hinge_loss label_ranking_loss",
    "log_loss max_error mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance mean_pinball_loss",
    "mean_poisson_deviance mean_squared_error mean_squared_log_error mean_tweedie_deviance median_absolute_error",
    "negative_likelihood_ratio root_mean_squared_error root_mean_squared_log_error zero_one_loss",
    "false_negatives false_positives loss mae mape mse rmse",
    "ari_grade_level flesch_kincaid_grade_level latency toxicity",
)
# Which data a metric is of, as MLflow's autologging (training_), Keras (val_), evaluations and people write it.
_DATA = re.compile(r"(cv|dev|eval|evaluation|holdout|test|train|training|val|valid|validation)[_\-./ ]+")
# How one number was made of several: scorers of scikit-learn (f1_macro), aggregations of MLflow (toxicity/v1/mean).
_AVERAGE = re.compile(r"_(binary|macro|micro|samples|weighted|ovo|ovr)$")
_AGGREGATION = re.compile(r"(/v\d+)?(/(mean|median|min|max|ratio|p\d{1,2}))?$")
_AT_K = re.compile(r"(ndcg|precision|recall)_at_\d+")


def is_higher_better(name: str) -> bool | None:
    """Return whether a greater value is better; None for a name that is not known.

    Letter case does not count. Known are also names with the data they are of (``val_log_loss``, ``test/rmse``), with
    an average (``f1_score_macro``) or an aggregation (``rouge1/v1/mean``), and scikit-learn's ``neg_`` forms.
    """
    text = name.strip().casefold()
    if (known := _direction(_AGGREGATION.sub("", text, count=1))) is not None:
        return known
    if found := _DATA.match(text):
        return is_higher_better(text[found.end() :])
    if text.startswith("neg_"):
        inner = is_higher_better(text.removeprefix("neg_"))
        return None if inner is None else not inner
    return None


def _direction(name: str) -> bool | None:
    if name in _LOWER:
        return False
    if name in _HIGHER or _AT_K.fullmatch(name):
        return True
    return _direction(shorter) if (shorter := re.sub(_AVERAGE, "", name)) != name else None
