"""Operators that judge a candidate version against the champion before it is promoted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.branch import BranchMixIn

from airflow_uc_models.compat import AirflowFailException
from airflow_uc_models.entities import FAILED_REGISTRATION, ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError, ModelVersionFailedError
from airflow_uc_models.names import parse_alias, parse_version
from airflow_uc_models.operators.base import ModelOperator
from airflow_uc_models.policies import Facts, PromotionPolicy
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.facts import Origin, champion_of, origin_of
from airflow_uc_models.results import publish
from airflow_uc_models.signatures import Signature

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

VERDICT_KEY = "verdict"
STATUS_TAG = "validation_status"
REASONS_TAG = "validation_reasons"
AGAINST_TAG = "validated_against"
_MAX_TAG = 1_000


class _ValidationOperator(ModelOperator):
    """An operator that judges a version; what follows from the verdict is up to subclasses.

    Registries: MLflow server, Unity Catalog on Databricks.
    """

    template_fields: Sequence[str] = (
        *ModelOperator.template_fields,
        "version",
        "policy",
        "champion_alias",
        "champion_model_name",
    )

    def __init__(
        self,
        *,
        version: int | str,
        policy: PromotionPolicy | Mapping[str, Any] | str,
        champion_alias: str = "Champion",
        champion_model_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.policy = policy
        self.champion_alias = champion_alias
        self.champion_model_name = champion_model_name

    def judge(self, context: Context) -> dict[str, Any]:
        """Judge the version, tag it, push the verdict under the key ``verdict`` and return it."""
        policy = PromotionPolicy.of(self.policy)
        candidate, champion = self.hook.run(self._pair(self.hook.registry))
        self.link_to(context, candidate.name, candidate.version)
        facts = self._facts(candidate, policy, needs_metrics=True)
        against = None
        if champion is not None:
            against = self._facts(champion, policy, needs_metrics=policy.needs_champion_metrics)
        verdict = {
            "name": candidate.name,
            "version": candidate.version,
            "champion": champion and champion.to_xcom(),
            **policy.judge(facts, against).to_xcom(),
        }
        self.log_verdict(verdict)
        # Also where the task then fails or skips: both end it before Airflow keeps what it returns.
        context["ti"].xcom_push(key=VERDICT_KEY, value=verdict)
        publish(context, verdict)
        self.hook.run(_write_tags(self.hook.registry, verdict))
        return verdict

    def _pair(self, registry: Registry) -> Call[tuple[ModelVersion, ModelVersion | None]]:
        """Get the candidate, which must be READY, and the champion, which need not exist yet."""
        registry.tag_rules()
        if not registry.capabilities.aliases:
            raise registry.unsupported("aliases", "Without them there is no champion to compare with.")
        name, version, alias = registry.normalize(self.model_name), parse_version(self.version), self.champion_alias
        champion_name = name if self.champion_model_name is None else registry.normalize(self.champion_model_name)
        parse_alias(alias)
        candidate = yield from registry.get_model_version(name, version)
        if candidate.status == FAILED_REGISTRATION:
            raise ModelVersionFailedError(f"{name}/{version} cannot be validated: its registration failed.")
        if not candidate.is_ready:
            raise InvalidArgumentError(f"{name}/{version} is {candidate.status}; only READY versions are validated.")
        champion = yield from champion_of(registry, champion_name, alias)
        if champion is None:
            self.log.warning("No champion: %s has no alias %r yet; thresholds alone decide", champion_name, alias)
        return candidate, champion

    def _facts(self, version: ModelVersion, policy: PromotionPolicy, *, needs_metrics: bool) -> Facts:
        origin, signature = Origin(), None
        if needs_metrics:
            origin = self.hook.run(origin_of(self.hook.registry, version))
        if policy.needs_signature:
            from airflow_uc_models.hooks.artifacts import version_mlmodel

            signature = Signature.of_mlmodel(version_mlmodel(self.hook, version))
        return Facts(
            metrics=origin.metrics,
            tags=version.tags,
            signature=signature,
            model=origin.model_id or version.uri,
            metrics_from=origin.looked_in,
        )

    def log_verdict(self, verdict: Mapping[str, Any]) -> None:
        """Log the verdict, one line per check."""
        width = max(len(check["rule"]) for check in verdict["checks"])
        lines = [
            f"  {'passed' if check['passed'] else 'FAILED'}  {check['rule']:<{width}}  {check['reason']}"
            for check in verdict["checks"]
        ]
        title = f"{_label(verdict)} against {_champion_label(verdict)}: {verdict['validation_status']}"
        self.log.info("%s", "\n".join([title, *lines]))


class ValidateModelVersionOperator(_ValidationOperator):
    """Judge a version against the champion by a policy; fail unless it is approved.

    Metrics are those of the version's logged model, else those of its run; a metric that neither has, or that is not
    finite, refuses. Where the champion's model or alias does not exist yet, thresholds alone decide. A version that
    is the champion itself, or a copy of it, need not be better than itself.

    The verdict is written onto the version as tags: ``validation_status`` (``approved`` or ``rejected``),
    ``validation_reasons``, ``validated_against`` (``prod.ml_team.fraud/3`` or ``none``). The task log shows every
    check. Doing it twice is the same as doing it once.

    XCom: ``{"approved", "validation_status", "name", "version", "champion", "checks", "reasons"}``, as the return
    value, under the key ``verdict`` and by field, also where the task then fails; ``champion`` is a model version or
    None.

    Raises: a rejected version, unless ``fail_on_rejection`` is off, after tags and XCom are written; a missing
    candidate, or one that is not READY; a policy that is not one; an alias in other letter case.

    Privileges: Unity Catalog: EXECUTE on both models, APPLY TAG on the candidate's model or its ownership. MLflow
    basic auth: READ on both models and the experiments, EDIT on the candidate's model.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` of the candidate (str, templated)
    :param version: the candidate (int or str, templated)
    :param policy: a PromotionPolicy, or the same as a dict or JSON text (templated, unless it is a PromotionPolicy)
    :param champion_alias: the alias that names the champion (str, templated)
    :param champion_model_name: the model that has the champion; the candidate's by default (str, templated)
    :param fail_on_rejection: fail the task, without retries, if the version is rejected; if off, whoever comes next
        must read the verdict (bool)
    """

    def __init__(self, *, fail_on_rejection: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fail_on_rejection = fail_on_rejection

    def perform(self, context: Context) -> Any:
        """Judge the version."""
        verdict = self.judge(context)
        if not verdict["approved"] and self.fail_on_rejection:
            context["ti"].xcom_push(key="return_value", value=verdict)
            raise AirflowFailException(f"{_label(verdict)} is rejected: {'; '.join(verdict['reasons'])}")
        return verdict


class BranchOnModelValidationOperator(_ValidationOperator, BranchMixIn):
    """Judge a version like ValidateModelVersionOperator, and follow one branch or the other.

    Tasks directly downstream that the verdict does not name are skipped. A rejection does not fail the task.

    XCom: the list of followed task ids; the verdict under the key ``verdict`` and by field, such as ``approved``.

    Raises: task ids that are not directly downstream, before anything is asked; else as ValidateModelVersionOperator.

    Privileges: as ValidateModelVersionOperator.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param follow_if_approved: task or task group ids directly downstream (str or list of str, templated)
    :param follow_if_rejected: the same for a rejected version; none: all downstream is skipped
        (str or list of str, templated)
    """

    template_fields: Sequence[str] = (*_ValidationOperator.template_fields, "follow_if_approved", "follow_if_rejected")
    inherits_from_skipmixin = True

    def __init__(
        self,
        *,
        follow_if_approved: str | Sequence[str],
        follow_if_rejected: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.follow_if_approved = follow_if_approved
        self.follow_if_rejected = follow_if_rejected

    def perform(self, context: Context) -> Any:
        """Judge the version and skip what the verdict does not name."""
        approved = self._branches("follow_if_approved", self.follow_if_approved, context)
        rejected = self._branches("follow_if_rejected", self.follow_if_rejected or [], context)
        if set(approved) <= set(rejected):
            raise InvalidArgumentError(
                "follow_if_approved must name a task that follow_if_rejected does not; else the verdict is idle."
            )
        branches = approved if self.judge(context)["approved"] else rejected
        context["ti"].xcom_push(key="return_value", value=branches)
        return self.do_branch(context, branches)

    def _branches(self, parameter: str, value: str | Sequence[str], context: Context) -> list[str]:
        """Return task ids as a list; Airflow itself would skip everything for an id that is not downstream."""
        names = [value] if isinstance(value, str) else list(value)
        roots = set(self._expand_task_group_roots(context["ti"], names))
        if wrong := sorted(roots - self.downstream_task_ids):
            raise InvalidArgumentError(
                f"{parameter} names {', '.join(map(repr, wrong))}, not directly downstream of {self.task_id!r} "
                f"(downstream: {', '.join(map(repr, sorted(self.downstream_task_ids))) or 'none'})."
            )
        return names


def _write_tags(registry: Registry, verdict: Mapping[str, Any]) -> Call[None]:
    """Write the verdict onto the version; the status never says approved before the rest is written."""
    tags = [
        (STATUS_TAG, verdict["validation_status"]),
        (REASONS_TAG, _trimmed(verdict["reasons"])),
        (AGAINST_TAG, _champion_label(verdict)),
    ]
    for key, value in reversed(tags) if verdict["approved"] else tags:
        yield from registry.set_model_version_tag(verdict["name"], verdict["version"], key, value)


def _trimmed(reasons: Iterable[str]) -> str:
    text = "; ".join(reasons)
    return text if len(text) <= _MAX_TAG else text[: _MAX_TAG - 3] + "..."


def _label(verdict: Mapping[str, Any]) -> str:
    return f"{verdict['name']}/{verdict['version']}"


def _champion_label(verdict: Mapping[str, Any]) -> str:
    return _label(verdict["champion"]) if verdict["champion"] else "none"
