"""The only file that opens sockets: it drives a Call with httpx, sync or async, under one retry policy.

What is retried (and what is not):

* nothing was sent (connection refused, no such host): always;
* 429: always, after ``Retry-After`` where the registry gives one; the request was not carried out;
* 408, 5xx, resets and timeouts: only what is safe to repeat. For any other write the Call is told
  (UnknownEffectError) and looks for itself whether it happened.

Retries end when ``max_retry_seconds`` would be exceeded, so a dead registry is given up on in bounded time.
"""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import httpx
import tenacity

from airflow_uc_models.exceptions import (
    ConnectionConfigError,
    InvalidArgumentError,
    RegistryUnavailableError,
    UCModelsError,
    UnknownEffectError,
)
from airflow_uc_models.registry.answers import error_of
from airflow_uc_models.registry.call import Call, Request, Response

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
log = logging.getLogger(__name__)

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NEVER_SENDABLE = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_AT_ONCE = 8
_LARGE_ANSWER = 100_000
_KEEP_ALIVE_SECONDS = 60.0  # between two polls; a connection that the server has closed by then is not used


class SyncRun(Protocol):
    """What drives calls inside a session."""

    def __call__(self, call: Call[T]) -> T:
        """Drive a call to its end and return what it returns."""


class AsyncRun(Protocol):
    """What drives calls inside a session."""

    async def __call__(self, call: Call[T]) -> T:
        """Drive a call to its end and return what it returns."""


@dataclass(frozen=True)
class Transport:
    """How to reach one registry.

    :param base_url: scheme, host, port and path prefix of the server
    :param auth: credentials, as headers of each request
    :param verify: an SSL context, or False for no verification
    :param proxy: URL of a proxy; None takes it from the environment
    :param timeout: seconds to wait for bytes of one answer
    :param max_retry_seconds: time after which no further try is started
    :param label: how messages name the registry
    :param hint: what to check when the registry can't be reached
    :param connection: how messages name the Airflow connection
    :param retry_log_level: level of the log line before each further try
    """

    base_url: str
    auth: httpx.Auth | None = field(default=None, repr=False)
    verify: ssl.SSLContext | bool = True
    proxy: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    max_retry_seconds: float = 60.0
    label: str = "registry"
    hint: str = ""
    connection: str = ""
    retry_log_level: int = logging.WARNING
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ConnectionConfigError(f"{self.base_url!r} is no address: {error}. {self.hint}".rstrip()) from None

    def run(self, call: Call[T]) -> T:
        """Drive a call to its end and return what it returns."""
        with self.session() as run:
            return run(call)

    @contextmanager
    def session(self) -> Generator[SyncRun, None, None]:
        """Keep connections open for many calls, one after another or on several threads."""
        with httpx.Client(**self._options()) as client:

            def run(call: Call[T]) -> T:
                with self._named():
                    return self._drive(client, call)

            yield run

    def run_all(self, calls: Sequence[Call[T]]) -> list[T]:
        """Drive calls to their ends, a few at the same time, and return what each returns.

        The first error is raised; calls that have not begun by then never do.
        """
        with self.session() as run:
            if len(calls) <= 1:
                return [run(call) for call in calls]
            pool = ThreadPoolExecutor(min(_AT_ONCE, len(calls)), thread_name_prefix="registry")
            try:
                return list(pool.map(run, calls))
            finally:
                pool.shutdown(cancel_futures=True)

    def _drive(self, client: httpx.Client, call: Call[T]) -> T:
        def send(tries: _Tries) -> Response:
            retrying = tenacity.Retrying(sleep=time.sleep, **self._policy(tries))
            return retrying(lambda: self._read(client.request(**tries.arguments), tries))

        step = _Step(call)
        while step.request is not None:
            tries = _Tries(step.request)
            try:
                response = send(tries)
            except (httpx.HTTPError, _PassingAnswerError) as error:
                step.throw(self._given_up(error, tries))
            else:
                step.send(response)
        return step.value

    async def arun(self, call: Call[T]) -> T:
        """Drive a call on the event loop, never blocking it."""
        with self._named():
            async with httpx.AsyncClient(**self._options()) as client:
                return await self._adrive(client, call)

    @asynccontextmanager
    async def asession(self, *, max_connections: int = 20) -> AsyncGenerator[AsyncRun, None]:
        """Keep connections open for many calls, one after another or at the same time.

        ::

            async with transport.asession() as arun:
                models = await asyncio.gather(*(arun(registry.get_registered_model(name)) for name in names))

        Credentials are still put on each request, and the retry policy is that of a single call. A call that waits for
        its turn uses up none of its time.

        :param max_connections: connections to the server, and so calls under way, at most
        """
        import asyncio

        if max_connections < 1:
            raise InvalidArgumentError(f"max_connections is {max_connections}; a session needs at least one.")
        limits = httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
        )
        # What waits inside httpx uses up the time of its tries, and is woken whenever any connection gets free.
        turns = asyncio.Semaphore(max_connections)
        async with httpx.AsyncClient(**self._options(), limits=limits) as client:

            async def arun(call: Call[T]) -> T:
                async with turns:
                    with self._named():
                        return await self._adrive(client, call)

            yield arun

    async def _adrive(self, client: httpx.AsyncClient, call: Call[T]) -> T:
        import asyncio

        async def send(tries: _Tries) -> Response:
            async def once() -> Response:
                return self._read(await client.request(**tries.arguments), tries)

            return await tenacity.AsyncRetrying(sleep=asyncio.sleep, **self._policy(tries))(once)

        step = _Step(call)
        while step.request is not None:
            tries = _Tries(step.request)
            try:
                response = await send(tries)
            except (httpx.HTTPError, _PassingAnswerError) as error:
                step.throw(self._given_up(error, tries))
            else:
                if len(response.text) < _LARGE_ANSWER:
                    step.send(response)
                else:  # reading thousands of versions takes long enough for others on the loop to notice
                    await asyncio.to_thread(step.send, response)
        return step.value

    @contextmanager
    def _named(self) -> Generator[None, None, None]:
        """Name the connection in whatever goes wrong."""
        try:
            yield
        except UCModelsError as error:
            error.used(self.connection)
            raise

    def _read(self, answer: httpx.Response, tries: _Tries) -> Response:
        """Return an answer; raise one that may be another on the next try."""
        headers = {k.lower(): v for k, v in answer.headers.items()}
        connection = self.connection or "the connection"
        response = Response(answer.status_code, answer.text, headers, repeated=tries.in_doubt, connection=connection)
        if response.status in _PASSING:
            raise _PassingAnswerError(response, tries.request)
        return response

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "auth": self.auth,
            "verify": _default_trust() if self.verify is True else self.verify,
            "proxy": self.proxy,
            "timeout": httpx.Timeout(self.timeout, connect=min(10.0, self.timeout)),
            "headers": self.headers,
        }

    def _policy(self, tries: _Tries) -> dict[str, Any]:
        return {
            "retry": tenacity.retry_if_exception(_can_repeat),
            "wait": _wait,
            "stop": tenacity.stop_before_delay(self.max_retry_seconds),
            "before_sleep": partial(self._before_sleep, tries),
            "reraise": True,
        }

    def _before_sleep(self, tries: _Tries, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        tries.in_doubt = tries.in_doubt or not (error and _refused(error))
        wait = state.next_action.sleep if state.next_action else 0
        where = f"{self.label}, {self.connection}" if self.connection else self.label
        log.log(self.retry_log_level, "%s: %s; trying again in %.1f s", where, _told(error), wait)

    def _given_up(self, error: Exception, tries: _Tries) -> RegistryUnavailableError:
        """Turn the last failure into an error that says how long it was tried and what to check."""
        request, seconds = tries.request, time.monotonic() - tries.began
        unknown = not request.repeatable and not _refused(error)
        error_class = UnknownEffectError if unknown else RegistryUnavailableError
        if isinstance(error, _PassingAnswerError):
            told = error_of(error.response, request, self.label)
            return error_class(str(told), status=told.status, error_code=told.error_code)
        message = f"Could not {request.action}: the {self.label} at {self.base_url} gave no answer ({_told(error)})"
        tail = " It may or may not have happened." if unknown else ""
        return error_class(f"{message}; gave up after {seconds:.0f} s.{tail} {self.hint}".rstrip())


@cache
def _default_trust() -> ssl.SSLContext:
    """Return what ``verify=True`` means; reading it takes a tenth of a second, which no event loop should pay twice."""
    return httpx.create_ssl_context()


class _Step(Generic[T]):
    """One position in a running Call: the request it waits on, or the value it returned."""

    def __init__(self, call: Call[T]) -> None:
        self.call = call
        self.request: Request | None = None
        self.value: T
        self._advance(lambda: next(call))

    def send(self, response: Response) -> None:
        self._advance(lambda: self.call.send(response))

    def throw(self, error: Exception) -> None:
        self._advance(lambda: self.call.throw(error))

    def _advance(self, step: Callable[[], Request]) -> None:
        try:
            self.request = step()
        except StopIteration as stop:
            self.request, self.value = None, stop.value


class _Tries:
    """All tries of one request."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.began = time.monotonic()
        self.in_doubt = False  # an earlier try may have been carried out

    @property
    def arguments(self) -> dict[str, Any]:
        request = self.request
        return {
            "method": request.method,
            "url": request.path,
            "params": None if request.params is None else dict(request.params),
            "json": None if request.json is None else dict(request.json),
            "headers": request.headers,
            "extensions": {"repeatable": request.repeatable},
        }


class _PassingAnswerError(Exception):
    """An answer that may be another one on the next try."""

    def __init__(self, response: Response, request: Request) -> None:
        super().__init__(f"{response.status} on {request.method} {request.path}")
        self.response = response
        self.request = request


def _refused(error: BaseException) -> bool:
    """Whether the request certainly had no effect."""
    if isinstance(error, _PassingAnswerError):
        return error.response.status == 429
    return isinstance(error, _NOT_SENT)


def _can_repeat(error: BaseException) -> bool:
    if isinstance(error, _PassingAnswerError):
        return error.request.repeatable or _refused(error)
    if not isinstance(error, httpx.TransportError) or isinstance(error, _NEVER_SENDABLE):
        return False
    return _refused(error) or bool(error.request.extensions.get("repeatable"))


_backoff = tenacity.wait_exponential(multiplier=0.4, max=15) + tenacity.wait_random(0, 0.4)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = 0.0
    if isinstance(error, _PassingAnswerError):
        asked = _retry_after(error.response.headers.get("retry-after"))
    return max(asked, _backoff(state))


def _retry_after(value: str | None) -> float:
    """Read Retry-After: seconds or an HTTP date (RFC 9110, 10.2.3)."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _told(error: BaseException | None) -> str:
    # A LocalProtocolError quotes the header it could not write, which may be the credentials.
    text = "" if error is None or isinstance(error, httpx.LocalProtocolError) else str(error).strip()
    return text or type(error).__name__
