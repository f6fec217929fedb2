"""What every registry can be asked: the verbs, named as in ``MlflowClient``, and what a registry is capable of."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_uc_models.entities import LoggedModel, ModelVersion, RegisteredModel, Run
from airflow_uc_models.exceptions import InvalidArgumentError, NotFoundError, UnsupportedOperationError
from airflow_uc_models.names import ModelName
from airflow_uc_models.registry.call import Call


@dataclass(frozen=True, slots=True)
class TagRules:
    """What a registry allows in tags; checked before any call.

    :param allowed_key: regular expression that a whole key matches
    :param key_hint: the same in words
    """

    max_key: int
    max_value: int
    allowed_key: str
    key_hint: str
    max_per_object: int | None = None

    def check(self, tags: Mapping[str, str]) -> None:
        """Raise InvalidArgumentError for the first key or value that breaks a rule."""
        for key, value in tags.items():
            self.check_key(key)
            if len(value) > self.max_value:
                raise InvalidArgumentError(
                    f"The value of tag {key!r} has {len(value)} characters; {self.max_value} are allowed."
                )

    def check_key(self, key: str) -> None:
        """Raise InvalidArgumentError if the registry would refuse the key."""
        if not key:
            raise InvalidArgumentError("A tag key is empty.")
        if len(key) > self.max_key:
            raise InvalidArgumentError(
                f"Tag key {key[:40]!r}... has {len(key)} characters; {self.max_key} are allowed."
            )
        if not re.fullmatch(self.allowed_key, key):
            raise InvalidArgumentError(f"Tag key {key!r} is not allowed: {self.key_hint}.")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a registry can do; operators ask here before they call.

    :param label: how messages name the registry
    :param aliases: aliases exist
    :param tags: tags of models and versions exist, with these rules; None if there are none
    :param tag_search: versions can be searched by tag
    :param version_order: search takes ``order_by``
    :param lowercase_names: names are stored in lower case
    :param signature_required: every version must have a signature
    :param uploads: a version is a copy of the files, pushed by the client; else it points to where they are
    :param moves_between_schemas: a rename may change catalog and schema
    :param keeps_run_ids: a version keeps any run id that it is given; else it must be of a run on the same server
    :param limits: most characters of a text by parameter of the verbs, counted as Java does: an emoji is two
    :param unique_versions: no two versions of a model ever get the same number, nor two models the same name
    """

    label: str
    aliases: bool
    tags: TagRules | None
    tag_search: bool
    version_order: bool
    lowercase_names: bool
    signature_required: bool
    uploads: bool
    moves_between_schemas: bool
    keeps_run_ids: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)
    unique_versions: bool = True


class Registry(ABC):
    """A model registry's protocol, without sockets: each verb returns a Call for a driver to run.

    Names, versions, aliases and tags are checked before the first request of a verb.
    """

    capabilities: Capabilities

    # -- registered models

    @abstractmethod
    def create_registered_model(
        self, name: str, *, description: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Call[RegisteredModel]:
        """Create a registered model; AlreadyExistsError if there is one of that name."""

    @abstractmethod
    def get_registered_model(self, name: str) -> Call[RegisteredModel]:
        """Return a registered model with its aliases and tags."""

    @abstractmethod
    def update_registered_model(self, name: str, *, description: str) -> Call[RegisteredModel]:
        """Replace the description."""

    @abstractmethod
    def rename_registered_model(self, name: str, new_name: str) -> Call[RegisteredModel]:
        """Give the model another name; versions, aliases and tags stay."""

    @abstractmethod
    def delete_registered_model(self, name: str, *, force: bool = True) -> Call[None]:
        """Delete the model with everything in it; without ``force``, only an empty one where the registry can tell."""

    @abstractmethod
    def search_registered_models(
        self,
        *,
        filter_string: str | None = None,
        order_by: list[str] | None = None,
        max_results: int | None = None,
        schema: str | None = None,
    ) -> Call[list[RegisteredModel]]:
        """Return all matching models, reading pages to the end; ``schema`` is a ``catalog.schema`` to look in."""

    def registered_models_named(self, name: str) -> Call[list[RegisteredModel]]:
        """Return the models that have this name: one or none, except where the registry lets two have it."""
        try:
            return [(yield from self.get_registered_model(name))]
        except NotFoundError:
            return []

    @abstractmethod
    def set_registered_model_tag(self, name: str, key: str, value: str) -> Call[None]:
        """Set one tag of a model."""

    @abstractmethod
    def delete_registered_model_tag(self, name: str, key: str) -> Call[None]:
        """Delete one tag of a model."""

    # -- model versions

    @abstractmethod
    def create_model_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
        dependencies: Sequence[Mapping[str, str]] = (),
        run_workspace_id: str | None = None,
    ) -> Call[ModelVersion]:
        """Create the next version of a model; where files are uploaded it is PENDING_REGISTRATION until finalized.

        ``dependencies`` are the functions, endpoints ... that the model uses, as ``{"type": ..., "name": ...}``, and
        ``run_workspace_id`` is the workspace of the run, by which the version links to it; only Unity Catalog on
        Databricks keeps them.
        """

    @abstractmethod
    def finalize_model_version(self, name: str, version: int) -> Call[ModelVersion]:
        """Declare the files of a pending version complete, where files are uploaded."""

    @abstractmethod
    def get_model_version(self, name: str, version: int) -> Call[ModelVersion]:
        """Return a version with its aliases and tags."""

    @abstractmethod
    def get_model_version_by_alias(self, name: str, alias: str) -> Call[ModelVersion]:
        """Return the version that an alias points to."""

    @abstractmethod
    def get_model_version_download_uri(self, name: str, version: int) -> Call[str]:
        """Return where the files of a version lie."""

    @abstractmethod
    def update_model_version(self, name: str, version: int, *, description: str) -> Call[ModelVersion]:
        """Replace the description."""

    @abstractmethod
    def delete_model_version(self, name: str, version: int) -> Call[None]:
        """Delete a version; aliases that point to it go too."""

    @abstractmethod
    def search_model_versions(
        self,
        *,
        filter_string: str,
        order_by: list[str] | None = None,
        max_results: int | None = None,
    ) -> Call[list[ModelVersion]]:
        """Return all matching versions, one for each number, reading pages to the end, in no promised order."""

    def list_model_versions(self, name: str) -> Call[list[ModelVersion]]:
        """Return every version of a model, also those that share a number."""
        return (yield from self.search_model_versions(filter_string=f"name={quoted(name)}"))

    def model_versions_numbered(self, name: str, version: int) -> Call[list[ModelVersion]]:
        """Return the versions that have this number: one or none, except where the registry gives numbers twice."""
        try:
            return [(yield from self.get_model_version(name, version))]
        except NotFoundError:
            return []

    @abstractmethod
    def set_model_version_tag(self, name: str, version: int, key: str, value: str) -> Call[None]:
        """Set one tag of a version."""

    @abstractmethod
    def delete_model_version_tag(self, name: str, version: int, key: str) -> Call[None]:
        """Delete one tag of a version."""

    # -- aliases

    @abstractmethod
    def set_registered_model_alias(self, name: str, alias: str, version: int) -> Call[None]:
        """Point an alias to a version, moving it if it exists."""

    @abstractmethod
    def delete_registered_model_alias(self, name: str, alias: str) -> Call[None]:
        """Delete an alias."""

    # -- tracking: what registration and validation must know of a model's origin

    @abstractmethod
    def get_run(self, run_id: str) -> Call[Run]:
        """Return a run with its metrics and the logged models it wrote."""

    @abstractmethod
    def get_logged_model(self, model_id: str) -> Call[LoggedModel]:
        """Return a logged model with its metrics."""

    # -- helpers

    def needs(self, verb: str, name: str) -> str:  # noqa: ARG002 - for those who override it
        """Say which privileges a verb on a model asks for, in words that complete "It needs ..."."""
        return ""

    def normalize(self, name: str | ModelName) -> str:
        """Return the name as this registry stores it; InvalidNameError if it would take none such."""
        parsed = ModelName.parse(name)
        return str(parsed.lower() if self.capabilities.lowercase_names else parsed)

    def _renamed(self, name: str, new_name: str) -> tuple[str, str]:
        """Return both names of a rename as stored; InvalidArgumentError if the registry cannot move a model so far."""
        old, new = ModelName.parse(self.normalize(name)), ModelName.parse(self.normalize(new_name))
        if not self.capabilities.moves_between_schemas and old.full_schema != new.full_schema:
            raise InvalidArgumentError(
                f"A rename in {self.capabilities.label} stays within its schema: {old} cannot become {new}. "
                "Copy its versions with CopyModelVersionOperator instead."
            )
        return str(old), str(new)

    def check_texts(self, **texts: str | None) -> None:
        """Raise InvalidArgumentError for a text that is longer than the registry takes, by parameter of the verbs."""
        for parameter, text in texts.items():
            most, length = self.capabilities.limits.get(parameter), len((text or "").encode("utf-16-le")) // 2
            if most is not None and length > most:
                raise InvalidArgumentError(
                    f"The {parameter} has {length:,} characters, with the lines that are added to it, and the "
                    f"{self.capabilities.label} takes {most:,}: {(text or '')[:60]!r}... Shorten it."
                )

    def tag_rules(self, instead: str = "") -> TagRules:
        """Return the rules for tags; UnsupportedOperationError where there are none.

        :param instead: what to do then; by default what can be done instead of setting a tag
        """
        if self.capabilities.tags is None:
            raise self.unsupported("tags", instead)
        return self.capabilities.tags

    def expect_aliases(self) -> None:
        """Raise UnsupportedOperationError where there are no aliases."""
        if not self.capabilities.aliases:
            raise self.unsupported("aliases", "Name the version by its number.")

    def unsupported(self, what: str, instead: str = "") -> UnsupportedOperationError:
        """Build the error for something that this registry does not have."""
        return UnsupportedOperationError(f"{self.capabilities.label} does not support {what}. {instead}".strip())


def quoted(name: str) -> str:
    """Quote a name for a search filter, whose grammar knows both quotes and no escape."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def str_tags(tags: Mapping[str, Any] | None) -> dict[str, str]:
    """Return tags with keys and values as strings; None, which reads as a forgotten value, is refused."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise InvalidArgumentError(f"tags must be a dict of key to value, not {type(tags).__name__}.")
    for key, value in tags.items():
        if value is None:
            raise InvalidArgumentError(f"Tag {key!r} has no value (None); use '' for an empty one.")
    return {str(key): str(value) for key, value in tags.items()}
