"""Who may do what on an open-source Unity Catalog server with ``server.authorization=enable``.

Rules: seen by running the server, and the ``@AuthorizeExpression`` of its ``ModelService``.
"""

from __future__ import annotations

import secrets
from typing import Any

from airflow_uc_models.emulator.open_source_rows import Row, ServerError, invalid
from airflow_uc_models.emulator.open_source_store import Store

ADMIN = "admin"
OWNER = "OWNER"


class Access:
    """Users, their tokens and what was granted to them.

    :param admin_token: the token of the administrator; the real server writes it to ``etc/conf/token.txt``
    """

    def __init__(self, admin_token: str | None = None) -> None:
        self.admin_token = admin_token or secrets.token_urlsafe(24)
        self.users = {ADMIN}
        self.tokens = {self.admin_token: ADMIN}
        self.grants: dict[tuple[str, str], set[str]] = {}

    def add_user(self, name: str, token: str | None = None) -> str:
        """Make a user and return a token of theirs; the real server has tokens issued by an identity provider."""
        self.users.add(name)
        token = token or secrets.token_urlsafe(24)
        self.tokens[token] = name
        return token

    def authenticate(self, header: str | None, cookie: str | None) -> str:
        """Return the user of a request."""
        token = cookie
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme != "Bearer":  # letter case counts
                token = None
        if not token:
            raise ServerError(401, "UNAUTHENTICATED", "No authorization found.")
        user = self.tokens.get(token)
        if user is None:
            raise ServerError(401, "UNAUTHENTICATED", "Invalid access token.")
        if user not in self.users:
            raise ServerError(403, "PERMISSION_DENIED", f"User not allowed: {user}")
        return user

    def change(self, securable: Row, changes: list[Row]) -> None:
        """Carry out ``{principal, add, remove}``."""
        for change in changes:
            if change.get("principal") not in self.users:
                raise ServerError(404, "NOT_FOUND", f"User not found: {change.get('principal')}")
            granted = self.grants.setdefault((_id(securable), change["principal"]), set())
            granted |= set(change.get("add") or ())
            granted -= set(change.get("remove") or ())

    def granted(self, securable: Row) -> list[dict[str, Any]]:
        """Return who has which privileges on a securable."""
        found = {user: privileges for (held, user), privileges in self.grants.items() if held == _id(securable)}
        return [{"principal": user, "privileges": sorted(found[user])} for user in sorted(found) if found[user]]

    def has(self, user: str, securable: Row, *privileges: str) -> bool:
        """Whether a user has one of these on a securable."""
        held = self.grants.get((_id(securable), user), set())
        return any(p in held or (p == OWNER and securable.get("owner") == user) for p in privileges)


class Guard:
    """The checks of one request.

    :param user: who asks; None where authorization is off, and everything is allowed
    """

    def __init__(self, store: Store, access: Access, user: str | None) -> None:
        self.store = store
        self.access = access
        self.user = user

    def admin(self) -> None:
        """Only an administrator."""
        self._expect(self.user == ADMIN)

    def create_schema(self, catalog: Row) -> None:
        """Its catalog's owner, or USE CATALOG and CREATE SCHEMA."""
        self._expect(
            self.user == ADMIN
            or self._has(catalog, OWNER)
            or (self._has(catalog, "USE CATALOG") and self._has(catalog, "CREATE SCHEMA"))
        )

    def create_model(self, schema: Row) -> None:
        """USE CATALOG, and the schema's owner or USE SCHEMA and CREATE MODEL."""
        catalog = self.store.catalog(schema["catalog_name"])
        self._expect(
            self._has(catalog, OWNER, "USE CATALOG")
            and (self._has(schema, OWNER) or (self._has(schema, "USE SCHEMA") and self._has(schema, "CREATE MODEL")))
        )

    def read(self, model: Row) -> None:
        """USE CATALOG, USE SCHEMA and EXECUTE, or the ownership of what is above."""
        self._expect(self.can_read(model))

    def can_read(self, model: Row) -> bool:
        """Whether ``read`` would pass: lists leave out what does not."""
        if self.user in (None, ADMIN):
            return True
        catalog, schema = self._above(model)
        return self._has(catalog, OWNER) or (
            self._has(catalog, "USE CATALOG")
            and (self._has(schema, OWNER) or (self._has(schema, "USE SCHEMA") and self._has(model, OWNER, "EXECUTE")))
        )

    def write(self, model: Row) -> None:
        """Ask for the model's owner, with USE CATALOG and USE SCHEMA; the administrator has no more right to it."""
        self._expect(self._owns(model))

    def delete(self, model: Row) -> None:
        """As ``write``, or an owner of what is above."""
        catalog, schema = self._above(model)
        self._expect(
            self.user == ADMIN
            or self._has(catalog, OWNER)
            or (self._has(catalog, "USE CATALOG") and self._has(schema, OWNER))
            or self._owns(model)
        )

    def securable(self, kind: str, name: str) -> Row:
        """Return what grants are on."""
        if kind == "catalog":
            return self.store.catalog(name)
        if kind == "schema":
            catalog, _, schema = name.partition(".")
            return self.store.schema(catalog, schema)
        if kind == "registered_model":
            return self.store.model(name)
        raise invalid(f"Unknown securable type: {kind}")

    def change_grants(self, securable: Row) -> None:
        """Ask for an administrator or the owner."""
        self._expect(self.user == ADMIN or self._has(securable, OWNER))

    def _owns(self, model: Row) -> bool:
        catalog, schema = self._above(model)
        return (
            self._has(model, OWNER)
            and (self._has(schema, OWNER, "USE SCHEMA"))
            and self._has(catalog, OWNER, "USE CATALOG")
        )

    def _above(self, model: Row) -> tuple[Row, Row]:
        schema = self.store.schema(model["catalog_name"], model["schema_name"])
        return self.store.catalog(model["catalog_name"]), schema

    def _has(self, securable: Row, *privileges: str) -> bool:
        return self.user is None or self.access.has(self.user, securable, *privileges)

    def _expect(self, allowed: bool) -> None:
        if self.user is not None and not allowed:
            raise ServerError(403, "PERMISSION_DENIED", "Access denied.")


def _id(securable: Row) -> str:
    return str(securable.get("schema_id") or securable["id"])
