"""Models tried out before they are judged: loaded in environments of their own, measured on data, smoke-tested."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_uc_models.engines.feature_store import is_feature_store_model
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.environments.environment import environment_of
from airflow_uc_models.evaluation import Evaluation
from airflow_uc_models.exceptions import ModelContentError, PredictionError, UnsupportedOperationError
from airflow_uc_models.hooks.artifacts import download_version, read_mlmodel
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.operators.trial_data import TrialData
from airflow_uc_models.policies import Facts, PromotionPolicy
from airflow_uc_models.rules_metrics import MetricRule, slice_metric_name
from airflow_uc_models.scratch import scratch_folder
from airflow_uc_models.signatures import Signature, output_problems

if TYPE_CHECKING:
    from airflow_uc_models.environments.process import ModelProcess

log = logging.getLogger(__name__)

_MOST_TEXT = 1_000
# What mlflow leaves out where a model predicts no probabilities, or a package for texts is not there.
_OPTIONAL = {
    "classifier": re.compile("roc_auc|log_loss|precision_recall_auc"),
    "regressor": re.compile("(?!)"),
}
_OPTIONAL_OF_TEXTS = re.compile(r".+/v\d+(/\w+)?|.+_at_\d+/\w+")


@dataclass(frozen=True)
class Trials:
    """Tries versions out as a policy asks.

    :param hook: whose registry has the versions
    """

    hook: ModelRegistryHook
    policy: PromotionPolicy

    def candidate(self, version: ModelVersion, facts: Facts) -> Facts:
        """Return the facts with what came of the candidate's trials."""
        return self._tried(version, facts, smoke_test=self.policy.smoke_test)

    def champion(self, version: ModelVersion, facts: Facts, candidate: Facts) -> Facts:
        """Return the facts with what came of the champion's; it is measured on the candidate's data."""
        if self.policy.evaluation is None:
            return facts
        if facts.is_same_model(candidate):
            return replace(
                facts,
                metrics=candidate.metrics,
                metrics_from=candidate.metrics_from,
                evaluated_on=candidate.evaluated_on,
            )
        return self._tried(version, facts, smoke_test=False)

    @cached_property
    def data(self) -> TrialData:
        """The rows that models are measured on."""
        evaluation = self.policy.evaluation
        assert isinstance(evaluation, Evaluation)  # noqa: S101 - the policy made it one
        return TrialData.read(evaluation, self.hook.registry_conn_id)

    def _tried(self, version: ModelVersion, facts: Facts, *, smoke_test: bool) -> Facts:
        if self.policy.evaluation is not None:
            assert self.data  # noqa: S101 - what is wrong with it is told before models are downloaded
        with scratch_folder("model") as place:
            folder = download_version(self.hook, version, place / "model")
            mlmodel = read_mlmodel(folder, version.uri)
            refuse_lookups(mlmodel, version.uri)
            signature = Signature.of_mlmodel(mlmodel)
            environment = environment_of(folder, self.policy.env_manager, version.uri)
            with environment.process(folder) as process:
                if smoke_test:
                    problem = smoke_test_problem(process.call("smoke_test"), signature)
                    facts = replace(facts, smoke_test=problem)
                    log.debug("Smoke test of %s: %s", version.uri, problem or "passed")
                if self.policy.evaluation is not None:
                    facts = self._measured(process, version, facts, signature)
        return facts

    def _measured(
        self, process: ModelProcess, version: ModelVersion, facts: Facts, signature: Signature | None
    ) -> Facts:
        data = self.data
        if facts.smoke_test:
            return _unmeasured(facts, f"the evaluation on {data.name}, which was not made after the smoke test failed")
        batches, arguments = data.given_to(signature, version.uri)
        try:
            answer = process.submit("evaluate", arguments, batches).result().head
        except (ModelContentError, PredictionError) as error:  # it cannot be loaded, or fails on the data
            log.warning("%s could not be evaluated on %s: %s", version.uri, data.name, error)
            return _unmeasured(facts, f"the evaluation on {data.name}, which failed: {str(error)[:_MOST_TEXT]}")
        measured = metrics_of(answer, data.evaluation.slice_metric)
        log.info("Evaluated %s on %s (%s rows): %d metrics", version.uri, data.name, f"{data.rows:,}", len(measured))
        log.debug("Metrics of %s: %s", version.uri, measured)
        left_out = not_measured(self.policy.metric_rules, data.evaluation, measured)
        logged = {name: value for name, value in facts.metrics.items() if name not in left_out}
        return replace(
            facts,
            metrics={**logged, **measured},
            metrics_from=f"the evaluation on {data.name} or {facts.metrics_from}",
            evaluated_on=dict.fromkeys(measured, data.name),
        )


def refuse_lookups(mlmodel: Mapping[str, Any], label: str) -> None:
    """Raise for a model that finds its features where no process of a worker can."""
    if is_feature_store_model(mlmodel):
        raise UnsupportedOperationError(
            f"{label} looks its features up in the Databricks feature store, which is out of reach of evaluation and "
            "smoke test. Leave them out of its policy, and judge it by logged metrics."
        )


def metrics_of(answer: Mapping[str, Any], slice_metric: str) -> dict[str, float]:
    """Return what was measured on all rows and on slices, by the names that rules know them by."""
    found = dict(answer["metrics"])
    for part, measured in answer["slices"].items():
        if "error" in measured:
            log.warning("Slice %s could not be evaluated: %s", part, measured["error"])
        for name, value in measured.get("metrics", {}).items():
            found[slice_metric_name(name, part, slice_metric)] = value
    return found


def not_measured(rules: Iterable[MetricRule], evaluation: Evaluation, measured: Container[str]) -> set[str]:
    """Return metrics of rules that an evaluation is for and did not give: what was logged must not stand in for them.

    They are those of a slice that the data do not have, or on which mlflow failed, and those that mlflow leaves out for
    a model that predicts no probabilities, or where a package for texts is missing.
    """
    found = set()
    optional = _OPTIONAL.get(evaluation.model_type, _OPTIONAL_OF_TEXTS)
    prefix = str((evaluation.evaluator_config or {}).get("metric_prefix") or "")
    for rule in rules:
        is_optional = optional.fullmatch(rule.name.removeprefix(prefix)) is not None
        if rule.slices is None:
            found |= {rule.name} if is_optional else set()
        elif is_optional or rule.name in measured:
            columns = [part.partition("=")[0] for part in rule.slices]
            found |= {
                name for name, column in zip(rule.names, columns, strict=True) if column in (evaluation.slices or ())
            }
    return {name for name in found if name not in measured}


def smoke_test_problem(answer: Mapping[str, Any], signature: Signature | None) -> str:
    """Return what is wrong with the prediction of an input example; empty if nothing is."""
    if problem := answer.get("problem"):
        return str(problem)
    if signature is None or not signature.outputs:
        return "the model's signature has no outputs that its prediction could be checked against"
    rows, expected = answer["rows"], answer["expected_rows"]
    if rows is not None and expected is not None and rows != expected:
        return f"the model predicts {rows} rows for the {expected} of its input example"
    found = Signature.of_mlmodel({"signature": {"outputs": answer["outputs"]}})
    if found is None or not found.outputs:
        return "the model predicts nothing for its input example"
    reasons = output_problems(found.outputs, signature.outputs)
    return f"the prediction is not as the signature says: {'; '.join(reasons)}" if reasons else ""


def _unmeasured(facts: Facts, why: str) -> Facts:
    """Forget what was logged, too: nobody should take it for what was asked for."""
    return replace(facts, metrics={}, metrics_from=why, evaluated_on={})
