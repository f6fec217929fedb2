"""Operators that judge a candidate version and decide by the verdict which tasks run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.branch import BranchMixIn
from airflow.providers.standard.utils.skipmixin import SkipMixin

from airflow_uc_models.compat import AirflowSkipException
from airflow_uc_models.exceptions import InvalidArgumentError
from airflow_uc_models.operators.validation import ValidationBase

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


class BranchOnModelValidationOperator(ValidationBase, BranchMixIn):
    """Judge a version like ValidateModelVersionOperator, and follow one branch or the other.

    Tasks directly downstream that the verdict does not name are skipped. A rejection does not fail the task.

    XCom: the list of followed task ids; the verdict under the key ``verdict`` and by field, such as ``approved``.

    Raises: task ids that are not directly downstream, and being mapped or in a mapped task group, where Airflow would
    run both branches, before anything is asked; else as ValidateModelVersionOperator.

    Privileges: as ValidateModelVersionOperator.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param follow_if_approved: task or task group ids directly downstream (str or list of str, templated)
    :param follow_if_rejected: the same for a rejected version; none: all downstream is skipped
        (str or list of str, templated)
    """

    template_fields: Sequence[str] = (*ValidationBase.template_fields, "follow_if_approved", "follow_if_rejected")
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
        if _is_mapped(context):
            raise InvalidArgumentError(
                f"{self.task_id!r} is mapped or in a mapped task group, where Airflow skips no branch and would run "
                "both. Use ShortCircuitOnModelValidationOperator or ValidateModelVersionOperator there."
            )
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


class ShortCircuitOnModelValidationOperator(ValidationBase, SkipMixin):
    """Judge a version like ValidateModelVersionOperator, and skip what is downstream unless it is approved.

    It skips as Airflow's ShortCircuitOperator does: teardown tasks are left alone, and so are mapped tasks that are not
    directly downstream. A rejection does not fail the task. Where it is mapped or in a mapped task group, Airflow would
    skip nothing downstream, and so the task itself is skipped; what comes next follows by its trigger rule.

    XCom: as ValidateModelVersionOperator.

    Raises: as ValidateModelVersionOperator, but for a rejected version.

    Privileges: as ValidateModelVersionOperator.
    Registries: MLflow server, Unity Catalog on Databricks.

    :param ignore_downstream_trigger_rules: skip all tasks downstream, also those whose trigger rule would let them
        run; if off, only those directly downstream are skipped, and the trigger rules of others decide (bool)
    """

    inherits_from_skipmixin = True

    def __init__(self, *, ignore_downstream_trigger_rules: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_downstream_trigger_rules = ignore_downstream_trigger_rules

    def perform(self, context: Context) -> Any:
        """Judge the version and skip what is downstream of a rejected one."""
        from airflow_uc_models.validation_report import version_label

        verdict = self.judge(context)
        if not verdict["approved"]:
            context["ti"].xcom_push(key="return_value", value=verdict)
            if _is_mapped(context):
                raise AirflowSkipException(f"{version_label(verdict)} is rejected.")
            self.skip(ti=context["ti"], tasks=self._skipped(context))  # it ends the task
        return verdict

    def _skipped(self, context: Context) -> Iterator[Any]:
        task = context["task"]
        relatives = task.get_flat_relatives if self.ignore_downstream_trigger_rules else task.get_direct_relatives
        return (relative for relative in relatives(upstream=False) if not relative.is_teardown)


def _is_mapped(context: Context) -> bool:
    """Whether this is one of many: what SkipMixin skips of those runs nevertheless, and the gate would stand open."""
    return context["ti"].map_index not in (None, -1)
