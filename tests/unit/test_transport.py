"""The retry policy, on a clock of its own: nothing here waits."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import ssl
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import respx
import tenacity

from airflow_uc_models.exceptions import RegistryUnavailableError, UnknownEffectError
from airflow_uc_models.hooks import transport as transport_module
from airflow_uc_models.hooks.auth import BearerAuth
from airflow_uc_models.hooks.transport import Transport
from airflow_uc_models.registry.call import Call, Request, Response

URL = "http://registry.example:5000"
READ = Request("GET", "/thing", params={"a": "1"}, action="get the thing")
WRITE = Request("POST", "/thing", json={"a": 1}, action="set the thing")
CREATE = Request("POST", "/thing", json={"a": 1}, action="make the thing", repeatable=False)


_SLEEP = asyncio.sleep


@dataclass
class Clock:
    """Time that passes only when somebody sleeps or an answer takes long."""

    now: float = 1_000.0
    sleeps: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():  # an emulator's loop, whose time is real
            await _SLEEP(seconds)
        else:
            self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(transport_module, "time", clock)
    monkeypatch.setattr(tenacity, "time", clock)
    monkeypatch.setattr(asyncio, "sleep", clock.asleep)
    return clock


Drive = Callable[[Transport, Call[Any]], Any]


@pytest.fixture(params=["run", "arun"])
def drive(request) -> Drive:
    """Drive a call from a task, and from an event loop."""
    if request.param == "run":
        return lambda transport, call: transport.run(call)
    return lambda transport, call: asyncio.run(transport.arun(call))


@pytest.fixture
def answers() -> Any:
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        yield router.route(path="/thing")


def ask(request: Request) -> Call[Response]:
    return (yield request)


def transport(**options: Any) -> Transport:
    return Transport(URL, verify=False, label="registry", hint="Look at connection 'x'.", **options)


def reply(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"message": "m"}, headers={k.replace("_", "-"): v for k, v in headers.items()})


# -- the happy path


def test_a_request_goes_out_as_it_was_asked_for(drive, answers, clock) -> None:
    answers.side_effect = [reply(200, X_Seen="yes")]
    response = drive(transport(headers={"X-Ours": "1"}, auth=BearerAuth("t")), ask(READ))
    sent = answers.calls.last.request
    assert (sent.method, str(sent.url), sent.content) == ("GET", f"{URL}/thing?a=1", b"")
    assert (sent.headers["authorization"], sent.headers["x-ours"]) == ("Bearer t", "1")
    assert (response.status, response.body(), response.headers["x-seen"]) == (200, {"message": "m"}, "yes")
    assert not response.repeated
    assert clock.sleeps == []


def test_a_deletion_has_a_body(drive, answers) -> None:
    answers.side_effect = [reply(200)]
    drive(transport(), ask(Request("DELETE", "/thing", json={"name": "ü"})))
    sent = answers.calls.last.request
    assert (sent.method, sent.read().decode(), sent.headers["content-type"]) == (
        "DELETE",
        '{"name":"ü"}',
        "application/json",
    )


def test_a_call_gets_answers_in_turn_and_returns(drive, answers) -> None:
    answers.side_effect = [reply(200), reply(404), reply(201)]

    def call() -> Call[list[int]]:
        seen = []
        for request in (READ, WRITE, CREATE):
            response = yield request
            seen.append(response.status)
        return seen

    assert drive(transport(), call()) == [200, 404, 201]


def test_a_call_without_requests_returns(drive) -> None:
    def call() -> Call[str]:
        return "done"
        yield READ

    assert drive(transport(), call()) == "done"


def test_what_a_call_raises_comes_out(drive, answers) -> None:
    answers.side_effect = [reply(200)]

    def call() -> Call[None]:
        yield READ
        raise LookupError("of the call")

    with pytest.raises(LookupError, match="of the call"):
        drive(transport(), call())


def test_redirects_are_not_followed(drive, answers) -> None:
    answers.side_effect = [reply(302, Location="http://elsewhere.example/")]
    response = drive(transport(), ask(READ))
    assert (response.status, response.headers["location"]) == (302, "http://elsewhere.example/")


# -- what is tried again

NOT_SENT = [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("full")]
IN_DOUBT = [
    httpx.ReadTimeout("silence"),
    httpx.ReadError("reset"),
    httpx.WriteError("broken pipe"),
    httpx.WriteTimeout("slow"),
    httpx.RemoteProtocolError("server disconnected"),
    reply(408),
    reply(500),
    reply(502),
    reply(503),
    reply(504),
]


def named(fault: Any) -> str:
    return str(fault.status_code) if isinstance(fault, httpx.Response) else type(fault).__name__


@pytest.mark.parametrize("request_", [READ, WRITE, CREATE], ids=["read", "write", "create"])
@pytest.mark.parametrize("fault", [*NOT_SENT, reply(429)], ids=named)
def test_what_had_no_effect_is_always_tried_again(drive, answers, clock, request_, fault) -> None:
    answers.side_effect = [fault, fault, reply(200)]
    response = drive(transport(), ask(request_))
    assert (response.status, answers.call_count, len(clock.sleeps)) == (200, 3, 2)
    assert not response.repeated


@pytest.mark.parametrize("request_", [READ, WRITE], ids=["read", "write"])
@pytest.mark.parametrize("fault", IN_DOUBT, ids=named)
def test_what_can_be_repeated_is_tried_again(drive, answers, clock, request_, fault) -> None:
    answers.side_effect = [fault, reply(429), reply(200)]
    response = drive(transport(), ask(request_))
    assert (response.status, answers.call_count, len(clock.sleeps)) == (200, 3, 2)
    assert response.repeated


@pytest.mark.parametrize("fault", IN_DOUBT, ids=named)
def test_what_cannot_be_repeated_is_put_to_the_call(drive, answers, clock, fault) -> None:
    answers.side_effect = [reply(429), fault, reply(200)]

    def call() -> Call[str]:
        try:
            yield CREATE
        except UnknownEffectError as error:
            found = yield READ
            return f"{error} {found.status}"
        return "no error"

    told = drive(transport(), call())
    assert "Could not make the thing: the registry" in told
    assert told.endswith("200")
    assert [call.request.method for call in answers.calls] == ["POST", "POST", "GET"]
    assert len(clock.sleeps) == 1


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 409, 501])
def test_other_answers_are_the_calls_business(drive, answers, clock, status) -> None:
    answers.side_effect = [reply(status)]
    assert drive(transport(), ask(CREATE)).status == status
    assert clock.sleeps == []


def test_an_unsendable_request_is_not_tried_again(drive, answers, clock) -> None:
    answers.side_effect = httpx.LocalProtocolError("Illegal header value b'Bearer secret'")
    with pytest.raises(RegistryUnavailableError) as caught:
        drive(transport(), ask(READ))
    assert "secret" not in str(caught.value)
    assert (answers.call_count, clock.sleeps) == (1, [])


# -- for how long


def test_waits_grow_with_jitter_and_a_cap(drive, answers, clock) -> None:
    answers.side_effect = [reply(503)] * 10 + [reply(200)]
    drive(transport(max_retry_seconds=1_000), ask(READ))
    for number, wait in enumerate(clock.sleeps):
        base = min(0.4 * 2**number, 15)
        assert base <= wait <= base + 0.4
    assert len(clock.sleeps) == 10


def test_waits_differ(answers, clock) -> None:
    for _ in range(20):
        answers.side_effect = [reply(503), reply(200)]
        transport().run(ask(READ))
    assert len(set(clock.sleeps)) > 10


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("7", 7.0),
        ("2.5", 2.5),
        ("0", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("Sun, 99 Foo 0000 99:99:99 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds(drive, answers, clock, asked, waited, status) -> None:
    answers.side_effect = [reply(status, Retry_After=asked), reply(200)]
    drive(transport(), ask(READ))
    [wait] = clock.sleeps
    assert wait == waited if waited else 0.4 <= wait <= 0.8


@pytest.mark.parametrize(("ahead", "waited"), [(30, 30.0), (-30, None)])
def test_retry_after_as_a_date(drive, answers, clock, ahead, waited) -> None:
    clock.now = 1_800_000_000.0
    date = email.utils.formatdate(clock.now + ahead, usegmt=True)
    answers.side_effect = [reply(429, Retry_After=date), reply(200)]
    drive(transport(), ask(READ))
    [wait] = clock.sleeps
    assert wait == waited if waited else 0.4 <= wait <= 0.8


@pytest.mark.parametrize("seconds", [0.0, 3.0, 60.0])
@pytest.mark.parametrize("fault", [reply(503), reply(429), httpx.ConnectError("refused")], ids=named)
def test_a_dead_registry_is_given_up_in_bounded_time(drive, answers, clock, seconds, fault) -> None:
    answers.side_effect = [fault] * 1_000
    began = clock.now
    with pytest.raises(RegistryUnavailableError) as caught:
        drive(transport(max_retry_seconds=seconds), ask(READ))
    assert type(caught.value) is RegistryUnavailableError
    assert not caught.value.permanent
    assert clock.now - began <= seconds
    assert clock.now - began >= seconds / 3


def test_a_wait_that_is_asked_for_and_too_long_is_not_begun(drive, answers, clock) -> None:
    answers.side_effect = [reply(429, Retry_After="3600")]
    with pytest.raises(RegistryUnavailableError, match="answered 429: m") as caught:
        drive(transport(), ask(CREATE))
    assert (caught.value.status, clock.sleeps) == (429, [])
    # A refused create has had no effect
    assert type(caught.value) is RegistryUnavailableError


def test_slow_answers_count_towards_the_time(drive, answers, clock) -> None:
    def slow(_: httpx.Request) -> None:
        clock.now += 25
        raise httpx.ReadTimeout("silence")

    answers.side_effect = slow
    with pytest.raises(RegistryUnavailableError, match=r"gave up after (5|7)\d s"):
        drive(transport(max_retry_seconds=60), ask(READ))
    assert answers.call_count == 3


def test_each_request_has_its_own_time(drive, answers, clock) -> None:
    answers.side_effect = [reply(429, Retry_After="50"), reply(200)] * 3

    def call() -> Call[None]:
        for _ in range(3):
            yield READ

    drive(transport(max_retry_seconds=60), call())
    assert clock.sleeps == [50.0] * 3


# -- what is told


def test_the_error_says_what_where_how_long_and_what_to_check(drive, answers, clock) -> None:
    answers.side_effect = [httpx.ConnectError("[Errno 111] Connection refused")] * 100
    with pytest.raises(RegistryUnavailableError) as caught:
        drive(transport(max_retry_seconds=20), ask(READ))
    told = str(caught.value)
    assert told.startswith(f"Could not get the thing: the registry at {URL} gave no answer ([Errno 111] Connection")
    assert "gave up after 12 s" in told or "gave up after 13 s" in told or "gave up after 14 s" in told
    assert told.endswith("Look at connection 'x'.")


def test_an_unknown_effect_is_told_as_such(drive, answers, clock) -> None:
    answers.side_effect = [httpx.ReadTimeout("")]
    with pytest.raises(UnknownEffectError, match=r"\(ReadTimeout\).* It may or may not have happened\."):
        drive(transport(), ask(CREATE))


def test_waits_are_logged(drive, answers, clock, caplog) -> None:
    answers.side_effect = [reply(503), reply(200)]
    with caplog.at_level(logging.WARNING, "airflow_uc_models"):
        drive(transport(), ask(READ))
    [record] = caplog.records
    assert record.getMessage().startswith("registry: 503 on GET /thing; trying again in 0.")


@pytest.mark.parametrize("fault", [reply(401), reply(503), httpx.ConnectError("refused")], ids=named)
@pytest.mark.parametrize("auth", [BearerAuth("s3cret"), httpx.BasicAuth("me", "s3cret")], ids=["token", "password"])
def test_credentials_are_never_shown(drive, answers, clock, caplog, fault, auth) -> None:
    answers.side_effect = [fault] * 1_000
    where = transport(
        auth=auth, proxy="http://me:s3cret@proxy.example", headers={"X-Key": "s3cret"}, max_retry_seconds=2
    )
    shown = [repr(where), str(where)]

    def call() -> Call[None]:
        response = yield READ
        raise RuntimeError(f"{response}")

    with caplog.at_level(logging.DEBUG), pytest.raises((RuntimeError, RegistryUnavailableError)) as caught:
        drive(where, call())
    shown += traceback.format_exception(caught.value)
    shown += [record.getMessage() for record in caplog.records]
    basic = httpx.BasicAuth("me", "s3cret")._auth_header
    for text in shown:
        assert "s3cret" not in text
        assert basic not in text


# -- sockets


def test_connections_are_closed_when_the_call_ends(answers, monkeypatch) -> None:
    closed: list[str] = []

    class Client(httpx.Client):
        def __exit__(self, *exc: object) -> None:
            closed.append("sync")
            super().__exit__(*exc)  # type: ignore[arg-type]

    class AsyncClient(httpx.AsyncClient):
        async def __aexit__(self, *exc: object) -> None:
            closed.append("async")
            await super().__aexit__(*exc)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx, "Client", Client)
    monkeypatch.setattr(httpx, "AsyncClient", AsyncClient)
    for side_effect in ([reply(200)], [ValueError("of a fault")]):
        for run in (Transport.run, lambda where, call: asyncio.run(where.arun(call))):
            answers.side_effect = side_effect
            try:
                run(transport(), ask(READ))
            except ValueError:
                continue
    assert closed == ["sync", "async"] * 2


def test_many_calls_on_one_loop_do_not_mix(answers) -> None:
    answers.side_effect = lambda request: httpx.Response(200, text=request.url.params["n"])

    async def all_at_once() -> list[Response]:
        where = transport()
        return await asyncio.gather(*(where.arun(ask(Request("GET", "/thing", {"n": str(n)}))) for n in range(20)))

    assert [response.text for response in asyncio.run(all_at_once())] == [str(n) for n in range(20)]


def test_an_ssl_context_is_taken_as_it_is() -> None:
    context = ssl.create_default_context()
    assert Transport(URL, verify=context)._options()["verify"] is context


@pytest.mark.parametrize(("length", "elsewhere"), [(10, False), (200_000, True)])
def test_a_large_answer_is_not_read_on_the_event_loop(length, elsewhere):
    readers = []

    def call() -> Call[int]:
        answer = yield READ
        readers.append(threading.current_thread())
        return len(answer.text)

    with respx.mock:
        respx.get(f"{URL}/thing").respond(text="x" * length)
        assert asyncio.run(Transport(URL).arun(call())) == length
    assert (readers[0] is not threading.main_thread()) == elsewhere
