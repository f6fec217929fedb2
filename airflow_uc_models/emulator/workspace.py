"""One workspace: its state, principals, grants, files and switches."""

from __future__ import annotations

import base64
import binascii
import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from airflow_uc_models.emulator import rules
from airflow_uc_models.emulator.catalog import Catalog
from airflow_uc_models.emulator.contents import Endpoints, Notebooks, Tables
from airflow_uc_models.emulator.credentials import Vended
from airflow_uc_models.emulator.errors import ApiError
from airflow_uc_models.emulator.file_store import FileStore
from airflow_uc_models.emulator.persistence import Database
from airflow_uc_models.emulator.privileges import Guard, Principal, Principals, lineage
from airflow_uc_models.emulator.runs import Runs
from airflow_uc_models.emulator.settings import Settings
from airflow_uc_models.emulator.state import Container, Model, State, Version
from airflow_uc_models.emulator.warehouse import Warehouses

ADMIN = "admin@example.com"


class Workspace:
    """What the routes act on.

    :param settings: the switches
    :param token: the admin's token; made up if absent
    """

    def __init__(self, settings: Settings, token: str | None = None) -> None:
        self.settings = settings
        self.url = ""
        self._database = Database(settings.database) if settings.database else None
        own = None if settings.database else Path(tempfile.mkdtemp(prefix="uc-emulator-"))
        # also when the process ends without a call of close
        self._remove_own = weakref.finalize(self, shutil.rmtree, own, ignore_errors=True) if own else None
        self.files = FileStore(own or Path(f"{settings.database}.files"))
        self.state = State(self._database)
        self.guard = Guard(self.state.owner_of, self._database)
        self.principals = Principals(settings.token_requests)
        self.admin = self.principals.add(Principal(ADMIN, token or f"dapi{secrets.token_hex(16)}", is_admin=True))
        self.catalog = Catalog(settings, self.state, self.guard, self.principals, self.files)
        self.notebooks, self.runs, self.warehouses = Notebooks(), Runs(), Warehouses()
        self.endpoints, self.tables = Endpoints(), Tables()
        self.vended: dict[str, Vended] = {}
        self.metastore_id = "11111111-2222-3333-4444-555555555555"
        self.account_id = "99999999-8888-7777-6666-555555555555"

    def add_schema(self, name: str, owner: str = ADMIN) -> None:
        """Make a schema and its catalog where they are missing."""
        for level in lineage(rules.schema_name(name)):
            if level not in self.state.containers:
                self.state.save(Container(level, owner))

    def add_principal(self, name: str, *, token: str | None = None, **attributes: Any) -> Principal:
        """Add a principal; one without a token gets one."""
        return self.principals.add(Principal(name, token or f"dapi{secrets.token_hex(16)}", **attributes))

    def grant(self, principal: str, privilege: str, securable: str) -> None:
        """Give a privilege; a catalog or schema that is missing is made."""
        if securable.count(".") < 2 and securable.lower() not in self.state.containers:
            for level in lineage(securable.lower()):
                if level not in self.state.containers:
                    self.state.save(Container(level, ADMIN))
        elif securable.count(".") == 2:
            self.state.model(securable.lower())
        self.guard.grant(principal, privilege, securable)

    def authenticate(self, authorization: str, *, takes_basic: bool = False) -> Principal:
        """Return the principal of an Authorization header.

        :param takes_basic: take a personal access token as the password of the user ``token``, too
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "basic" and takes_basic:
            token = _token_of_basic(token)
        elif scheme.lower() != "bearer":
            token = ""
        if not token:
            raise ApiError(401, 401, "Credential was not sent or was of an unsupported type for this API.")
        principal = self.principals.holder(token.strip())
        if principal is None:  # databricks/databricks-sdk-go#1046 shows the answer, number and all
            status = self.settings.rejected_token_status
            raise ApiError(status, status, "Invalid access token.")
        return principal

    def paging(self, default: int, most: int) -> dict[str, Any]:
        """Return the arguments of `routing.page` that the settings decide."""
        limit = min(most, self.settings.page_limit or most)
        return {"default": min(default, limit), "most": limit, "empty_pages": self.settings.empty_pages}

    def storage_location(self, model: Model, version: Version | None = None) -> str:
        """Return where the files of a model or version would lie in a cloud."""
        folder = f"s3://emulated-bucket/{self.metastore_id}/models/{model.id}"
        return f"{folder}/versions/{version.id}" if version else folder

    def reset(self) -> None:
        """Forget models, files, grants, principals other than the admin, and what ran or was to run."""
        for store in (self.notebooks, self.runs, self.warehouses, self.endpoints, self.tables):
            store.clear()
        self.vended.clear()
        with self.state.lock:
            self.state.clear()
            self.guard.clear()
            self.principals.clear()
            self.principals.add(self.admin)
            self.files.clear()

    def close(self) -> None:
        """Close the database, and delete the files unless they belong to it."""
        if self._database:
            self._database.close()
        if self._remove_own:
            self._remove_own()


def _token_of_basic(credentials: str) -> str:
    """Return the personal access token of ``token:<token>``, "" for other users."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password if user == "token" else ""
