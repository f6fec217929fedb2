"""What all sensors share: one condition, evaluated by the worker or by the triggerer, and how the wait ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_uc_models.compat import AirflowFailException, AirflowSensorTimeout, AirflowSkipException, conf
from airflow_uc_models.exceptions import UCModelsError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.links import ModelVersionLink, store_link
from airflow_uc_models.operators.base import fail_without_retry
from airflow_uc_models.operators.text_fields import TextFieldsMixin
from airflow_uc_models.results import publish

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.conditions import Condition, Outcome

# The trigger reports a timeout itself. Should no triggerer run, the scheduler ends the wait this much later.
_TRIGGER_GRACE = timedelta(minutes=5)


class RegistrySensor(TextFieldsMixin, BaseSensorOperator):
    """Base of all sensors that wait for something in a model registry.

    Every option of Airflow's sensors works alike in ``mode="poke"``, in ``mode="reschedule"`` and deferred. What
    waiting cannot mend fails at once and is not retried: a bad name or parameter, a missing model, a missing
    privilege, refused credentials. A registry that gives no answer for a while is ridden out, with a warning,
    until ``timeout``. A timeout is AirflowSensorTimeout, which is not retried either. ``soft_fail`` and
    ``never_fail`` turn both into skipped.

    :param registry_conn_id: connection of the registry (str, templated)
    :param deferrable: wait in the triggerer, without a worker slot (bool; default: ``[operators]
        default_deferrable``)
    :param poll_interval: seconds between two looks (float or timedelta; default 60). Airflow's own name for it,
        ``poke_interval``, is understood, too; where both are given this one counts
    """

    template_fields: Sequence[str] = ("registry_conn_id",)
    operator_extra_links = (ModelVersionLink(),)
    ui_color = "#e8f4fa"

    def __init__(
        self,
        *,
        registry_conn_id: str = ModelRegistryHook.default_conn_name,
        deferrable: bool | None = None,
        poll_interval: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        from airflow_uc_models.registry.watch import Looked
        from airflow_uc_models.triggers.waiting_log import WaitingLog

        if poll_interval is not None:
            kwargs["poke_interval"] = poll_interval
        super().__init__(**kwargs)
        self.registry_conn_id = registry_conn_id
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False) if deferrable is None else deferrable
        )
        self._condition: Condition | None = None
        self._started = 0.0
        self._looked = Looked()
        self._waiting = WaitingLog(self.log)

    @property
    def poll_interval(self) -> float:
        """Seconds between two looks."""
        return float(self.poke_interval)

    @cached_property
    def hook(self) -> ModelRegistryHook:
        """The hook of ``registry_conn_id``."""
        return ModelRegistryHook(self.registry_conn_id)

    def condition(self, context: Context) -> Condition:
        """Return what to wait for; asked once per execution.

        Raises: FoundByAnotherTry, where another try of this task instance has found it.
        """
        raise NotImplementedError

    def remember(self, context: Context, found: dict[str, Any]) -> None:
        """Take note that the wait ended on this version or model, given as for XCom; a version may have failed."""

    def execute(self, context: Context) -> Any:
        """Wait; what was waited for goes to XCom."""
        from airflow_uc_models.registry.watch import Looked
        from airflow_uc_models.triggers.waiting_log import StoredReason, WaitingLog, timed_out

        self._condition, self._started, self._looked = None, time.time(), Looked()
        store = context.get("task_state_store") if self.reschedule else None
        self._waiting = WaitingLog(self.log, StoredReason.of(store, context["ti"].try_number))
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            # Airflow does the same for a deferred sensor, but leaves it out for one that pokes.
            if self.never_fail:
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            if self._condition is None:
                raise
            raise AirflowSensorTimeout(timed_out(self._condition, self._waiting.reason)) from error

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once. A deferrable sensor that has to wait leaves from here."""
        from airflow_uc_models.conditions import FoundAlready, Waiting
        from airflow_uc_models.registry.watch import Looked
        from airflow_uc_models.sensors.handled import FoundByAnotherTry

        with fail_without_retry(self.registry_conn_id):
            if self._condition is None:
                self.check_text()
                try:
                    self._condition = self.condition(context)
                except FoundByAnotherTry as other:
                    self.log.info("%s", other)
                    self._condition = FoundAlready(other.kept["name"], other.kept.get("version"))
                if self._condition.model_name is not None:
                    self._link_to(context, self._condition.model_name)
            if time.time() + self.poll_interval >= self._started + self.timeout:
                self._looked = Looked()  # the last look leaves nothing out
            outcome = self._look(self._condition)
        if not isinstance(outcome, Waiting):
            return PokeReturnValue(True, self._end(context, outcome.to_event(self.hook.endpoint.connection_label)))
        if self.deferrable:
            # TaskDeferred is no Exception: it passes through Airflow's loop around this method, which thus stays
            # the one place that handles soft_fail, never_fail and silent_fail.
            self._defer(self._condition)
        return PokeReturnValue(False)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """End a deferred wait."""
        return self._end(context, event)

    def _look(self, condition: Condition) -> Outcome:
        from airflow_uc_models.registry.watch import evaluate

        try:
            look = evaluate(self.hook.registry, condition, self._looked)
            outcome = self.hook.run(look, quiet=self._waiting.in_trouble)
        except UCModelsError as error:
            if error.permanent:
                raise
            return self._waiting.ride_out(error)
        return self._waiting.tell(outcome)

    def _defer(self, condition: Condition) -> None:
        from airflow_uc_models.triggers.condition import ConditionTrigger

        deadline = self._started + self.timeout
        backoff = self.max_wait.total_seconds() if self.max_wait else float(self.timeout)
        self.defer(
            trigger=ConditionTrigger(
                condition=condition.to_json(),
                registry_conn_id=self.registry_conn_id,
                reason=self._waiting.logged,
                poll_interval=self.poll_interval,
                deadline=deadline,
                max_poll_interval=backoff if self.exponential_backoff else None,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, deadline - time.time())) + _TRIGGER_GRACE,
        )

    def _end(self, context: Context, event: dict[str, Any]) -> Any:
        """Return what goes to XCom, or raise: the same for a poke and for a trigger's event."""
        if event["outcome"] == "timeout":
            raise AirflowSensorTimeout(event["message"])
        found: Any = event.get("version") or event.get("model")
        if found is not None:
            self._link_to(context, found["name"], found.get("version"))
            self.remember(context, found)
        if event["outcome"] == "failed":
            raise AirflowFailException(event["message"])
        self.log.info("Found %s, as waited for, on connection %r", found["uri"], self.registry_conn_id)
        return publish(context, found)

    def _link_to(self, context: Context, name: str, version: int | None = None) -> None:
        store_link(context, self.hook.endpoint.model_version_url(name, version))
