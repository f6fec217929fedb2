"""Who may do what: principals, grants that catalogs and schemas pass down, and the privileges each operation needs.

Source of the table: docs.databricks.com "Unity Catalog privileges and securable objects" and "Manage model lifecycle
in Unity Catalog"; databricks-sdk docstrings of RegisteredModelsAPI and ModelVersionsAPI.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from airflow_uc_models.emulator.errors import denied, invalid
from airflow_uc_models.emulator.persistence import Database

EVERYONE = "account users"
PRIVILEGES = frozenset(
    {"ALL_PRIVILEGES", "APPLY_TAG", "BROWSE", "CREATE_CATALOG", "CREATE_FUNCTION", "CREATE_MODEL"}
    | {"CREATE_MODEL_VERSION", "CREATE_SCHEMA", "EXECUTE", "MANAGE", "MODIFY", "SELECT", "USE_CATALOG", "USE_SCHEMA"}
)
# ALL PRIVILEGES is everything but this
_NOT_IN_ALL = {"MANAGE"}


@dataclass(frozen=True)
class Principal:
    """A user or service principal.

    :param token: a personal access token, good for ever
    :param is_admin: a metastore admin, who may do everything
    :param subject: the ``sub`` claim of the federated tokens that stand for this principal
    """

    name: str
    token: str | None = field(default=None, repr=False)
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    is_admin: bool = False
    subject: str | None = None


@dataclass(frozen=True)
class Need:
    """What an operation on a model needs besides USE CATALOG and USE SCHEMA.

    :param model: any one of these on the model
    :param owner: or ownership of the model, or MANAGE on it
    :param schema: and any one of these on the schema
    """

    model: tuple[str, ...] = ()
    owner: bool = True
    schema: tuple[str, ...] = ()


_CREATE = ("CREATE_MODEL", "CREATE_FUNCTION")
_WRITE = Need(("CREATE_MODEL_VERSION",))
_OWN = Need()
NEEDS: Mapping[str, Need] = {
    "create_model": Need(owner=False, schema=_CREATE),
    "read": Need(("EXECUTE",), owner=False),
    "browse": Need(("EXECUTE", "BROWSE"), owner=False),
    "update_model": _OWN,
    "rename_model": Need(schema=_CREATE),
    "delete_model": _OWN,
    "create_version": _WRITE,
    "write_files": _WRITE,
    "finalize_version": _WRITE,
    "update_version": _OWN,
    "delete_version": _OWN,
    "set_alias": _OWN,
    "delete_alias": _OWN,
    "set_tag": Need(("APPLY_TAG",)),
    "delete_tag": Need(("APPLY_TAG",)),
    "read_grants": _OWN,
    "change_grants": _OWN,
}


def privilege_name(text: str) -> str:
    """Return a privilege in the API's spelling; SQL's, with spaces, is taken, too."""
    name = text.strip().upper().replace(" ", "_")
    if name not in PRIVILEGES:
        raise invalid(f"Privilege {text} is not applicable to this entity.")
    return name


def spoken(privilege: str) -> str:
    """Return a privilege as SQL and error messages spell it."""
    return privilege.replace("_", " ")


def described(securable: str) -> str:
    """Return a securable as error messages name it."""
    kind = ("Catalog", "Schema", "Routine or Model")[securable.count(".")]
    return f"{kind} '{securable}'"


def lineage(securable: str) -> list[str]:
    """Return a securable and what it lies in, outermost first."""
    levels = securable.split(".") if securable else []
    return [".".join(levels[: i + 1]) for i in range(len(levels))]


class Guard:
    """The grants, and the checks that rest on them.

    :param owner_of: gives the owner of a securable, None where it does not exist
    :param database: keeps the grants
    """

    def __init__(self, owner_of: Callable[[str], str | None], database: Database | None = None) -> None:
        self.grants: dict[str, dict[str, set[str]]] = {}
        self._owner_of = owner_of
        self._database = database
        for kind, securable, kept in database.load() if database else ():
            if kind == "grants":
                self.grants[securable] = {principal: set(held) for principal, held in kept.items()}

    def clear(self) -> None:
        """Forget all grants."""
        self.grants.clear()

    def _save(self, securable: str) -> None:
        if self._database:
            held = {principal: sorted(names) for principal, names in self.grants.get(securable, {}).items()}
            self._database.save("grants", securable, held)

    def grant(self, principal: str, privilege: str, securable: str) -> None:
        """Give a privilege."""
        self.grants.setdefault(securable.lower(), {}).setdefault(principal, set()).add(privilege_name(privilege))
        self._save(securable.lower())

    def revoke(self, principal: str, privilege: str, securable: str) -> None:
        """Take a privilege back; ALL PRIVILEGES takes all of them."""
        held = self.grants.get(securable.lower(), {})
        name = privilege_name(privilege)
        left = set() if name == "ALL_PRIVILEGES" else held.get(principal, set()) - {name}
        if left:
            held[principal] = left
        else:
            held.pop(principal, None)
        self._save(securable.lower())

    def moved(self, old: str, new: str | None) -> None:
        """Carry the grants on a securable over to its new name, or drop them with it."""
        grants = self.grants.pop(old, None)
        if grants and new:
            self.grants[new] = grants
            self._save(new)
        self._save(old)

    def held(self, principal: Principal, securable: str) -> set[str]:
        """Return the privileges on a securable, inherited ones included."""
        found: set[str] = set()
        for level in lineage(securable):
            for name in (principal.name, EVERYONE):
                found |= self.grants.get(level, {}).get(name, set())
        return found | (PRIVILEGES - _NOT_IN_ALL if "ALL_PRIVILEGES" in found else set())

    def owns(self, principal: Principal, securable: str) -> bool:
        """Whether the principal owns the securable itself."""
        return principal.is_admin or self._owner_of(securable) == principal.name

    def has(self, principal: Principal, privileges: tuple[str, ...], securable: str) -> bool:
        """Whether the principal owns the securable or has one of the privileges on it."""
        return self.owns(principal, securable) or bool(self.held(principal, securable) & set(privileges))

    def enter(self, principal: Principal, securable: str) -> None:
        """Ask for USE CATALOG and USE SCHEMA on what lies around a model."""
        for level, privilege in zip(lineage(securable), ("USE_CATALOG", "USE_SCHEMA"), strict=False):
            if not self.has(principal, (privilege,), level):
                raise denied(f"User does not have {spoken(privilege)} on {described(level)}.")

    def check(self, principal: Principal, operation: str, model: str) -> None:
        """Raise PERMISSION_DENIED, naming privilege and securable, unless the principal may do the operation."""
        need = NEEDS[operation]
        self.enter(principal, model.rpartition(".")[0])
        if not self._may(principal, need, model):
            wanted = [spoken(privilege) for privilege in need.model] + (["MANAGE"] if need.owner else [])
            ownership = " and is not its owner"
            raise denied(f"User does not have {' or '.join(wanted)} on {described(model)}{ownership}.")
        schema = model.rpartition(".")[0]
        if need.schema and not self.has(principal, need.schema, schema):
            raise denied(f"User does not have {spoken(need.schema[0])} on {described(schema)}.")

    def allows(self, principal: Principal, operation: str, model: str) -> bool:
        """Whether `check` would pass, leaving USE CATALOG and USE SCHEMA aside."""
        return self._may(principal, NEEDS[operation], model)

    def _may(self, principal: Principal, need: Need, model: str) -> bool:
        if not need.model and not need.owner:
            return True
        return self.has(principal, need.model + (("MANAGE",) if need.owner else ()), model)


class Principals:
    """The principals of a workspace, by name, token and client id.

    :param most_uses: how often an issued token may be used; None for no end
    """

    def __init__(self, most_uses: int | None = None) -> None:
        self.by_name: dict[str, Principal] = {}
        self._issued: dict[str, tuple[str, float]] = {}
        self._uses: Counter[str] = Counter()
        self._most_uses = most_uses

    def add(self, principal: Principal) -> Principal:
        """Add a principal or replace the one of that name."""
        self.by_name[principal.name] = principal
        return principal

    def find(self, **wanted: str) -> Principal | None:
        """Return the principal that has these attributes."""
        for principal in self.by_name.values():
            if all(_same(getattr(principal, key), value) for key, value in wanted.items()):
                return principal
        return None

    def issue(self, principal: Principal, seconds: float) -> str:
        """Return a token that is good for so long."""
        token = f"eyJ{secrets.token_urlsafe(40)}"
        self._issued[token] = (principal.name, time.monotonic() + seconds)
        return token

    def holder(self, token: str) -> Principal | None:
        """Return whom a token stands for, None for one that is unknown or has expired."""
        name, until = self._issued.get(token, ("", 0.0))
        if time.monotonic() < until:
            self._uses[token] += 1
            is_used_up = self._most_uses is not None and self._uses[token] > self._most_uses
            return None if is_used_up else self.by_name.get(name)
        return self.find(token=token)

    def expire_tokens(self) -> None:
        """Let all issued tokens expire now."""
        self._issued.clear()

    def clear(self) -> None:
        """Forget all principals and tokens."""
        self.by_name.clear()
        self._issued.clear()


def _same(kept: str | None, given: str) -> bool:
    return kept is not None and secrets.compare_digest(kept.encode(), given.encode())
