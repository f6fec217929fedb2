"""Many calls over few connections: from one event loop, on real servers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.databricks import connection_json
from support.faulty import single

from airflow_uc_models.emulator import Emulator, Settings
from airflow_uc_models.exceptions import InvalidArgumentError, NotFoundError, RegistryUnavailableError
from airflow_uc_models.hooks.model_registry import ModelRegistryHook
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.call import Request

HEALTH = Request("GET", "/health", action="ask for health")
CALLS = 12


class Gate(threading.Barrier):
    """Lets requests pass when so many are held at it."""

    def wait(self, timeout: float | None = None) -> int:
        return super().wait(10)

    set = threading.Barrier.abort


class Delay:
    """Holds each request for a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def wait(self, timeout: float) -> None:
        time.sleep(self.seconds)

    def set(self) -> None:
        self.seconds = 0


@pytest.fixture
def accepted(proxy) -> list[Any]:
    """The connections that the proxy took."""
    taken = []
    accept = proxy._server.get_request

    def get_request():
        taken.append(accept())
        return taken[-1]

    proxy._server.get_request = get_request
    return taken


@pytest.fixture
def transport(proxy) -> Transport:
    return Transport(proxy.url, verify=False, max_retry_seconds=20)


def in_session(transport: Transport, work: Callable[..., Any], **options: Any) -> Any:
    async def run() -> Any:
        async with transport.asession(**options) as arun:
            return await work(arun)

    return asyncio.run(run())


async def one_by_one(arun) -> list[int]:
    return [(await arun(single(HEALTH))).status for _ in range(CALLS)]


async def at_once(arun) -> list[int]:
    return [answer.status for answer in await asyncio.gather(*(arun(single(HEALTH)) for _ in range(CALLS)))]


# -- connections


def test_a_session_keeps_its_connection(transport, accepted) -> None:
    assert in_session(transport, one_by_one) == [200] * CALLS
    assert len(accepted) == 1


def test_a_call_alone_has_a_connection_of_its_own(transport, accepted) -> None:
    assert asyncio.run(one_by_one(transport.arun)) == [200] * CALLS
    assert len(accepted) == CALLS


def test_as_many_calls_are_under_way_as_there_may_be_connections(transport, proxy, accepted) -> None:
    proxy.fail("/health", times=CALLS, after=True, hold=Gate(4))  # lets nobody pass but in fours
    assert in_session(transport, at_once, max_connections=4) == [200] * CALLS
    assert len(accepted) == 4


def test_waiting_for_a_turn_takes_none_of_a_calls_time(proxy) -> None:
    proxy.fail("/health", times=None, after=True, hold=Delay(0.1))
    proxy.fail("/version", status=503)
    impatient = Transport(proxy.url, verify=False, max_retry_seconds=1)
    version = Request("GET", "/version", action="ask for the version")

    async def work(arun) -> list[int]:
        answers = await asyncio.gather(*(arun(single(request)) for request in [*[HEALTH] * CALLS, version]))
        return [answer.status for answer in answers]

    assert in_session(impatient, work, max_connections=1) == [200] * (CALLS + 1)


def test_a_session_without_connections_is_refused(transport) -> None:
    with pytest.raises(InvalidArgumentError, match="max_connections is 0"):
        in_session(transport, one_by_one, max_connections=0)


def test_a_session_ends_with_its_block(transport) -> None:
    async def leave() -> None:
        async with transport.asession() as arun:
            await arun(single(HEALTH))
        await arun(single(HEALTH))

    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(leave())


# -- faults


def test_a_fault_is_the_matter_of_one_call(transport, proxy, accepted) -> None:
    proxy.fail("/version", times=None, reset=True)
    create = Request("POST", "/version", action="make a version", repeatable=False)

    async def work(arun) -> list[Any]:
        return await asyncio.gather(arun(single(create)), at_once(arun), return_exceptions=True)

    failed, answers = in_session(transport, work)
    assert isinstance(failed, RegistryUnavailableError)
    assert answers == [200] * CALLS


def test_what_can_be_repeated_is_tried_again_on_another_connection(transport, proxy, accepted) -> None:
    proxy.fail("/health", times=1, reset=True)
    assert in_session(transport, one_by_one) == [200] * CALLS
    assert len(accepted) == 2


def test_a_call_that_fails_leaves_the_session_as_it_was(connection, model_name) -> None:
    hook = ModelRegistryHook(connection)

    async def work() -> str:
        async with hook.asession() as (registry, arun):
            with pytest.raises(NotFoundError):
                await arun(registry.get_registered_model(model_name))
            await arun(registry.create_registered_model(model_name))
            return (await arun(registry.get_registered_model(model_name))).name

    assert asyncio.run(work()) == model_name


# -- credentials


@pytest.fixture
def oauth_hook(monkeypatch):
    """A connection whose tokens can be had anew, to a workspace that can end them."""
    # The provider would take a token of two seconds for one about to end, and ask for another each time.
    monkeypatch.setattr("airflow.providers.databricks.hooks.databricks_base.TOKEN_REFRESH_LEAD_TIME", -3600)
    with Emulator(Settings(token_seconds=2)) as workspace:
        workspace.add_principal("robot", client_id="robot-id", client_secret="robot-secret-1", is_admin=True)
        secret = {"login": "robot-id", "password": "robot-secret-1", "extra": {"service_principal_oauth": True}}
        monkeypatch.setenv("AIRFLOW_CONN_AUTH", connection_json(workspace, **secret))
        yield ModelRegistryHook("auth"), workspace


def outcomes(workspace) -> list[tuple[str, int]]:
    return sorted((r.path.rpartition("/")[2], r.status) for r in workspace.requests.take())


def test_many_calls_ask_for_one_token_and_for_one_more_when_it_is_refused(oauth_hook) -> None:
    hook, workspace = oauth_hook

    async def work() -> None:
        async with hook.asession(max_connections=4) as (registry, arun):

            async def search() -> None:
                await asyncio.gather(*(arun(registry.search_registered_models()) for _ in range(4)))

            await search()
            assert outcomes(workspace) == [("search", 200)] * 4 + [("token", 200)]
            workspace.workspace.principals.expire_tokens()
            await search()

    asyncio.run(work())
    requests = outcomes(workspace)
    assert requests.count(("search", 200)) == 4
    assert ("search", 403) in requests
    assert [r for r in requests if r[0] == "token"] == [("token", 200)]


def test_sessions_on_one_loop_after_another(oauth_hook) -> None:
    hook, workspace = oauth_hook

    async def work() -> None:
        async with hook.asession() as (registry, arun):
            await asyncio.gather(*(arun(registry.search_registered_models()) for _ in range(4)))

    for _ in range(2):
        asyncio.run(work())
        workspace.workspace.principals.expire_tokens()
    assert [r for r in outcomes(workspace) if r[0] == "token"] == [("token", 200)] * 2
