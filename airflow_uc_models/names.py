r"""Names of models, versions, aliases and sources: parsed and checked in this one place.

Rules, with their sources:

* A model name has three levels, ``catalog.schema.model``; each level has 1 to 255 characters and holds no
  period, space, slash or control character (Databricks, "Securable object naming requirements"). An MLflow
  server also refuses ``:`` (``mlflow/utils/validation.py``).
* An alias matches ``[\w-]+``, has at most 255 characters, and is neither ``latest`` nor ``v`` plus digits
  (``mlflow/utils/validation.py``; MLflow leaves the last rule out for Unity Catalog, this package does not).
* A version is a whole number from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from airflow_uc_models.exceptions import InvalidNameError

MAX_LEVEL_LENGTH = 255
MAX_ALIAS_LENGTH = 255

_FORBIDDEN_IN_LEVEL = re.compile(r"[\x00-\x20\x7f-\x9f./:\ud800-\udfff]|\s")
_ALIAS = re.compile(r"[\w-]+")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_RUN_ID = re.compile(r"[0-9A-Za-z][\w-]{0,255}", re.ASCII)
_LOGGED_MODEL_ID = re.compile(r"m-[0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class ModelName:
    """The three-level name of a registered model. ``str()`` gives ``catalog.schema.model``."""

    catalog: str
    schema: str
    model: str

    def __post_init__(self) -> None:
        for level, value in (("catalog", self.catalog), ("schema", self.schema), ("model", self.model)):
            _check_level(level, value, f"{self.catalog}.{self.schema}.{self.model}")

    @classmethod
    def parse(cls, text: str | ModelName) -> ModelName:
        """Read ``catalog.schema.model``; raise InvalidNameError with the reason if it is not one."""
        if isinstance(text, ModelName):
            return text
        if not isinstance(text, str):
            raise InvalidNameError(f"A model name is a string like 'prod.ml_team.fraud', not {text!r}.")
        levels = text.split(".")
        if len(levels) != 3:
            raise InvalidNameError(
                f"Model name {text!r} has {len(levels)} level(s); it needs three: catalog.schema.model, "
                "for example 'prod.ml_team.fraud'."
            )
        return cls(*levels)

    def lower(self) -> ModelName:
        """Return the name as Unity Catalog on Databricks stores it."""
        return ModelName(self.catalog.lower(), self.schema.lower(), self.model.lower())

    @property
    def full_schema(self) -> str:
        """``catalog.schema``, the securable that holds the model."""
        return f"{self.catalog}.{self.schema}"

    def __str__(self) -> str:
        return f"{self.catalog}.{self.schema}.{self.model}"


def _check_level(level: str, value: str, full_name: str) -> None:
    if not value:
        raise InvalidNameError(f"The {level} in model name {full_name!r} is empty.")
    if len(value) > MAX_LEVEL_LENGTH:
        raise InvalidNameError(
            f"The {level} in model name {full_name[:60]!r}... has {len(value)} characters; "
            f"{MAX_LEVEL_LENGTH} are allowed."
        )
    if found := _FORBIDDEN_IN_LEVEL.search(value):
        raise InvalidNameError(
            f"The {level} in model name {full_name!r} holds {found.group()!r}; periods, white space, slashes, "
            "colons and control characters are not allowed."
        )


def is_model_name(text: str) -> bool:
    """Whether a name is one that this package can work with; MLflow servers hold others, too."""
    try:
        ModelName.parse(text)
    except InvalidNameError:
        return False
    return True


def parse_schema(text: str) -> tuple[str, str]:
    """Read ``catalog.schema`` and return its two levels."""
    levels = text.split(".") if isinstance(text, str) else []
    if len(levels) != 2:
        raise InvalidNameError(f"A schema is named 'catalog.schema', for example 'prod.ml_team', not {text!r}.")
    name = ModelName(levels[0], levels[1], "any")
    return name.catalog, name.schema


def parse_version(value: int | str) -> int:
    """Return a version as a whole number from 1; templates may deliver it as a string."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 10**18:
        return value
    if isinstance(value, str) and _VERSION.fullmatch(value.strip()):
        return int(value)
    hint = ""
    if isinstance(value, str) and value.strip().lower() in {"latest", "production", "staging", "archived"}:
        hint = " Stages and 'latest' are not versions in Unity Catalog: use an alias."
    said = "one of more than 18 digits" if isinstance(value, int) and abs(value) >= 10**18 else f"{value!r:.80}"
    raise InvalidNameError(f"A model version is a whole number from 1, not {said}.{hint}")


def parse_alias(value: str) -> str:
    """Return an alias that every registry accepts; raise InvalidNameError with the reason otherwise."""
    if not isinstance(value, str) or not _ALIAS.fullmatch(value):
        raise InvalidNameError(
            f"Alias {value!r} is not allowed: use letters, digits, underscores and dashes, at least one."
        )
    if len(value) > MAX_ALIAS_LENGTH:
        raise InvalidNameError(f"Alias {value[:40]!r}... has {len(value)} characters; {MAX_ALIAS_LENGTH} are allowed.")
    if _RESERVED_ALIAS.fullmatch(value):
        raise InvalidNameError(
            f"Alias {value!r} is reserved: 'latest' and 'v' followed by digits name versions, not aliases."
        )
    return value


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One version of a model, by number or by alias; exactly one of the two is set."""

    name: ModelName
    version: int | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        if (self.version is None) == (self.alias is None):
            raise InvalidNameError(
                f"Name one version of {self.name}: give either version or alias"
                + (", not both." if self.version is not None else ".")
            )
        if self.alias is None:
            parse_version(self.version)  # type: ignore[arg-type]
        else:
            parse_alias(self.alias)

    @classmethod
    def of(cls, model_name: str | ModelName, *, version: int | str | None = None, alias: str | None = None) -> ModelRef:
        """Build a reference from separate fields; empty strings (unset templates) count as not given."""
        return cls(
            ModelName.parse(model_name),
            None if version in (None, "") else parse_version(version),
            None if alias in (None, "") else parse_alias(alias),
        )

    @classmethod
    def parse(cls, uri: str) -> ModelRef:
        """Read ``models:/catalog.schema.model/3`` or ``models:/catalog.schema.model@alias``."""
        path = _path_of(uri, "models")
        name, slash, version = path.partition("/")
        if slash:
            return cls(ModelName.parse(name), version=parse_version(version))
        name, at, alias = path.rpartition("@")  # the name may hold an @, an alias never does
        if at:
            return cls(ModelName.parse(name), alias=parse_alias(alias))
        raise InvalidNameError(
            f"{uri!r} names no version: write models:/{path or 'catalog.schema.model'}/<version> "
            f"or models:/{path or 'catalog.schema.model'}@<alias>."
        )

    @property
    def uri(self) -> str:
        """The reference as MLflow writes it."""
        return f"models:/{self.name}/{self.version}" if self.alias is None else f"models:/{self.name}@{self.alias}"

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.alias is None else f"{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True)
class RunSource:
    """A model logged under a run: ``runs:/<run_id>/<path>``."""

    run_id: str
    path: str

    @property
    def uri(self) -> str:
        """The source as MLflow writes it."""
        return f"runs:/{self.run_id}/{self.path}"


@dataclass(frozen=True, slots=True)
class LoggedModelSource:
    """An MLflow 3 logged model: ``models:/m-<id>``."""

    model_id: str

    @property
    def uri(self) -> str:
        """The source as MLflow writes it."""
        return f"models:/{self.model_id}"


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A model folder that the worker can read."""

    path: Path

    @property
    def uri(self) -> str:
        """The folder's path, in a form that reads as a path again."""
        text = str(self.path)
        return f"./{text}" if _SCHEME.match(text) or text.startswith("~") or not text.strip() else text


ModelSource = RunSource | LoggedModelSource | LocalSource


def parse_source(model_uri: str) -> ModelSource:
    """Tell what ``model_uri`` of a registration names: a run's model, a logged model or a local folder."""
    if not isinstance(model_uri, str) or not model_uri.strip():
        raise InvalidNameError("model_uri is empty; give runs:/<run_id>/<path>, models:/m-<id> or a local folder.")
    found = _SCHEME.match(model_uri)
    scheme = found[1].lower() if found else ""
    if scheme == "runs":
        run_id, slash, path = _path_of(model_uri, "runs").partition("/")
        path = path.strip("/")
        if not (slash and path and _RUN_ID.fullmatch(run_id)) or ".." in path.split("/"):
            raise InvalidNameError(f"{model_uri!r} is not runs:/<run_id>/<path of the model in the run>.")
        return RunSource(run_id, path)
    if scheme == "models":
        model_id = _path_of(model_uri, "models")
        if not _LOGGED_MODEL_ID.fullmatch(model_id):
            raise InvalidNameError(
                f"{model_uri!r} is no logged model (models:/m-<id>). To make a version out of a registered "
                "model version, use CopyModelVersionOperator."
            )
        return LoggedModelSource(model_id)
    if scheme in {"", "file"}:
        return LocalSource(_local_path(model_uri, is_uri=bool(scheme)))
    raise InvalidNameError(
        f"model_uri {model_uri!r} is of an unknown kind; give runs:/<run_id>/<path>, models:/m-<id> or a local folder."
    )


def _local_path(text: str, *, is_uri: bool) -> Path:
    path = text
    if is_uri:  # file:/path, file:///path or file://localhost/path
        path = text[len("file:") :]
        if path.startswith("//"):
            host, slash, path = path[2:].partition("/")
            if host not in {"", "localhost"} or not slash:
                raise InvalidNameError(f"{text!r} names a folder of another host; give one that the worker can read.")
            path = f"/{path}"
        path = unquote(path)
    if "\x00" in path:
        raise InvalidNameError(f"model_uri {text!r} holds a null character.")
    try:
        return Path(path) if is_uri else Path(path).expanduser()
    except RuntimeError:
        raise InvalidNameError(f"model_uri {text!r} names the home of a user that the worker does not know.") from None


def _path_of(uri: str, scheme: str) -> str:
    prefix = f"{scheme}:/"
    if not isinstance(uri, str) or not uri.startswith(prefix):
        raise InvalidNameError(f"{uri!r} is not a {scheme}:/ URI.")
    path = uri.removeprefix(prefix)
    if path.startswith("/"):
        raise InvalidNameError(
            f"{uri!r} names a registry inside the URI; leave it out and name the registry with registry_conn_id."
        )
    return path
