"""What the REST dialects share: asking, deleting, and reading pages to the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from airflow_uc_models.exceptions import InvalidRequestError, NotFoundError
from airflow_uc_models.registry.answers import expect_object, unreadable
from airflow_uc_models.registry.base import Registry
from airflow_uc_models.registry.call import Request, Response

T = TypeVar("T")

# Texts with a limit, as requests call them, and the parameters of the verbs that they come from.
_PARAMETERS = {"comment": "description", "description": "description", "source": "source", "run_id": "run_id"}


class RestRegistry(Registry):
    """A registry that answers JSON objects over HTTP.

    :ivar prefix: the path prefix of its calls
    """

    prefix: str

    def _on(
        self,
        method: str,
        path: str,
        verb: str,
        name: str,
        action: str,
        arguments: Mapping[str, Any],
        *,
        params: Mapping[str, Any] | None = None,
        repeatable: bool = True,
    ) -> Request:
        """Build the request of a verb on a model, with the privileges it needs; without a name, on all models.

        Texts that are too long for the registry are refused: some answer them with a 500, which reads like an outage.

        :param arguments: sent as the query of a GET, as the body of anything else
        :param params: the query beside a body
        """
        in_query = method == "GET"
        self.check_texts(**{_PARAMETERS[key]: arguments[key] for key in _PARAMETERS.keys() & arguments.keys()})
        return Request(
            method,
            f"{self.prefix}/{path}",
            params=arguments if in_query else params,
            json=None if in_query else arguments,
            action=action,
            needs=self.needs(verb, name) if name else "",
            repeatable=repeatable,
        )

    def _ask(self, request: Request, read: Callable[[dict[str, Any]], T]) -> Generator[Request, Response, T]:
        return self._read((yield request), request, read)

    def _read(self, response: Response, request: Request, read: Callable[[dict[str, Any]], T]) -> T:
        body = expect_object(response, request, self.capabilities.label)
        try:
            return read(body)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise unreadable(response, request, self.capabilities.label, error) from error

    def _delete(self, request: Request) -> Generator[Request, Response, None]:
        """Ask for a deletion; where it is gone on a repeated try, the earlier one did it."""
        response = yield request
        try:
            self._expect_deleted(response, request)
        except NotFoundError:
            if not response.repeated:
                raise

    def _expect_deleted(self, response: Response, request: Request) -> None:
        expect_object(response, request, self.capabilities.label)

    def _pages(
        self,
        request: Request,
        read: Callable[[dict[str, Any]], list[T]],
        max_results: int | None,
        page_size: int,
        key: Callable[[T], str] | None = None,
    ) -> Generator[Request, Response, list[T]]:
        """Follow next_page_token to its absence; a page may be empty and still have one.

        :param key: what a list is sorted by, where the token is the last key of a page and several items can have
            one key: the next page then begins with the last key once more, of which this page may have left some out
        """
        found: list[T] = []
        seen: set[str] = set()
        query = {**(request.params or {}), "max_results": min(max_results or page_size, page_size)}
        while True:
            items, token = yield from self._page(request, query, read)
            found += items
            if not token or (max_results is not None and len(found) >= max_results):
                return found if max_results is None else found[:max_results]
            token, again = next_page(items, token, key)
            if token in seen:
                raise InvalidRequestError(
                    f"Could not {request.action}: the {self.capabilities.label} gives the same page again and again."
                )
            seen.add(token)
            del found[len(found) - again :]
            query = {**query, "page_token": token}

    def _page(
        self, request: Request, query: Mapping[str, Any], read: Callable[[dict[str, Any]], list[T]]
    ) -> Generator[Request, Response, tuple[list[T], str | None]]:
        """Return the items of one page, and the token of the next."""
        page = Request(request.method, request.path, params=query, action=request.action, needs=request.needs)
        return (yield from self._ask(page, lambda body: (read(body), body.get("next_page_token"))))


def next_page(items: list[T], token: str, key: Callable[[T], str] | None) -> tuple[str, int]:
    """Return the token to go on with, and how many of these items the next page has again."""
    keys = [key(item) for item in items] if key else []
    if not keys or keys[0] == keys[-1]:
        return token, 0
    last = keys.index(keys[-1])
    return keys[last - 1], len(keys) - last
