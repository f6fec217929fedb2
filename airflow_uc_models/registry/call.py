"""A verb as a generator: it yields requests, is sent responses, and returns an entity.

The generator holds no socket and knows neither threads nor an event loop, so operators (sync) and triggers
(async) run the very same code; ``hooks/transport.py`` has the two short loops that drive it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request of a verb.

    :param method: HTTP method
    :param path: path below the host, starting with a slash
    :param params: query parameters
    :param json: JSON body
    :param action: what is being done, in words that complete "Could not ..."
    :param needs: the privileges that the call asks for, in words that complete "It needs ..."
    :param repeatable: whether sending it twice does no harm; a create is not repeatable
    :param headers: beside those of every request
    """

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    json: Mapping[str, Any] | None = None
    action: str = ""
    needs: str = ""
    repeatable: bool = True
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request.

    :param headers: by lower-case name
    :param repeated: an earlier try of this request got no usable answer, and may have been carried out
    :param connection: how messages name the Airflow connection, such as ``connection 'mlflow_dev'``
    """

    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    repeated: bool = False
    connection: str = "the connection"

    def body(self) -> dict[str, Any] | None:
        """Return the JSON object in the body, or None if the body is something else."""
        try:
            value = json.loads(self.text) if self.text.strip() else {}
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


Call = Generator[Request, Response, T]
