"""Keeping credentials out of logs, at every level and of every library.

Airflow's masker is told of a credential when it arrives. Addresses and headers that are made from it are as many as
there are files, so libraries that log those are kept at INFO while files move.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, quote

_LOUD = (
    "azure",
    "boto3",
    "botocore",
    "databricks.sdk",
    "google",
    "httpcore",
    "msal",
    "s3transfer",
    "urllib3",
)
_SHORTEST = 8


def mask(*secrets: str) -> None:
    """Let Airflow mask these in the logs of this task."""
    from airflow.sdk.log import mask_secret

    for secret in _forms(secrets):
        mask_secret(secret)


async def amask(*secrets: str) -> None:
    """Do the same on an event loop."""
    try:
        from airflow.sdk.log import amask_secret
    except ImportError:  # before Airflow 3.3 it would block the loop
        return
    for secret in _forms(secrets):
        await amask_secret(secret)


def mask_credentials(vended: Mapping[str, Any]) -> None:
    """Mask every text in temporary credentials, in whatever cloud's form they are."""
    for key, value in vended.items():
        if isinstance(value, Mapping):
            mask_credentials(value)
        elif isinstance(value, str) and key != "storage_mode":
            mask(value)


@contextmanager
def quiet_libraries() -> Generator[None, None, None]:
    """Let no library log at DEBUG inside the block, where it would log addresses and headers."""
    before = {name: logging.getLogger(name).level for name in _LOUD}
    try:
        for name in _LOUD:
            logger = logging.getLogger(name)
            logger.setLevel(max(logging.INFO, logger.getEffectiveLevel()))
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _forms(secrets: Iterable[str]) -> Iterable[str]:
    """Yield secrets as they are and as they stand in addresses; of a signed query the signature, too."""
    for secret in secrets:
        if len(secret) < _SHORTEST:
            continue
        yield secret
        if (encoded := quote(secret, safe="")) != secret:
            yield encoded
        for signature in parse_qs(secret).get("sig", []):
            yield signature
            yield quote(signature, safe="")
