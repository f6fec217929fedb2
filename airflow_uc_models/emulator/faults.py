"""Faults on demand: refusals, broken connections and slowness, before or after a request took effect."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_uc_models.emulator.server import TRANSPORT

_CODES = {429: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE"}
_SLICES = 10


@dataclass
class Fault:
    """What goes wrong; made by `Faults.add`.

    :param body: answered instead of the usual error, as it is if it is text
    :param hits: how often it has been played
    :param seen: set when it is first played
    """

    path: re.Pattern[str]
    method: str | None
    count: int | None
    probability: float
    status: int | None
    retry_after: str | None
    when: Literal["before", "after", "during"]
    reset: bool
    delay: float
    slow_body: float
    hold: threading.Event | None
    body: Any = None
    hits: int = 0
    seen: threading.Event = field(default_factory=threading.Event)

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is meant, chance left aside."""
        return self.count != 0 and self.method in (None, method) and bool(self.path.search(path))


class Faults:
    """The faults of a server; the first that fits a request is played.

    :param seed: makes chance repeatable
    """

    def __init__(self, seed: int = 0) -> None:
        self._faults: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 - not a matter of security
        self._lock = threading.Lock()

    def add(
        self,
        path: str = "",
        *,
        method: str | None = None,
        count: int | None = 1,
        probability: float = 1.0,
        status: int | None = None,
        retry_after: float | str | None = None,
        when: Literal["before", "after", "during"] = "before",
        reset: bool = False,
        delay: float = 0,
        slow_body: float = 0,
        hold: threading.Event | None = None,
        body: Any = None,
    ) -> Fault:
        """Play a fault on requests whose path the regular expression ``path`` is found in.

        :param count: on so many of them; None for all
        :param probability: on each of them with this chance
        :param status: answer so instead; 503 if nothing else is asked for
        :param when: ``before`` the request takes effect, ``after`` it, or ``during`` the answer, half of which is sent
        :param reset: break the connection instead of answering
        :param delay: seconds to wait first
        :param slow_body: seconds that the answer's body takes
        :param hold: an event to wait for first
        :param body: answer with this instead: text, or anything that JSON can say
        """
        if when == "during" and not reset:
            raise ValueError('when="during" is for reset=True: what else could happen in the midst of an answer?')
        if status is None and not (reset or delay or slow_body or hold):
            status = 503
        after = None if retry_after is None else str(retry_after)
        compiled = re.compile(path)
        fault = Fault(compiled, method, count, probability, status, after, when, reset, delay, slow_body, hold, body)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all faults, and let go of what they hold."""
        with self._lock:
            for fault in self._faults:
                if fault.hold:
                    fault.hold.set()
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault to play on a request, and count it."""
        with self._lock:
            for fault in self._faults:
                if fault.matches(method, path) and self._random.random() < fault.probability:
                    fault.count = None if fault.count is None else fault.count - 1
                    fault.hits += 1
                    fault.seen.set()
                    return fault
        return None


class FaultPlayer:
    """ASGI middleware that plays ``faults``."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self.app = app
        self.faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless a fault is due."""
        fault = self.faults.take(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if fault is None:
            await self.app(scope, receive, send)
            return
        if fault.when == "after":
            await self._after(fault, scope, receive, send)
            return
        await _wait(fault)
        if fault.when == "during" and fault.reset:
            await self.app(scope, receive, _half(scope, send))
        elif fault.status or fault.reset:
            await _drain(receive)
            await _break(fault, scope, send)
        else:
            await self.app(scope, receive, _slowly(fault, send))

    async def _after(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if not (fault.status or fault.reset):
            await self.app(scope, receive, _delayed(fault, _slowly(fault, send)))
            return

        async def swallow(_: Message) -> None:
            return None

        await self.app(scope, receive, swallow)
        await _wait(fault)
        await _break(fault, scope, send)


Sender = Callable[[Message], Coroutine[Any, Any, None]]


async def _wait(fault: Fault) -> None:
    if fault.hold:
        await asyncio.to_thread(fault.hold.wait, 300)
    if fault.delay:
        await asyncio.sleep(fault.delay)


async def _break(fault: Fault, scope: Scope, send: Send) -> None:
    if fault.reset:
        await _reset(scope)
        return
    status = fault.status or 503
    usual = {"error_code": _CODES.get(status, "INTERNAL_ERROR"), "message": f"Injected fault with status {status}."}
    body = usual if fault.body is None else fault.body
    text = body if isinstance(body, str) else json.dumps(body)
    headers = [(b"content-type", b"application/json")]
    if fault.retry_after is not None:
        headers.append((b"retry-after", fault.retry_after.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


async def _drain(receive: Receive) -> None:
    """Read the body first: who answers in the midst of an upload breaks the connection, which is another fault."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass


async def _reset(scope: Scope) -> None:
    transport: asyncio.Transport = scope[TRANSPORT]
    raw = transport.get_extra_info("socket")
    if raw is not None:  # closing then sends RST, not FIN
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await asyncio.sleep(0.01)  # until the server has noticed, it would try to answer


def _half(scope: Scope, send: Send) -> Sender:
    """Send the head and half of the first piece of the body, then break the connection."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await asyncio.sleep(0.05)  # lets the half reach the client before the reset overtakes it
            await _reset(scope)
            raise ConnectionResetError("an injected fault")
        await send(message)

    return sending


def _slowly(fault: Fault, send: Send) -> Sender:
    async def sending(message: Message) -> None:
        body = message.get("body", b"")
        if not fault.slow_body or message["type"] != "http.response.body" or not body:
            await send(message)
            return
        step = -(-len(body) // _SLICES)
        for start in range(0, len(body), step):
            await asyncio.sleep(fault.slow_body / _SLICES)
            await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})

    return sending


def _delayed(fault: Fault, send: Sender) -> Sender:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            await _wait(fault)
        await send(message)

    return sending
