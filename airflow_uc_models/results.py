"""What a task leaves in XCom: its result as a whole, and each plain field of it under the field's own name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

T = TypeVar("T")


def publish(context: Context, result: T) -> T:
    """Push the plain fields of a dict one by one, and return the dict for ``return_value``.

    ``op.output["version"]`` is, to Airflow, the XCom with the key ``version``, not a look into ``return_value``;
    without this it would silently be None. Dicts and lists are read from the whole.
    """
    if isinstance(result, dict):
        ti: Any = context["ti"]
        for key, value in result.items():
            if value is None or isinstance(value, str | int | float | bool):
                ti.xcom_push(key=key, value=value)
    return result
