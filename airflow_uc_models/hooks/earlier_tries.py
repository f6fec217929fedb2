"""Finding what earlier tries of a task made, with few requests, however many versions a model has.

Unity Catalog lists versions without their tags, and so without the task key: each has to be asked for. So only those
are asked for that can be from an earlier try, by what the list tells of them:

* they come from the same source and run, and were made since the Dag run was due (less what clocks may differ);
* their numbers are above the highest one that there was when an earlier try had looked and found none of its own. The
  task notes it in Airflow's store for the state of a task (Airflow 3.3), and the number that a create request gave,
  which is asked for first;
* in the first try of a task at most the newest two: only the same try, run twice at once, can have made them.

The key names Dag, Dag run, task and map index. So a task that is cleared finds the version that it made before, as its
retry does; another Dag run makes another version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from airflow_uc_models.entities import ModelVersion
from airflow_uc_models.exceptions import NotFoundError, TakenOverError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry import registration
from airflow_uc_models.registry.call import Call
from airflow_uc_models.registry.comments import TAKEN_OVER_TAG

T = TypeVar("T")
log = logging.getLogger(__name__)

_MOST_OF_FIRST_TRY = 2


class Memory(Protocol):
    """Keeps something from one try of a task to the next."""

    def get(self) -> Mapping[str, Any]:
        """Return what was kept last; empty if nothing was, or there is no place for it."""

    def set(self, value: Mapping[str, Any]) -> None:
        """Keep this instead."""


class NoMemory:
    """Keeps nothing."""

    def get(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}

    def set(self, value: Mapping[str, Any]) -> None:
        """Forget the value."""


class EarlierTries:
    """The versions that tries of one task instance made.

    :param name: the registered model
    :param key: the task key
    :param since: milliseconds since the epoch before which no try can have made one
    :param is_first: this is the first try
    :param memory: what the tries know of each other
    :param may_be: whether a listed version can be one of them, by its source and run
    """

    def __init__(
        self,
        hook: ModelRegistryHook,
        name: str,
        key: str,
        *,
        since: int = 0,
        is_first: bool = False,
        memory: Memory | None = None,
        may_be: Callable[[ModelVersion], bool] = lambda _: True,
    ) -> None:
        self._hook, self._name, self._key = hook, hook.registry.normalize(name), key
        self._since, self._is_first, self._may_be = since, is_first, may_be
        self._memory = memory or NoMemory()
        capabilities = hook.registry.capabilities
        self._asks_each = capabilities.tags is not None and not capabilities.tag_search
        self._floor: int | None = None  # the highest number there was before this try made one

    def settle(self) -> ModelVersion | None:
        """Return the finished version of an earlier try, or None; whatever else they left is deleted."""
        if not self._asks_each:
            return self._run(registration.settle(self._hook.registry, self._name, self._key, since=self._since))
        kept = self._memory.get()
        noted = int(kept.get("version") or 0)
        if noted:
            found = self._own(self._ask([noted]))
            if found and found[0].is_ready:
                return found[0]
            self._keep(found)
        listed = self._listed()
        self._floor = max((version.version for version in listed), default=0)
        after = int(kept.get("floor") or 0)
        is_candidate = self._may_be if kept else self._is_candidate  # numbers tell more than clocks
        candidates = [v.version for v in listed if v.version > after and v.version != noted and is_candidate(v)]
        if self._is_first and not kept:
            candidates = candidates[:_MOST_OF_FIRST_TRY]
        first = self._keep(self._own(self._ask(candidates)))
        if first is None:
            self._memory.set({"floor": self._floor})
        return first

    def create(self, create: Callable[[], Call[ModelVersion]]) -> ModelVersion:
        """Create a version whose files are yet to be uploaded; where the answer got lost, look for it."""
        pending = self._run(
            registration.create_pending_version(
                self._hook.registry,
                self._name,
                self._key,
                create,
                since=self._since,
                after=self._floor or 0,
                may_be=self._may_be,
            )
        )
        if self._asks_each:
            self._memory.set({"floor": self._floor or 0, "version": pending.version})
        return pending

    def settle_after(self, made: ModelVersion) -> ModelVersion:
        """Return the version to keep, now that this one is finished: the lowest, where tries raced.

        Raises: TakenOverError where another try deletes this one.
        """
        if not self._asks_each:
            settled = self._run(registration.settle(self._hook.registry, self._name, self._key, since=self._since))
            if settled is None:
                self.expect_own(made)
            return settled or made
        found = self._after(made)
        mine = next((version for version in found if version.version == made.version), None)
        if mine is None or TAKEN_OVER_TAG in mine.tags:
            raise self._taken_over(made, found)
        return self._keep(found) or made

    def expect_own(self, made: ModelVersion) -> None:
        """Raise TakenOverError if another try of the task has deleted this version, or is about to.

        Where a number can be given out twice, a version without a successor was given up because of that.
        """
        if not self._run(registration.is_taken_over(self._hook.registry, made)):
            return
        found = self._after(made)
        if found or self._hook.registry.capabilities.unique_versions:
            raise self._taken_over(made, found)

    def finished(self, made: ModelVersion) -> ModelVersion | None:
        """Return the version that another try has finished instead of this one, None if there is none yet."""
        there = self._after(made)
        return next((version for version in there if version.is_ready and TAKEN_OVER_TAG not in version.tags), None)

    def _after(self, made: ModelVersion) -> list[ModelVersion]:
        """Return what tries of this task have made since this one began, oldest first."""
        if not self._asks_each:
            find = registration.find_by_task_key(self._hook.registry, self._name, self._key, since=self._since)
            return self._run(find)
        others = [v.version for v in self._listed() if v.version > (self._floor or 0) and self._is_candidate(v)]
        return self._own(self._ask(sorted({*others, made.version}, reverse=True)))

    @staticmethod
    def _taken_over(made: ModelVersion, found: Sequence[ModelVersion]) -> TakenOverError:
        others = ", ".join(f"{v.uri} ({v.status})" for v in found if v.version != made.version)
        return TakenOverError(
            f"{made.uri} is not finished: another try of this task runs at the same time and has deleted it, to make "
            f"its own instead: {others or 'still to come'}."
        )

    def _listed(self) -> list[ModelVersion]:
        try:
            return self._run(registration.versions_of(self._hook.registry, self._name))
        except NotFoundError:
            return []

    def _is_candidate(self, version: ModelVersion) -> bool:
        return (version.created_at is None or version.created_at >= self._since) and self._may_be(version)

    def _ask(self, numbers: Sequence[int]) -> list[ModelVersion]:
        """Return the versions of these numbers with their tags, newest first; those that are gone are left out."""
        registry = self._hook.registry
        calls = [registration.version_if_there(registry, self._name, number) for number in numbers]
        return [version for version in self._hook.run_all(calls) if version is not None]

    def _own(self, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
        return [v for v in versions if registration.key_of(self._hook.registry, v) == self._key][::-1]

    def _keep(self, found: Sequence[ModelVersion]) -> ModelVersion | None:
        return self._run(registration.keep_first(self._hook.registry, found)) if found else None

    def _run(self, call: Call[T]) -> T:
        return self._hook.run(call)
