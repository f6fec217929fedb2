"""Operators that ask people for the approval of a model version, and that give it by Databricks' convention."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.exceptions import HITLRejectException
from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator

from airflow_uc_models.compat import AirflowFailException, AirflowSkipException
from airflow_uc_models.events import MODEL_VERSION_TAG_SET
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.names import parse_version
from airflow_uc_models.operators.base import ModelOperator, ModelVersionOperator, fail_without_retry
from airflow_uc_models.results import publish

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.approvals import Answer, ApprovalRequest
    from airflow_uc_models.entities import ModelVersion
    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call

_ANSWER_KEY = "uc_models_approval"
_CREATED_KEY = "created_at"
_VALUES = ("Approved", "Rejected")


class ApproveModelVersionOperator(ModelOperator, ApprovalOperator):
    """Ask people in the Airflow UI to approve a model version, and note on the version who did, and when.

    The required action shows the model and its version, its metrics beside the champion's, the verdict with every
    check, links to the report and to the version's and the run's pages, and until when to answer. Where
    ``response_timeout`` passes without an answer, the version is rejected. It takes what Airflow's ApprovalOperator
    takes, such as ``assigned_users`` and ``notifiers``, but no ``options``, ``multiple`` or ``defaults``.

    Tags of the version: ``approval_status`` is ``pending`` while the task waits, then ``approved`` or ``rejected``;
    ``approved_by`` and ``approved_at``, or ``rejected_by`` and ``rejected_at``, say who (the name of the user, or
    ``time-out``) and when (ISO 8601, UTC). Tags of an earlier answer are deleted.

    A cleared task asks again. So does a retry, unless an answer was given that could not be written: then Airflow 3.3
    and later remember it. Before 3.3 the triggerer must run, and looks for the answer every five seconds.

    XCom: ``{"name", "version", "approved", "approval_status", "by", "by_id", "at", "timed_out"}``, also where the
    task then fails.

    Raises: a rejection, without retries, unless ``fail_on_reject`` is off; before anybody is asked: a missing version,
    a verdict on another version, an empty list of ``assigned_users``, a registry without tags; a model that was
    deleted and made anew while it waited; without retries, too, a try that was about to ask when another try of the
    task was answered: the answer stays.

    Privileges: Unity Catalog: EXECUTE on the model and APPLY TAG on it or its ownership. MLflow basic auth: EDIT on the
    model, MANAGE where an earlier answer is to be deleted, READ on the experiment.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version to approve (int or str, templated)
    :param verdict: what a validation operator left in XCom under ``verdict``, to show it (dict, templated)
    :param subject: the headline; by default it names the version (str, templated)
    :param body: Markdown that is shown above all else (str, templated)
    :param fail_on_reject: a rejection fails the task; if off, the task succeeds and the tasks directly downstream are
        skipped, or if it is mapped or in a mapped task group, it is skipped itself (bool)
    :param response_timeout: how long to wait for an answer (timedelta, or seconds, above 0); by default as long as the
        task's ``execution_timeout``, and without that for ever
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "version", "verdict", "subject", "body")

    def __init__(
        self,
        *,
        version: int | str,
        verdict: Mapping[str, Any] | None = None,
        subject: str | None = None,
        body: str | None = None,
        fail_on_reject: bool = True,
        response_timeout: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            subject=subject,
            body=body,
            # Airflow's page highlights a default, and Approve would look like the wrong answer. A time-out rejects
            # all the same, see execute_complete.
            defaults=None,
            fail_on_reject=fail_on_reject,
            **_time_out(response_timeout),
            **kwargs,
        )
        self.version = version
        self.verdict = verdict

    def validate_params(self) -> None:
        """Accept all: values come from the approver, and old releases would check those of the Dag here."""

    @property
    def serialized_params(self) -> dict[str, dict[str, Any]]:
        """The fields of the form: the task's own; Airflow 3.1 would add the params of the Dag."""
        dag = self.get_dag()
        of_dag = dag.params if dag else {}
        return {key: value for key, value in super().serialized_params.items() if key not in of_dag}

    def perform(self, context: Context) -> Any:
        """Ask, unless an earlier try was answered and could not write that down."""
        from airflow_uc_models.approvals import PENDING, TIME_FORMAT
        from airflow_uc_models.registry.approval import NO_TAGS, note_approval

        name, number = self.hook.registry.normalize(self.model_name), parse_version(self.version)
        self.hook.registry.tag_rules(NO_TAGS)
        if self.assigned_users is not None and not self.assigned_users:
            raise InvalidArgumentError(
                "assigned_users is empty, and so anybody could answer. Name somebody, or leave it out if that is meant."
            )
        version = self.hook.run(self.hook.registry.get_model_version(name, number))
        if kept := _kept(context, self._asked(context, version.created_at)):
            return self._conclude(context, kept, version.created_at)
        request = self._request(version)
        self.link_to(context, name, number)
        context["ti"].xcom_push(key=_CREATED_KEY, value=version.created_at)
        self.subject, self.body = self.subject or request.subject(), request.body(self.body)
        self.hook.run(note_approval(self.hook.registry, name, number, PENDING))
        self._expect_no_answer(context, version)
        until = f" until {request.deadline:{TIME_FORMAT}}" if request.deadline else ""
        self.log_effect("Waiting%s for an approval of version %s of %s", until, number, name)
        self.log.debug("%s\n%s", self.subject, self.body)
        return ApprovalOperator.execute(self, context)  # does not return: the task waits without a process

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Write the answer down and follow it."""
        with fail_without_retry(self.registry_conn_id):
            if event.get("error_type") == "timeout":
                event = self._rejection_by_time_out()
            elif "error" in event:
                self.process_trigger_event_error(event)
            created_at = _left(context, _CREATED_KEY)
            _keep(context, event, self._asked(context, created_at))
            return self._conclude(context, event, created_at)

    def _expect_no_answer(self, context: Context, version: ModelVersion) -> None:
        """Fail if another try of this task was answered meanwhile; its answer stays on the version."""
        from airflow_uc_models.approvals import Answer
        from airflow_uc_models.registry.approval import note_approval

        told = _left(context, "return_value")
        if not told:
            return
        answer = Answer.from_xcom(told)
        note = note_approval(self.hook.registry, version.name, version.version, answer.status, answer.tags())
        self.hook.run(note)
        raise AirflowFailException(
            f"{version.name}/{version.version} was {answer.status} by {answer.by} at {answer.at}: another try of this "
            "task was answered while this one was about to ask."
        )

    def _rejection_by_time_out(self) -> dict[str, Any]:
        """Return what counts as the answer where nobody gave one in time."""
        now = datetime.now(UTC)
        return {"chosen_options": [self.REJECT], "params_input": {}, "responded_at": now, "responded_by_user": None}

    def _deadline(self) -> datetime | None:
        """Return when the wait ends that begins now."""
        # Older releases of the standard provider know the task's execution_timeout only.
        wait = getattr(self, "response_timeout", None) or self.execution_timeout
        return datetime.now(UTC) + wait if wait else None

    def _asked(self, context: Context, created_at: int | None) -> str:
        """Return what an answer is an answer to; another version, or this one after a clear, is another question."""
        name, number = self.hook.registry.normalize(self.model_name), parse_version(self.version)
        # Clearing raises max_tries, and leaves what is kept for retries where it is.
        return f"{name}/{number} {created_at} {context['ti'].max_tries}"

    def _request(self, version: ModelVersion) -> ApprovalRequest:
        from airflow_uc_models.approvals import ApprovalRequest
        from airflow_uc_models.entities import ModelVersion
        from airflow_uc_models.hooks.run_pages import report_page, run_page
        from airflow_uc_models.registry.facts import Origin, origin_of

        registry, endpoint = self.hook.registry, self.hook.endpoint
        verdict = self._checked_verdict(version)
        origin, champion, of_champion = self.hook.run(origin_of(registry, version)), None, Origin()
        if verdict and verdict.get("champion"):
            champion = ModelVersion.from_xcom(verdict["champion"])
            of_champion = self.hook.run(origin_of(registry, champion))
        links = {
            "report": self.hook.run(report_page(registry, endpoint, (verdict or {}).get("report"))),
            "model version": endpoint.model_version_url(version.name, version.version),
            "run": self.hook.run(run_page(registry, endpoint, version.run_id)),
        }
        return ApprovalRequest(
            version, origin.metrics, champion, of_champion.metrics, verdict, links, deadline=self._deadline()
        )

    def _checked_verdict(self, version: ModelVersion) -> Mapping[str, Any] | None:
        from airflow_uc_models.registry.approval import expect_created_at

        verdict = self.verdict
        if not verdict:
            return None
        if not isinstance(verdict, Mapping):
            raise InvalidArgumentError(
                f"verdict is the dict that a validation operator left in XCom, not {verdict!r:.80}. Give it as "
                'validate.output["verdict"]; a template turns it into text.'
            )
        if (verdict.get("name"), verdict.get("version")) != (version.name, version.version):
            raise InvalidArgumentError(
                f"The verdict is on {verdict.get('name')}/{verdict.get('version')}, and {version.name}/"
                f"{version.version} is to be approved. Give both operators the same model_name and version."
            )
        expect_created_at(version, verdict.get("created_at"))
        return verdict

    def _conclude(self, context: Context, event: dict[str, Any], created_at: int | None) -> Any:
        """Write the answer onto the version, leave it in XCom, fail or skip after a rejection."""
        from airflow_uc_models.approvals import STATUS_TAG
        from airflow_uc_models.registry.approval import keep_answer, note_approval

        name, number = self.hook.registry.normalize(self.model_name), parse_version(self.version)
        answer = self._answer(event)
        tags = answer.tags()
        note = note_approval(self.hook.registry, name, number, answer.status, tags, created_at=created_at)
        before = self.hook.run(note)
        outcome = "Approved" if answer.approved else "Rejected"
        self.log_effect("%s version %s of %s: by %s at %s", outcome, number, name, answer.by, answer.at)
        self.link_to(context, name, number)
        result = publish(context, {"name": name, "version": number, **answer.to_xcom()})
        context["ti"].xcom_push(
            key="return_value", value=result
        )  # failing and skipping end the task before Airflow does
        # Only now a try that is about to ask sees the answer; one that asked before has taken it off the version.
        self.hook.run(keep_answer(self.hook.registry, name, number, answer.status, tags))
        changes = _changes({STATUS_TAG: answer.status, **tags}, before)
        self.tell(context, MODEL_VERSION_TAG_SET, name, *changes)
        self._emit(context)
        _keep(context, None)
        if not (answer.approved or self.fail_on_reject) and context["ti"].map_index not in (None, -1):
            # Airflow cannot skip what is downstream of one of many, and would run it: a gate passed by accident.
            raise AirflowSkipException(f"{name}/{number} was rejected by {answer.by} at {answer.at}")
        try:
            super().execute_complete(context, event)  # skips after a rejection
        except HITLRejectException:
            raise AirflowFailException(f"{name}/{number} was rejected by {answer.by} at {answer.at}") from None
        return result

    def _answer(self, event: Mapping[str, Any]) -> Answer:
        from airflow_uc_models.approvals import Answer

        chosen = list(event["chosen_options"])
        self.validate_chosen_options(chosen)
        if len(chosen) != 1:
            raise InvalidArgumentError(f"The response is {chosen!r}; one of {self.options!r} was asked for.")
        return Answer.of(
            approved=chosen == [self.APPROVE], user=event.get("responded_by_user"), at=event["responded_at"]
        )


class SetModelVersionApprovalTagOperator(ModelVersionOperator):
    """Approve or reject a model version by the tag that the approval task of a Databricks deployment job looks for.

    The tag is named like that task, whose name begins with ``approval``. A run of the job that has failed there
    already must be repaired; the next one passes. ModelVersionTagSensor waits for the same tag in Airflow.

    XCom: the model version with all its tags.

    Raises: missing version or alias; a name that is none of an approval task, or a value other than these two, before
    any call.

    Privileges: Unity Catalog: APPLY TAG and EXECUTE on the model or its ownership. MLflow basic auth: EDIT.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param model_name: ``catalog.schema.model`` (str, templated)
    :param version: the version; give this or ``alias`` (int or str, templated)
    :param alias: the alias that names the version (str, templated)
    :param tag: the name of the approval task (str, templated)
    :param value: ``Approved`` or ``Rejected`` (str, templated)
    """

    template_fields: Sequence[str] = (*ModelVersionOperator.template_fields, "tag", "value")

    def __init__(self, *, tag: str, value: str = "Approved", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tag = tag
        self.value = value

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """Set the tag."""
        from airflow_uc_models.registry.approval import NO_TAGS
        from airflow_uc_models.registry.registration import resolve

        if not str(self.tag).casefold().startswith("approval"):
            raise InvalidArgumentError(
                f"tag is {self.tag!r}: Databricks takes a task for an approval task only if its name begins with "
                "'approval', and looks for a tag of that name."
            )
        if self.value not in _VALUES:
            raise InvalidArgumentError(f"value is one of {', '.join(_VALUES)}, not {self.value!r}: letter case counts.")
        tags = {self.tag: self.value}
        registry.tag_rules(NO_TAGS).check(tags)
        before = yield from resolve(registry, self.reference())
        yield from registry.set_model_version_tag(before.name, before.version, self.tag, self.value)
        self.log_effect("Set tags of %s/%s: %s=%r", before.name, before.version, self.tag, self.value)
        self.link_to(context, before.name, before.version)
        self.tell(context, MODEL_VERSION_TAG_SET, before.name, *_changes(tags, before))
        return (yield from registry.get_model_version(before.name, before.version)).to_xcom()


def _changes(tags: Mapping[str, str], before: ModelVersion) -> list[dict[str, Any]]:
    """Return what setting tags changes, for the outlets."""
    was = before.tags
    changed = {key: value for key, value in tags.items() if was.get(key) != value}
    return [
        {"version": before.version, "tag_key": key, "tag_value": value, "from_value": was.get(key)}
        for key, value in changed.items()
    ]


def _time_out(seconds: float | timedelta | None) -> dict[str, Any]:
    """Return the wait as the installed release of the standard provider wants it."""
    if seconds is None:
        return {}
    named = "response_timeout" in inspect.signature(HITLOperator.__init__).parameters
    wait = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
    if wait <= timedelta(0):  # which Airflow takes for no end at all
        raise InvalidArgumentError(f"response_timeout is how long to wait for an answer, above 0, not {seconds!r}.")
    return {"response_timeout" if named else "execution_timeout": wait}


def _left(context: Context, key: str) -> Any:
    """Return what a try of this task, or of this one of its mapped tasks, has left in XCom."""
    ti: Any = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=map_index)


def _kept(context: Context, asked: str) -> dict[str, Any] | None:
    """Return the answer that an earlier try could not write down; Airflow keeps none before 3.3."""
    store: Any = context.get("task_state_store")
    kept = store.get(_ANSWER_KEY) if store is not None else None
    if not kept or kept.get("asked") != asked:
        return None
    return {**kept, "responded_at": datetime.fromisoformat(kept["responded_at"])}


def _keep(context: Context, event: Mapping[str, Any] | None, asked: str = "") -> None:
    store: Any = context.get("task_state_store")
    if store is None:
        return
    if event is None:
        store.delete(_ANSWER_KEY)
    else:
        user = event.get("responded_by_user")
        kept = {"chosen_options": list(event["chosen_options"]), "params_input": event.get("params_input") or {}}
        at, by = event["responded_at"].isoformat(), dict(user) if user else None
        store.set(_ANSWER_KEY, {**kept, "responded_by_user": by, "responded_at": at, "asked": asked})
