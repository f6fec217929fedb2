"""The operations of the registry, whatever the dialect: privileges first, then the rules, then the change."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Timer
from typing import Any

from airflow_uc_models.emulator import rules
from airflow_uc_models.emulator.errors import denied, exists, invalid, missing, wrong_state
from airflow_uc_models.emulator.file_store import FileStore
from airflow_uc_models.emulator.privileges import Guard, Principal, Principals, described, lineage
from airflow_uc_models.emulator.settings import Settings
from airflow_uc_models.emulator.state import PENDING, READY, Container, Model, State, Version

_KEEP: Any = object()


class Catalog:
    """Models in Unity Catalog.

    :param settings: the switches
    """

    def __init__(
        self, settings: Settings, state: State, guard: Guard, principals: Principals, files: FileStore
    ) -> None:
        self.settings = settings
        self.principals = principals
        self.state = state
        self.guard = guard
        self.files = files

    # -- catalogs and schemas

    def create_container(self, by: Principal, name: str, comment: str | None = None) -> Container:
        """Make a catalog or a schema."""
        catalog, _, schema = name.partition(".")
        if schema:
            self.state.container(catalog)
            self.guard.enter(by, catalog)
        privilege = "CREATE_SCHEMA" if schema else "CREATE_CATALOG"
        if not self.guard.has(by, (privilege,), catalog if schema else ""):
            place = described(catalog) if schema else "the metastore"
            raise denied(f"User does not have {privilege.replace('_', ' ')} on {place}.")
        if name in self.state.containers:
            raise exists(f"{described(name)} already exists.")
        container = Container(name, by.name, rules.comment(comment))
        self.state.save(container)
        return container

    def require_schema(self, by: Principal, schema: str) -> None:
        """Make sure that a schema exists; what an admin names is made where the settings say so."""
        for name in lineage(schema):
            if name not in self.state.containers:
                if not (self.settings.auto_create_schemas and by.is_admin):
                    self.state.container(name)
                self.state.save(Container(name, by.name))

    # -- registered models

    def create_model(
        self,
        by: Principal,
        name: Any,
        *,
        comment: Any = None,
        tags: Any = None,
        deployment_job_id: str | None = None,
    ) -> Model:
        """Make a registered model; its maker owns it."""
        name = rules.model_name(name)
        model = Model(name, by.name, by.name, rules.comment(comment), deployment_job_id or None, rules.tags(tags))
        self.require_schema(by, model.schema)
        self.guard.check(by, "create_model", name)
        if name in self.state.models:
            raise exists(f"{described(name)} already exists.")
        self.state.save(model)
        return model

    def model(self, by: Principal, name: Any, operation: str = "read") -> Model:
        """Return a model after a check that the principal may do the operation on it."""
        name = rules.model_name(name)
        if not (self.settings.auto_create_schemas and by.is_admin):  # else every schema is there as soon as named
            for level in lineage(name)[:2]:
                self.state.container(level)
        self.guard.enter(by, name.rpartition(".")[0])
        model = self.state.model(name)
        self.guard.check(by, operation, name)
        return model

    def models(self, by: Principal, catalog: str | None = None, schema: str | None = None) -> list[Model]:
        """Return the models that the principal may see."""
        prefix = "".join(f"{level.lower()}." for level in (catalog, schema) if level)
        seen = [model for name, model in self.state.models.items() if name.startswith(prefix)]
        return [model for model in seen if self._visible(by, model)]

    def _visible(self, by: Principal, model: Model) -> bool:
        levels = zip((model.schema.partition(".")[0], model.schema), ("USE_CATALOG", "USE_SCHEMA"), strict=True)
        inside = all(self.guard.has(by, (privilege,), level) for level, privilege in levels)
        return inside and (
            self.guard.allows(by, "read", model.name) or self.guard.allows(by, "update_model", model.name)
        )

    def update_model(
        self,
        by: Principal,
        name: Any,
        *,
        comment: Any = _KEEP,
        owner: str | None = None,
        deployment_job_id: str | None = None,
    ) -> Model:
        """Change what may be changed of a model but its name."""
        model = self.model(by, name, "update_model")
        if comment is not None and comment is not _KEEP:
            model.comment = rules.comment(comment)
        if owner and owner not in self.principals.by_name:
            raise invalid(f"Could not find principal with name {owner}.")
        model.owner = owner or model.owner
        if deployment_job_id is not None:
            model.deployment_job_id = deployment_job_id or None
        model.touch(by.name)
        self.state.save(model)
        return model

    def rename_model(self, by: Principal, name: Any, new_name: Any) -> Model:
        """Give a model another name within its schema; grants and files stay with it."""
        model = self.model(by, name, "rename_model")
        new = f"{model.schema}.{rules.part(new_name, 'Model')}"
        if new in self.state.models and new != model.name:
            raise exists(f"{described(new)} already exists.")
        old = model.name
        self.state.models.pop(old)
        model.name = new
        model.touch(by.name)
        self.guard.moved(old, new)
        self.state.save(model)
        return model

    def delete_model(self, by: Principal, name: Any, *, force: bool = False) -> None:
        """Delete a model, with its versions only where the settings say so."""
        model = self.model(by, name, "delete_model")
        if model.versions and not (self.settings.delete_nonempty_models or force):
            raise wrong_state(
                f"{described(model.name)} cannot be deleted because it has {len(model.versions)} versions; delete them "
                "first."
            )
        self.state.drop(model)
        self.guard.moved(model.name, None)
        self.files.remove(model.id)

    # -- model versions

    def create_version(self, by: Principal, name: Any, *, tags: Any = None, **fields: Any) -> Version:
        """Make a version, PENDING_REGISTRATION; its number is one more than the highest ever given."""
        model = self.model(by, name, "create_version")
        kept = rules.tags(tags)
        if kept and self.settings.tags_on_create_need_apply_tag:
            self.guard.check(by, "set_tag", model.name)
        fields["comment"] = rules.comment(fields.get("comment"))
        version = Version(model.last_version + 1, by.name, tags=kept, **fields)
        model.last_version = version.version
        model.versions[version.version] = version
        self.state.save(model)
        return version

    def finalize_version(self, by: Principal, name: Any, number: Any) -> Version:
        """Make a PENDING_REGISTRATION version READY; what its files are is not looked at."""
        model = self.model(by, name, "finalize_version")
        version = model.version(rules.version_number(number))
        if version.status != PENDING and not (version.status == READY and self.settings.refinalize):
            raise wrong_state(f"Model version '{number}' of {described(model.name)} is {version.status} already.")
        if self.settings.ready_seconds:
            Timer(self.settings.ready_seconds, self._get_ready, (by, model, version)).start()
            return version
        return self._get_ready(by, model, version)

    def _get_ready(self, by: Principal, model: Model, version: Version) -> Version:
        with self.state.lock:
            version.status = READY
            return self._changed(by, model, version)

    def version(self, by: Principal, name: Any, number: Any, operation: str = "read") -> tuple[Model, Version]:
        """Return a model and one of its versions."""
        model = self.model(by, name, operation)
        return model, model.version(rules.version_number(number))

    def update_version(self, by: Principal, name: Any, number: Any, comment: Any) -> Version:
        """Change the comment of a version."""
        model, version = self.version(by, name, number, "update_version")
        if comment is not None:
            version.comment = rules.comment(comment)
        return self._changed(by, model, version)

    def delete_version(self, by: Principal, name: Any, number: Any) -> None:
        """Delete a version with its files and the aliases that point to it."""
        model, version = self.version(by, name, number, "delete_version")
        for alias in model.aliases_of(version.version):
            del model.aliases[alias]
        del model.versions[version.version]
        self.state.save(model)
        self.files.remove(model.id, version.version)

    def _changed(self, by: Principal, model: Model, version: Version) -> Version:
        version.updated_by = by.name
        version.updated_at = max(version.updated_at + 1, model.updated_at)
        self.state.save(model)
        return version

    # -- aliases

    def set_alias(self, by: Principal, name: Any, alias: Any, number: Any) -> Model:
        """Point an alias to a version, wherever it pointed before."""
        model, version = self.version(by, name, number, "set_alias")
        alias = rules.alias_name(alias, reserved=self.settings.reserved_aliases)
        if alias not in model.aliases and len(model.aliases) >= rules.MAX_ALIASES:
            raise invalid(f"{described(model.name)} has {rules.MAX_ALIASES} aliases already, which is the maximum.")
        model.aliases[alias] = version.version
        return self._marked(by, model)

    def delete_alias(self, by: Principal, name: Any, alias: Any) -> None:
        """Delete an alias."""
        model = self.model(by, name, "delete_alias")
        self._alias(model, alias)
        del model.aliases[alias]
        self._marked(by, model)

    def version_by_alias(self, by: Principal, name: Any, alias: Any) -> tuple[Model, Version]:
        """Return the version that an alias points to."""
        model = self.model(by, name)
        return model, model.version(self._alias(model, alias))

    def _alias(self, model: Model, alias: Any) -> int:
        rules.alias_name(alias, reserved=False)
        if alias not in model.aliases:
            raise missing(f"Alias '{alias}' does not exist on {described(model.name)}.")
        return model.aliases[alias]

    def _marked(self, by: Principal, model: Model) -> Model:
        if self.settings.alias_moves_updated_at:
            model.touch(by.name)
        self.state.save(model)
        return model

    # -- tags

    def change_tags(
        self, by: Principal, name: Any, add: Mapping[str, str], remove: list[str], number: Any = None
    ) -> None:
        """Set and delete tags of a model, or of the version with this number; all of them or none."""
        model = self.model(by, name, "set_tag")
        holder = model if number is None else model.version(rules.version_number(number))
        added = dict(rules.tag(key, value) for key, value in add.items())
        for key in map(rules.tag_key, remove):
            if key not in holder.tags and self.settings.missing_tags_fail:
                raise missing(f"Tag '{key}' does not exist on {described(model.name)}.")
        tags = {key: value for key, value in holder.tags.items() if key not in remove} | added
        rules.limit_tags(tags)
        holder.tags = tags
        self._marked(by, model)
