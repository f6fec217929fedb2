"""Routes as methods: who calls, with which arguments, and where it is written that workspaces answer so."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from airflow_uc_models.emulator.errors import ApiError, invalid
from airflow_uc_models.emulator.privileges import Principal

logger = logging.getLogger(__name__)
T = TypeVar("T")
Handler = Callable[..., Any]


@dataclass(frozen=True)
class RouteInfo:
    """What `route` notes of a handler.

    :param method: ``ANY`` for all
    :param source: where the behaviour is taken from, for the page of routes
    :param anonymous: needs no token
    :param raw: the body is not JSON, the handler reads it
    """

    method: str
    path: str
    source: str
    anonymous: bool = False
    raw: bool = False
    summary: str = ""


def route(method: str, path: str, *, source: str, anonymous: bool = False, raw: bool = False) -> Callable[[T], T]:
    """Make a method the handler of a route; the first line of its docstring goes to the page of routes."""

    def mark(handler: T) -> T:
        summary = (inspect.getdoc(handler) or "").partition("\n")[0]
        handler.route_info = RouteInfo(method, path, source, anonymous, raw, summary)  # type: ignore[attr-defined]
        return handler

    return mark


@dataclass(frozen=True)
class Call:
    """A request with its caller.

    :param arguments: the query, and over it the fields of the JSON body
    """

    request: Request
    caller: Principal | None
    arguments: Mapping[str, Any]

    @property
    def principal(self) -> Principal:
        """Who calls."""
        if self.caller is None:
            raise ApiError(401, "UNAUTHENTICATED", "Credential was not sent.")
        return self.caller

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that the route names."""
        return self.request.path_params

    def need(self, key: str) -> Any:
        """Return an argument that must be there."""
        value = self.arguments.get(key)
        if value is None or value == "":
            raise invalid(f"Missing value for required parameter '{key}'.")
        return value

    def get(self, key: str) -> Any:
        """Return an argument or None."""
        return self.arguments.get(key)

    def flag(self, key: str) -> bool:
        """Return a boolean argument, false by default."""
        return str(self.arguments.get(key, "")).lower() == "true"


Authenticate = Callable[[Request], Principal]


def handlers(group: object) -> list[tuple[RouteInfo, Handler]]:
    """Return the routes of a group, in the order they were written in."""
    found = [(getattr(member, "route_info", None), name) for name, member in vars(type(group)).items()]
    return [(info, getattr(group, name)) for info, name in found if info is not None]


def route_infos(group: type) -> list[RouteInfo]:
    """Return what is noted of the routes of a group."""
    infos = [getattr(member, "route_info", None) for member in vars(group).values()]
    return [info for info in infos if info is not None]


def endpoint(
    info: RouteInfo, handler: Handler, authenticate: Authenticate, headers: Mapping[str, str]
) -> Callable[[Request], Any]:
    """Return the ASGI endpoint of a handler.

    :param headers: sent with each answer
    """

    async def serve(request: Request) -> Response:
        try:
            caller = None if info.anonymous else authenticate(request)
            arguments = dict(request.query_params)
            if not info.raw:
                arguments |= await json_object(request)
            answer = handler(Call(request, caller, arguments))
            if inspect.isawaitable(answer):
                answer = await answer
        except ApiError as error:
            answer = error.response()
        except ClientDisconnect:
            raise
        except Exception as error:
            logger.exception("%s %s", info.method, request.url.path)
            answer = ApiError(500, "INTERNAL_ERROR", f"{type(error).__name__}: {error}").response()
        if not isinstance(answer, Response):
            answer = JSONResponse({} if answer is None else answer)
        answer.headers.update(headers)
        return cast("Response", answer)

    return serve


async def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body, {} for no body."""
    body = await request.body()
    if not body.strip():
        return {}
    try:
        found = json.loads(body)
    except ValueError:
        raise ApiError(400, "MALFORMED_REQUEST", "Invalid JSON given in the body of the request.") from None
    if not isinstance(found, dict):
        raise ApiError(400, "MALFORMED_REQUEST", "The body of the request must be a JSON object.")
    return found


def present(**fields: Any) -> dict[str, Any]:
    """Return the fields that are set: unset ones are absent from a workspace's answers."""
    return {key: value for key, value in fields.items() if value is not None and value not in ("", [], {})}


def page(
    items: Sequence[T],
    key: Callable[[T], str],
    call: Call,
    *,
    default: int,
    most: int,
    empty_pages: bool,
) -> tuple[list[T], str | None]:
    """Return one page of items and the token of the next, in an order that means nothing but stays the same.

    :param key: identifies an item
    :param most: the longest page
    :param empty_pages: put an empty page after each full one
    """
    size = _size(call, default, most)
    after, was_empty = _position(call.get("page_token"))
    hashed = [(hashlib.sha256(key(item).encode()).hexdigest(), item) for item in items]
    ordered = sorted(hashed, key=lambda pair: pair[0])
    rest = [pair for pair in ordered if pair[0] > after]
    if rest and after and empty_pages and not was_empty:
        return [], _token(after, True)
    taken = rest[:size]
    token = _token(taken[-1][0], False) if len(rest) > size else None
    return [item for _, item in taken], token


def _size(call: Call, default: int, most: int) -> int:
    asked = call.get("max_results")
    try:
        size = int(asked or 0)
    except (TypeError, ValueError):
        raise invalid(f"max_results must be a number, not {asked!r}.") from None
    if size < 0:
        raise invalid("max_results must not be negative.")
    return min(size or default, most)


def _token(after: str, was_empty: bool) -> str:
    return base64.urlsafe_b64encode(json.dumps([after, was_empty]).encode()).decode()


def _position(token: Any) -> tuple[str, bool]:
    if not token:
        return "", False
    try:
        after, was_empty = json.loads(base64.urlsafe_b64decode(str(token)))
        return str(after), bool(was_empty)
    except ValueError:
        raise invalid(f"page_token {token!r} is not valid.") from None
