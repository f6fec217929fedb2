"""Operators that take up every new version, once each, whatever woke the Dag: list, work, mark as handled."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import Asset, BaseOperator, TaskGroup, TriggerRule, XComArg

from airflow_uc_models.compat import AirflowFailException, conf
from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import InvalidArgumentError, NotFoundError
from airflow_uc_models.operators.base import ModelRegistryOperator, fail_without_retry
from airflow_uc_models.operators.watermark_store import WatermarkStore, watermark_key
from airflow_uc_models.watermark import Handled, Watermark

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_uc_models.registry.base import Registry
    from airflow_uc_models.registry.call import Call
    from airflow_uc_models.registry.pending import Pending

_LISTED = "pending_listed"
_NAMED_IN_MESSAGES = 10


class PendingModelVersionsOperator(ModelRegistryOperator):
    """List every READY version that this consumer has not handled yet, oldest first, for ``.expand``.

    ::

        pending = PendingModelVersionsOperator(task_id="pending", scope="prod.ml_team.*", registry_conn_id="databricks")
        validated = validate.expand(version=pending.output)
        MarkModelVersionsHandledOperator(task_id="mark", pending=pending.output, handled=validated)

    The first task of any Dag that new versions start, whatever starts it: an asset event wakes a Dag, but a burst of
    events starts one run, so what to do is asked of the registry. A later task, MarkModelVersionsHandledOperator,
    moves the watermark when the work is done; what failed, or was never reached, is listed again by the next run.

    * The watermark is the set of handled numbers per model. A version that becomes READY late is found although newer
      ones were handled; so is every version of a model that was deleted and made again under its name.
    * With nothing handled before, every READY version is pending, but for those that ``created_after`` leaves out.
    * Versions in PENDING_REGISTRATION are left for later runs. Those in FAILED_REGISTRATION are logged and left out.
    * At most ``[core] max_map_length`` versions are listed, as Airflow maps no more; later runs list the others.
    * An empty list skips the tasks that are mapped over it.
    * Two runs side by side list the same versions. Set ``max_active_runs=1`` on the Dag.
    * ``tags`` are those of the moment: a version that is tagged later is listed then.

    What a Dag run marked never counts as handled for the run itself: cleared, it lists its versions again, and new
    ones. Of two tries of the task at once, the later one returns the list of the earlier one, over which work may be
    mapped already.

    On Airflow 3.3 with ``asset``, the watermark lives in the state store of that asset, for as long as a Dag refers to
    the asset; a cleared run does not repeat what later runs handled. Else it lives in XCom of the marking task: it
    begins anew where the Dag or that task is renamed or its XCom is cleaned away (``airflow db clean``;
    ``created_after`` keeps history out), a cleared run lists what was pending when it was due, and a run whose logical
    date lies before another one's end may repeat what that one handled.

    XCom: list of the versions' dicts: ``name``, ``version``, ``uri``, ``status``, ``aliases``, ``tags``, ``run_id``,
    ``source`` and more.

    Raises: a missing model, or a schema without models, unless ``missing_ok``; a missing privilege; a Dag without
    exactly one MarkModelVersionsHandledOperator for this task.

    Privileges: Unity Catalog: EXECUTE on the model, or on all models of the schema, USE SCHEMA and USE CATALOG; models
    that the principal may not see are left out of a schema. MLflow basic auth: READ, likewise.
    Registries: all; ``tags`` where the registry has them. Unity Catalog does not list tags: with ``tags``, each run
    reads every version that is not handled.

    :param scope: a model, ``catalog.schema.model``, or all models of a schema, ``catalog.schema`` or
        ``catalog.schema.*`` (str, templated)
    :param asset: an asset, such as the one that starts the Dag, to keep the watermark with; it is added to the task's
        inlets (Asset; shown among templated fields, but nothing in it is rendered)
    :param consumer: who has handled; Dags and tasks that share the name and the asset share the watermark; by default
        the ids of Dag and task (str, templated)
    :param created_after: leave out versions created before this time; ISO 8601, in UTC unless it says otherwise, or
        milliseconds since the epoch (datetime, str or int, templated)
    :param tags: tags that a version must have, with these values (dict, templated)
    :param limit: list the oldest ones, at most so many; the log says how many are left (int or str, templated)
    :param missing_ok: nothing is pending where there is no such model, or no model in the schema (bool)
    """

    template_fields: Sequence[str] = (
        *ModelRegistryOperator.template_fields,
        *("scope", "asset", "consumer", "created_after", "tags", "limit"),
    )

    def __init__(
        self,
        *,
        scope: str,
        asset: Asset | None = None,
        consumer: str | None = None,
        created_after: datetime | str | int | None = None,
        tags: Mapping[str, Any] | None = None,
        limit: int | str | None = None,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**_with_inlet(asset, kwargs))
        self.scope = scope
        self.asset = asset
        self.consumer = consumer
        self.created_after = created_after
        self.tags = tags
        self.limit = limit
        self.missing_ok = missing_ok

    def call(self, registry: Registry, context: Context) -> Call[Any]:
        """List what is pending, and leave for the marking task what it must know."""
        from airflow_uc_models.registry.base import str_tags
        from airflow_uc_models.registry.pending import Wanted, find_pending, parse_time

        _expect_unmapped(context)
        wanted = Wanted(
            scope=self.scope,
            created_after=parse_time(self.created_after),
            tags=str_tags(self.tags or None),
            limit=_parse_limit(self.limit),
            missing_ok=self.missing_ok,
        )
        ti = context["ti"]
        key = watermark_key(self.consumer or f"{ti.dag_id}.{ti.task_id}", self.registry_conn_id)
        store = WatermarkStore(context, self._marking_task(), key, self.asset)
        found = yield from find_pending(registry, wanted, store.read_earlier(), time.time())
        if (other := ti.xcom_pull(key=_LISTED, map_indexes=-1)) is not None:
            self.log.info("Another try of this task has listed %d versions already", len(other["versions"]))
            return (yield from _listed_again(registry, other["versions"]))
        self._tell(found)
        names = [[version.name, version.version] for version in found.versions]
        ti.xcom_push(key=_LISTED, value={"key": key, "versions": names, "settled": found.settled.to_json()})
        return [version.to_xcom() for version in found.versions]

    def _marking_task(self) -> str:
        """Return the id of the task that marks what this one lists."""
        tasks = cast("Any", self.dag).tasks
        marking = [
            task.task_id
            for task in tasks
            if isinstance(task, MarkModelVersionsHandledOperator) and self.task_id in _ids(task.pending)
        ]
        if len(marking) != 1:
            raise InvalidArgumentError(
                f"Task {self.task_id} needs one MarkModelVersionsHandledOperator(pending=<the output of "
                f"{self.task_id}>) in its Dag, after the work: without it nothing would ever count as handled. There "
                + (f"are {len(marking)}: {', '.join(sorted(marking))}." if marking else "is none.")
            )
        return str(marking[0])

    def _tell(self, found: Pending) -> None:
        unready = f"; not READY yet: {_named(found.unready)}" if found.unready else ""
        self.log_effect("Found %d pending versions: %s%s", len(found.versions), _named(found.versions), unready)
        if found.left:
            self.log.warning("%d more versions are pending; later runs list them", found.left)
        if found.failed:
            self.log.warning("%d versions failed to register: %s", len(found.failed), _named(found.failed))


class MarkModelVersionsHandledOperator(BaseOperator):
    """Mark versions that PendingModelVersionsOperator listed as handled, so that no later run lists them again.

    With ``handled``, it runs when all work is done, whatever came of it (trigger rule ``all_done``). It marks those
    versions whose mapped work succeeded, and then fails if there are others, so that the Dag run is not green; they
    stay pending. What the work returns does not matter: Airflow is asked which of its mapped tasks succeeded. Work
    that is not mapped handles all of the list or nothing.

    Without ``handled``, it runs if all tasks before it succeeded (trigger rule ``all_success``), and marks all. Put the
    work between the two tasks: ``pending >> work >> mark``.

    Marking again, in a retry or a cleared run, does no harm, and never makes a handled version pending again. With an
    empty list it succeeds.

    XCom: list of the URIs that were marked, such as ``models:/prod.ml_team.fraud/3``.

    Raises: versions that were not handled; a list that is missing because its task did not succeed; work that was
    mapped over something else than the list. None of these is retried.

    Privileges: none; it does not talk to the registry.
    Registries: all.

    :param pending: the output of the PendingModelVersionsOperator (XComArg, templated)
    :param handled: the output of the work that is mapped over it, of the last task where it is several, or a list
        of outputs that must all be there (XComArg or list of them, templated)
    :param skipped_ok: work that was skipped counts as handled, too (bool)
    """

    template_fields: Sequence[str] = ("pending", "handled")
    ui_color = ModelRegistryOperator.ui_color

    def __init__(self, *, pending: Any, handled: Any = None, skipped_ok: bool = False, **kwargs: Any) -> None:
        super().__init__(**_with_inlet(_asset_of(pending), _with_trigger_rule(handled, kwargs)))
        self.pending = pending
        self.handled = handled
        self.skipped_ok = skipped_ok

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Leave the fields as they are: what matters is which tasks they name, not what those returned."""

    def execute(self, context: Context) -> list[str]:
        """Mark what was handled, and fail if something was not."""
        _expect_unmapped(context)
        with fail_without_retry():
            pending = self._pending_task()
            works = self._works()
        listed = context["ti"].xcom_pull(task_ids=pending.task_id, key=_LISTED, map_indexes=-1)
        if listed is None:
            raise AirflowFailException(f"Task {pending.task_id} did not list what is pending; nothing was marked.")
        versions = [ModelVersion(name, number) for name, number in listed["versions"]]
        self._expect_same(versions, context["ti"].xcom_pull(task_ids=pending.task_id, map_indexes=-1))
        with fail_without_retry():
            done = self._done(context, works, len(versions)) if versions else set()
        marked = [version for index, version in enumerate(versions) if index in done]
        store = WatermarkStore(context, self.task_id, listed["key"], pending.asset)
        store.add(_news(Watermark.from_json(listed["settled"]), marked))
        left = [version for index, version in enumerate(versions) if index not in done]
        if left:
            raise AirflowFailException(
                f"{len(left)} of {len(versions)} versions were not handled; they stay pending: {_named(left)}"
            )
        self.log.info("Marked %d versions as handled: %s", len(marked), _named(marked))
        return [version.uri for version in marked]

    @staticmethod
    def _expect_same(versions: Sequence[ModelVersion], mapped: Any) -> None:
        """Refuse a list over which the work was not mapped: two tries can each have left one of the two."""
        if isinstance(mapped, list) and [v.uri for v in versions] != [item["uri"] for item in mapped]:
            raise AirflowFailException(
                "Two tries of the listing task ran at once and listed different versions, so it is not known which the "
                "work was mapped over; nothing was marked. Clear the Dag run."
            )

    def _pending_task(self) -> PendingModelVersionsOperator:
        found = {task.task_id: task for task in _tasks(self.pending)}
        task = next(iter(found.values()), None)
        if len(found) != 1 or not isinstance(task, PendingModelVersionsOperator):
            raise InvalidArgumentError(
                "pending is the output of one PendingModelVersionsOperator, which is not mapped."
            )
        return task

    def _works(self) -> list[str]:
        """Return the ids of the tasks that do the work; none where that is not told."""
        pending = _ids(self.pending)
        works = sorted(_ids(self.handled) - pending)
        if self.handled is not None and not works:
            raise InvalidArgumentError(
                "handled is the output of the work, such as validate.expand(version=pending) returns it, or "
                "Operator.partial(...).expand(...).output."
            )
        if self.handled is None and not self.upstream_task_ids - pending:
            raise InvalidArgumentError(
                f"Task {self.task_id} would mark versions before any work on them: give handled=<the output of the "
                f"work>, or put the work in between: pending >> work >> {self.task_id}."
            )
        return works

    def _done(self, context: Context, works: Sequence[str], count: int) -> set[int]:
        """Return the positions in the list of those versions on which all work succeeded."""
        ti: Any = context["ti"]
        done = set(range(count))
        if works:
            asked = ti.get_task_states(dag_id=ti.dag_id, task_ids=list(works), run_ids=[ti.run_id])
            for work in works:
                done &= self._succeeded(work, asked.get(ti.run_id, {}), count)
        return done

    def _succeeded(self, work: str, states: Mapping[str, Any], count: int) -> set[int]:
        wanted = {"success", "skipped"} if self.skipped_ok else {"success"}
        mapped = {
            int(found[1]): state
            for key, state in states.items()
            if (found := re.fullmatch(rf"{re.escape(work)}_(\d+)", key)) and state != "removed"
        }
        if not mapped:  # it is not mapped, or did not get so far
            return set(range(count)) if states.get(work) in wanted else set()
        if set(mapped) != set(range(count)):
            raise InvalidArgumentError(
                f"Task {work} was mapped over {len(mapped)} items, but {count} versions are pending: it is not known "
                "which of them it handled. Map it over the pending versions alone, one by one."
            )
        return {index for index, state in mapped.items() if state in wanted}


def pending_model_versions(scope: str, *, task_id: str = "pending_model_versions", **options: Any) -> XComArg:
    """Add a PendingModelVersionsOperator to the Dag, and return its output, for ``.expand``.

    :param scope: as in PendingModelVersionsOperator, like all other options
    """
    return PendingModelVersionsOperator(task_id=task_id, scope=scope, **options).output


def mark_model_versions_handled(
    pending: XComArg, handled: Any = None, *, task_id: str = "mark_model_versions_handled", **options: Any
) -> XComArg:
    """Add a MarkModelVersionsHandledOperator to the Dag, and return its output.

    :param pending: what ``pending_model_versions`` returned
    :param handled: what the mapped work returned
    """
    return MarkModelVersionsHandledOperator(task_id=task_id, pending=pending, handled=handled, **options).output


def handle_model_versions(
    work: Any, scope: str, *, group_id: str = "handle_model_versions", **options: Any
) -> TaskGroup:
    """Add a task group to the Dag that lists pending versions, maps work over them and marks what succeeded.

    ::

        @task
        def validate(version):
            ...

        handle_model_versions(validate, "prod.ml_team.*", registry_conn_id="databricks_default")

    :param work: a function with ``@task`` that takes a version's dict as ``version``
    :param scope: as in PendingModelVersionsOperator, like all other options
    """
    with TaskGroup(group_id) as group:
        pending = pending_model_versions(scope, **options)
        mark_model_versions_handled(pending, work.expand(version=pending))
    return group


def _listed_again(registry: Registry, names: Sequence[tuple[str, int]]) -> Call[list[dict[str, Any]]]:
    """Return versions as they were listed before; one that is gone stays in its place, for what is mapped over them."""
    found = []
    for name, number in names:
        try:
            found.append((yield from registry.get_model_version(name, number)))
        except NotFoundError:
            found.append(ModelVersion(name, number))
    return [version.to_xcom() for version in found]


def _news(settled: Watermark, marked: Sequence[ModelVersion]) -> Watermark:
    """Return what is to be added to the watermark."""
    numbers: dict[str, set[int]] = {}
    for version in marked:
        numbers.setdefault(version.name, set()).add(version.version)
    return Watermark(
        {
            name: Handled(known.created_at, known.versions | numbers.get(name, set()))
            for name, known in settled.models.items()
        }
    )


def _tasks(reference: Any) -> Iterator[Any]:
    """Yield the tasks whose output something is made of."""
    return (task for task, _ in XComArg.iter_xcom_references(reference))


def _ids(reference: Any) -> set[str]:
    return {task.task_id for task in _tasks(reference)}


def _asset_of(pending: Any) -> Asset | None:
    return next((getattr(task, "asset", None) for task in _tasks(pending)), None)


def _with_inlet(asset: Asset | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return an operator's options with the asset among the inlets: only of those may a task read the state store."""
    if asset is None:
        return options
    inlets = options.get("inlets") or []
    inlets = list(inlets) if isinstance(inlets, list | tuple) else [inlets]
    return {**options, "inlets": inlets if asset in inlets else [*inlets, asset]}


def _with_trigger_rule(handled: Any, options: dict[str, Any]) -> dict[str, Any]:
    default = TriggerRule.ALL_SUCCESS if handled is None else TriggerRule.ALL_DONE
    return {"trigger_rule": default, **options}


def _expect_unmapped(context: Context) -> None:
    if (context["ti"].map_index if context["ti"].map_index is not None else -1) >= 0:
        raise AirflowFailException("This task must not be mapped, nor be in a mapped task group: map the work alone.")


def _named(versions: Sequence[ModelVersion]) -> str:
    names = [f"{version.name}/{version.version}" for version in versions[:_NAMED_IN_MESSAGES]]
    return ", ".join([*names, "..."] if len(versions) > _NAMED_IN_MESSAGES else names) or "none"


def _parse_limit(value: int | str | None) -> int:
    """Return how many versions to list: never more than Airflow can map over."""
    longest = int(conf.getint("core", "max_map_length", fallback=1024))
    if value in (None, "", "None"):
        return longest
    if isinstance(value, bool) or not re.fullmatch(r"0*[1-9]\d*", str(value).strip()):
        raise InvalidArgumentError(f"limit is a whole number from 1, not {value!r}.")
    return min(int(value), longest)
