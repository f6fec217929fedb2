"""Template fields: text stays text, also in Dags that render templates as native objects; a bad template fails once."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_uc_models.compat import AirflowFailException
from airflow_uc_models.exceptions import InvalidArgumentError

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk.definitions.context import Context

_CONTAINERS = (Mapping, list, tuple, set, frozenset, bytes)
# What the annotation of a parameter that takes no container is made of.
_SCALARS = {"str", "int", "float", "datetime", "None"}


class TextFieldsMixin(BaseOperator):
    """Takes text as text, whatever ``render_template_as_native_obj`` makes of it.

    Such a Dag has Python read the rendered text: ``42`` becomes a number, ``1e5`` and ``1_000`` lose their text,
    ``True`` and ``None`` become what they spell. No field here wants that: numbers and switches are read from text. So
    text is rendered as in other Dags. Native stay objects that a template consists of, such as
    ``{{ params.columns }}``, and in fields of lists and dicts the text of one.

    A template that cannot be rendered fails the task without retry, with a message that names its field.
    """

    # Template field -> its parameter, where the two have different names.
    field_parameters: ClassVar[Mapping[str, str]] = {}

    def render_template(
        self, content: Any, context: Context, jinja_env: jinja2.Environment | None = None, seen_oids: Any = None
    ) -> Any:
        """Render text to text, and a template of one list, dict or None to that."""
        jinja_env = jinja_env or self.get_template_env()
        if not isinstance(content, str) or not _is_native(jinja_env) or content.endswith(tuple(self.template_ext)):
            return super().render_template(content, context, jinja_env, seen_oids)
        nodes = list(jinja_env.from_string(content).generate(context))
        text = "".join(map(str, nodes))
        is_object = len(nodes) == 1 and not isinstance(nodes[0], str)
        if self._is_text(content):
            return nodes[0] if is_object and (nodes[0] is None or isinstance(nodes[0], _CONTAINERS)) else text
        return nodes[0] if is_object else _container_of(text)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        # Airflow calls this one for mapped tasks, too, so that operators can override it.
        from jinja2 import TemplateError

        for field in template_fields:
            try:
                super()._do_render_template_fields(parent, [field], context, jinja_env, seen_oids)
            except (TemplateError, TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
                raise AirflowFailException(
                    f"The template of {field!r} cannot be rendered: {type(error).__name__}: {error}. Correct it in the "
                    "Dag; the log above shows the template."
                ) from error

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Check the fields again, which are rendered anew."""
        self.check_text()
        return super().resume_execution(next_method, next_kwargs, context)

    def check_text(self) -> None:
        """Make text of what other tasks left in text fields; InvalidArgumentError for None and what is no text."""
        for field, kinds in _kinds(type(self)).items():
            value, name = getattr(self, field), self.field_parameters.get(field, field)
            if "Sequence[str]" in kinds and isinstance(value, list | tuple):
                setattr(self, field, [_text(f"{name}[{i}]", item) for i, item in enumerate(value)])
            elif kinds & {"int", "bool", "datetime"} or "str" not in kinds:
                pass  # whoever reads the number, time or switch takes text, too
            elif kinds <= {"str", "None", "Sequence[str]"} and not (value is None and "None" in kinds):
                setattr(self, field, _text(name, value))

    def _is_text(self, content: str) -> bool:
        """Whether a template is that of a text field, or of a text in a list or in tags."""
        for field, kinds in _kinds(type(self)).items():
            value = getattr(self, field, None)
            if kinds <= _SCALARS:
                texts: Iterable[Any] = (value,)
            elif "Sequence[str]" in kinds and isinstance(value, list | tuple):
                texts = value
            elif field == "tags" and isinstance(value, Mapping):
                texts = value.values()
            else:
                continue
            if any(content is text for text in texts):
                return True
        return False


def _text(name: str, value: Any) -> str:
    if value is None:
        raise InvalidArgumentError(f"{name} is None: the template or task that it is taken from gave nothing.")
    if isinstance(value, _CONTAINERS):
        raise InvalidArgumentError(f"{name} must be text, not {value!r:.80}.")
    return str(value)


@cache
def _kinds(cls: type[TextFieldsMixin]) -> dict[str, frozenset[str]]:
    """Return the types that the parameters of template fields are annotated with."""
    annotations: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, TextFieldsMixin) and "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            annotations |= {name: str(parameter.annotation) for name, parameter in parameters.items()}
    found = {}
    for field in cls.template_fields:
        name = cls.field_parameters.get(field, field)
        if name in annotations:
            found[field] = frozenset(part.strip() for part in annotations[name].split("|"))
    return found


def _container_of(text: str) -> Any:
    """Return the list or dict that a text spells, as native rendering does; any other text as it is."""
    from jinja2.nativetypes import native_concat

    value = native_concat([text])
    return value if isinstance(value, _CONTAINERS) and not isinstance(value, bytes) else text


def _is_native(environment: jinja2.Environment) -> bool:
    from jinja2.nativetypes import NativeEnvironment

    return isinstance(environment, NativeEnvironment)
