"""Operators that judge a candidate version against the champion before it is promoted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg

from airflow_uc_models.compat import AirflowFailException
from airflow_uc_models.exceptions import InvalidArgumentError, ModelVersionFailedError
from airflow_uc_models.lazy import lazy_names
from airflow_uc_models.names import parse_alias, parse_version
from airflow_uc_models.operators.base import ModelOperator
from airflow_uc_models.results import publish

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.entities import ModelVersion
    from airflow_uc_models.policies import Facts, PromotionPolicy
    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call
    from airflow_uc_models.registry.facts import Origin

VERDICT_KEY = "verdict"
STATUS_TAG = "validation_status"
REASONS_TAG = "validation_reasons"
AGAINST_TAG = "validated_against"
_MAX_TAG = 1_000


class ValidationBase(ModelOperator):
    """Base of operators that judge a version; what follows from the verdict is up to them.

    Registries: MLflow server, Unity Catalog on Databricks.
    """

    template_fields: Sequence[str] = (
        *ModelOperator.template_fields,
        "version",
        "policy",
        "champion_alias",
        "champion_model_name",
    )
    names_of_models: tuple[str, ...] = ("champion_model_name",)

    def __init__(
        self,
        *,
        version: int | str,
        policy: PromotionPolicy | Mapping[str, Any] | str,
        champion_alias: str = "Champion",
        champion_model_name: str | None = None,
        log_report: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.policy = policy
        self.champion_alias = champion_alias
        self.champion_model_name = champion_model_name
        self.log_report = log_report

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render; a name that comes to None must not be taken for one that was left out, or for another model."""
        given = [name for name in self.names_of_models if isinstance(getattr(self, name), str | XComArg)]
        super().render_template_fields(context, jinja_env)
        if lost := [name for name in given if getattr(self, name) is None]:
            raise AirflowFailException(
                f"{lost[0]} is None: the template or task that it is taken from gave nothing. Leave it out if that is "
                "meant."
            )

    def judge(self, context: Context) -> dict[str, Any]:
        """Judge the version, push the verdict under the key ``verdict``, write tags and report, and return it."""
        from airflow_uc_models.policies import PromotionPolicy
        from airflow_uc_models.validation_report import report_path

        policy = PromotionPolicy.of(self.policy)
        candidate, champion = self.hook.run(self._pair(self.hook.registry))
        self.link_to(context, candidate.name, candidate.version)
        path = report_path(candidate.name, candidate.version, self._report_key(context, candidate))
        facts, against, origin = self._facts(context, policy, candidate, champion, path)
        verdict = {
            "name": candidate.name,
            "version": candidate.version,
            "created_at": candidate.created_at,
            "champion": champion and champion.to_xcom(),
            **policy.judge(facts, against).to_xcom(),
        }
        verdict["report"] = self._report(verdict, origin.run_id, path)
        self.log_verdict(verdict)
        if verdict["approved"]:
            self._write(context, verdict, facts, origin)
        # Also where the task then fails or skips: both end it before Airflow keeps what it returns. But nobody shall
        # read an approval there that could not be written.
        context["ti"].xcom_push(key=VERDICT_KEY, value=verdict)
        publish(context, verdict)
        if not verdict["approved"]:
            self._write(context, verdict, facts, origin)
        return verdict

    def _facts(
        self,
        context: Context,
        policy: PromotionPolicy,
        candidate: ModelVersion,
        champion: ModelVersion | None,
        path: str,
    ) -> tuple[Facts, Facts | None, Origin]:
        """Gather what the rules ask of both, and where the candidate came from."""
        from airflow_uc_models.hooks.version_facts import candidate_facts, champion_facts
        from airflow_uc_models.validation_report import unfinished

        facts, origin = candidate_facts(self.hook, candidate, policy, datetime.now(UTC))
        against = None
        if champion is not None:
            shown = self.log_report and bool(policy.metric_rules)
            against = champion_facts(self.hook, champion, policy, needs_metrics=shown)
        if policy.runs_models:
            from airflow_uc_models.operators.trials import Trials

            if self.log_report and origin.run_id:  # a run that takes no report refuses before the models are tried
                version = {"name": candidate.name, "version": candidate.version}
                self._log_page(origin.run_id, path, unfinished(version, self._origin(context)))
            trials = Trials(self.hook, policy)
            facts = trials.candidate(candidate, facts)
            if champion is not None and against is not None:
                against = trials.champion(champion, against, facts)
        return facts, against, origin

    def _log_metrics(self, facts: Facts, origin: Origin, verdict: Mapping[str, Any]) -> None:
        """Log what was measured to the candidate's run, beside what its training logged."""
        from airflow_uc_models.evaluation import METRIC_PREFIX
        from airflow_uc_models.validation_report import version_label

        found = {METRIC_PREFIX + name: facts.metrics[name] for name in facts.evaluated_on}
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        if finite and origin.run_id is None:
            self.log.warning("%s has no run on this server: its metrics are not logged", version_label(verdict))
        elif finite and origin.run_id:
            from airflow_uc_models.hooks.artifacts import log_metrics

            model_id = origin.model_id if origin.has_model else None
            log_metrics(self.hook, origin.run_id, finite, model_id, action=f"log metrics to run {origin.run_id}")

    def _pair(self, registry: Registry) -> Call[tuple[ModelVersion, ModelVersion | None]]:
        """Get the candidate, which must be READY, and the champion, which need not exist yet."""
        from airflow_uc_models.entities import FAILED_REGISTRATION
        from airflow_uc_models.registry.facts import champion_of

        registry.tag_rules(
            "A verdict is a set of tags, and the champion is found by alias. Validate before the copy, in an MLflow "
            "server or in Unity Catalog on Databricks."
        )
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

    def _report(self, verdict: Mapping[str, Any], run_id: str | None, path: str) -> str | None:
        """Return where the report goes; None if nowhere."""
        from airflow_uc_models.validation_report import version_label

        if not self.log_report:
            return None
        if run_id is None:
            self.log.warning("%s has no run on this server: its report is not logged", version_label(verdict))
            return None
        return f"runs:/{run_id}/{path}"

    def _report_key(self, context: Context, candidate: ModelVersion) -> str:
        """Return what tells the report of this verdict from all others; retries have one in common."""
        # Clearing raises max_tries: what is judged again then gets a report of its own.
        key = self.task_key(context, f"judge {candidate.name}/{candidate.version} {context['ti'].max_tries}")
        run_after = getattr(context.get("dag_run"), "run_after", None)
        return f"{run_after:%Y%m%dT%H%M%SZ}-{key[:8]}" if run_after else key[:16]

    def _origin(self, context: Context) -> dict[str, str]:
        ti = context["ti"]
        return {"Dag": ti.dag_id, "Dag run": ti.run_id, "Task": ti.task_id, "Connection": self.registry_conn_id}

    def _write(self, context: Context, verdict: Mapping[str, Any], facts: Facts, origin: Origin) -> None:
        """Write tags, metrics and report; what approves a version is the last, and what rejects it the first."""
        if not verdict["approved"]:
            self.hook.run(_write_tags(self.hook.registry, verdict))
        self._log_metrics(facts, origin, verdict)
        self._log_report(context, verdict, origin.run_id)
        if verdict["approved"]:
            self.hook.run(_write_tags(self.hook.registry, verdict))

    def _log_report(self, context: Context, verdict: Mapping[str, Any], run_id: str | None) -> None:
        from airflow_uc_models.hooks.run_pages import run_page
        from airflow_uc_models.validation_report import Report

        if not (verdict["report"] and run_id):
            return
        endpoint, champion = self.hook.endpoint, verdict["champion"]
        links = {
            "Candidate": endpoint.model_version_url(verdict["name"], verdict["version"]),
            "Champion": endpoint.model_version_url(champion["name"], champion["version"]) if champion else "",
            "Run": self.hook.run(run_page(self.hook.registry, endpoint, run_id)),
        }
        path = verdict["report"].removeprefix(f"runs:/{run_id}/")
        self._log_page(run_id, path, Report(verdict, self._origin(context), links).html())

    def _log_page(self, run_id: str, path: str, page: str) -> None:
        from airflow_uc_models.hooks.artifacts import log_texts

        action = f"log the report to run {run_id}, which log_report=False leaves out,"
        folder, _, name = path.rpartition("/")
        log_texts(self.hook, run_id, folder, {name: page}, action=action)

    def log_verdict(self, verdict: Mapping[str, Any]) -> None:
        """Log the verdict, one line per check."""
        from airflow_uc_models.validation_report import champion_label, version_label

        width = max(len(check["rule"]) for check in verdict["checks"])
        lines = [
            f"  {'passed' if check['passed'] else 'FAILED'}  {check['rule']:<{width}}  {check['reason']}"
            for check in verdict["checks"]
        ]
        status = str(verdict["validation_status"]).capitalize()
        title = f"{status} {version_label(verdict)} against champion {champion_label(verdict)}"
        report = [f"  report  {verdict['report']}"] if verdict["report"] else []
        self.log.info("%s", "\n".join([f"{title}, on connection {self.registry_conn_id!r}", *lines, *report]))


class ValidateModelVersionOperator(ValidationBase):
    """Judge a version against the champion by a policy; fail unless it is approved.

    Metrics are those that the policy's ``evaluation`` measures, if it has one, else those of the version's logged
    model, else those of its run; a metric that none has, or that is not finite, refuses. Where the champion's model or
    alias does not exist yet, thresholds alone decide. A version that is the champion itself, or a copy of it, need not
    be better than itself.

    The verdict is written onto the version as tags: ``validation_status`` (``approved`` or ``rejected``),
    ``validation_reasons``, ``validated_against`` (``prod.ml_team.fraud/3`` or ``none``). The task log shows every
    check. A report, an HTML page with a chart of the metrics that the MLflow UI shows, goes to the artifacts of the
    version's run, if the server has it: ``validation/<model_name>-v<version>/<time of the Dag run>-<key>.html``. Each
    verdict has a report of its own; a retry writes that of its earlier try anew.

    XCom: ``{"approved", "validation_status", "name", "version", "created_at", "champion", "checks", "reasons",
    "metrics", "report"}``, as the return value, under the key ``verdict`` and by field, also where a rejection fails
    the task; ``created_at`` is the version's, in milliseconds since the epoch, ``champion`` a model version or None,
    ``metrics`` holds both sides by metric, ``report`` is a ``runs:/`` URI or None. An approval that could not be
    written onto the version is not in XCom either.

    Raises: a rejected version, unless ``fail_on_rejection`` is off, after tags, report and XCom are written; a missing
    candidate, or one that is not READY; a policy that is not one; an alias in other letter case; data of an
    evaluation that cannot be read or do not fit a model; an environment that cannot be built.

    Privileges: Unity Catalog: EXECUTE on both models, APPLY TAG on the candidate's model or its ownership. MLflow
    basic auth: READ on both models and the experiments, EDIT on the candidate's model and, for the report, on the
    experiment of its run.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` of the candidate (str, templated)
    :param version: the candidate (int or str, templated)
    :param policy: a PromotionPolicy, or the same as a dict or JSON text (templated, unless it is a PromotionPolicy)
    :param champion_alias: the alias that names the champion (str, templated)
    :param champion_model_name: the model that has the champion; the candidate's by default (str, templated)
    :param log_report: log the report to the version's run; a version without one is judged all the same (bool)
    :param fail_on_rejection: fail the task, without retries, if the version is rejected; if off, whoever comes next
        must read the verdict (bool)
    """

    def __init__(self, *, fail_on_rejection: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fail_on_rejection = fail_on_rejection

    def perform(self, context: Context) -> Any:
        """Judge the version."""
        from airflow_uc_models.validation_report import version_label

        verdict = self.judge(context)
        if not verdict["approved"] and self.fail_on_rejection is not False:  # None does not open the gate
            context["ti"].xcom_push(key="return_value", value=verdict)
            raise AirflowFailException(f"{version_label(verdict)} is rejected: {'; '.join(verdict['reasons'])}")
        return verdict


def _write_tags(registry: Registry, verdict: Mapping[str, Any]) -> Call[None]:
    """Write the verdict onto the version; the status never says approved before the rest is written."""
    from airflow_uc_models.validation_report import champion_label

    tags = [
        (STATUS_TAG, verdict["validation_status"]),
        (REASONS_TAG, reasons_tag(verdict)),
        (AGAINST_TAG, champion_label(verdict)),
    ]
    for key, value in reversed(tags) if verdict["approved"] else tags:
        yield from registry.set_model_version_tag(verdict["name"], verdict["version"], key, value)


def reasons_tag(verdict: Mapping[str, Any]) -> str:
    """Return the reasons as a value that every registry takes: not too long, and no blanks at its ends."""
    text = " ".join("; ".join(verdict["reasons"]).split())
    return text if len(text) <= _MAX_TAG else text[: _MAX_TAG - 3] + "..."


# They were here once; who imports them from here still may.
__getattr__, _ = lazy_names(
    "airflow_uc_models.operators",
    dict.fromkeys(("BranchOnModelValidationOperator", "ShortCircuitOnModelValidationOperator"), "validation_branch"),
)
