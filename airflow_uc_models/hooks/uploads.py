"""Filling a pending version with files, and taking it back where that fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_uc_models.entities import PENDING_REGISTRATION, ModelVersion
from airflow_uc_models.exceptions import (
    ModelVersionFailedError,
    NotFoundError,
    RegistryUnavailableError,
    TakenOverError,
    UCModelsError,
)
from airflow_uc_models.hooks import model_files
from airflow_uc_models.hooks.earlier_tries import EarlierTries
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.registry import registration, shared_numbers
from airflow_uc_models.registry.call import Call

log = logging.getLogger(__name__)

_CLEAN_SECONDS = 10.0
_READY_SECONDS = 300.0  # as long as MlflowClient waits


def upload(hook: ModelRegistryHook, folder: Path, pending: ModelVersion, tries: EarlierTries) -> ModelVersion:
    """Upload a folder to a pending version and return the version when it is READY.

    Raises: TakenOverError where another try of the task has deleted it.
    """
    with _withdrawn(hook, pending, tries):
        model_files.upload(hook, pending, folder)
    # No answer to finalize: it may have happened. The next try looks, and either takes the version or deletes it.
    with _withdrawn(hook, pending, tries, unless=RegistryUnavailableError):
        version = hook.run(registration.finalize_version(hook.registry, pending))
    # From here on nothing is taken back: others may have seen the version already.
    version = _await_ready(hook, version)
    log.debug("Created version %s of %s", version.version, version.name)
    return tries.settle_after(version)


@contextmanager
def _withdrawn(
    hook: ModelRegistryHook, pending: ModelVersion, tries: EarlierTries, *, unless: type[UCModelsError] | None = None
) -> Generator[None, None, None]:
    """Delete a pending version whose upload fails, and say so if another try of the task has deleted it already.

    :param unless: an error after which it stays
    """
    try:
        yield
    except BaseException as error:
        if unless is not None and isinstance(error, unless):
            raise
        if isinstance(error, UCModelsError) and not isinstance(error, RegistryUnavailableError):
            try:
                tries.expect_own(pending)
            except TakenOverError:
                raise
            except UCModelsError as second:
                log.debug("Could not see whether %s is still there: %s", pending.uri, second)
        clean_quietly(hook, shared_numbers.delete_own(hook.registry, pending), pending.uri)
        raise


def _await_ready(hook: ModelRegistryHook, version: ModelVersion) -> ModelVersion:
    """Return the version when the registry is done with it; most are at once."""
    deadline, wait = time.monotonic() + _READY_SECONDS, 0.2
    while version.status == PENDING_REGISTRATION:
        if time.monotonic() > deadline:
            error = RegistryUnavailableError(f"{version.uri} is still {version.status} after {_READY_SECONDS:.0f} s.")
            raise error.used(hook.endpoint.connection_label)
        time.sleep(wait)
        wait = min(5.0, 2 * wait)
        version = hook.run(hook.registry.get_model_version(version.name, version.version))
    if not version.is_ready:
        raise ModelVersionFailedError(
            f"{version.uri} is {version.status}: {version.status_message or 'no reason given'}"
        ).used(hook.endpoint.connection_label)
    return version


def clean_quietly(hook: ModelRegistryHook, call: Call[Any], what: str) -> None:
    """Clean up without hiding the error that made it necessary, nor waiting long for a server that is gone."""
    transport = hook.endpoint.transport
    patience = {key: min(getattr(transport, key), _CLEAN_SECONDS) for key in ("timeout", "max_retry_seconds")}
    try:
        replace(transport, **patience).run(call)
    except NotFoundError:
        pass
    except UCModelsError as error:
        log.warning("%s was left behind incomplete: %s", what, error)
