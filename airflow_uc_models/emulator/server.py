"""Serve an ASGI application on a free loopback port, in a thread of this process."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from airflow_uc_models.emulator.settings import Settings

if TYPE_CHECKING:
    from airflow_uc_models.emulator.contents import Endpoints, Tables
    from airflow_uc_models.emulator.privileges import Principal
    from airflow_uc_models.emulator.runs import Runs
    from airflow_uc_models.emulator.warehouse import Warehouses

TRANSPORT = "uc_models.transport"


class LoopbackServer:
    """Serves ``app`` on 127.0.0.1 between entry and exit.

    :param app: any ASGI application; finds the connection's transport in its scope, to break it on purpose
    :param port: 0 takes a free one; bound when the object is made, so that ``url`` holds from then on
    :param certificate: the files of a certificate and its key, to serve https
    """

    def __init__(self, app: Any, *, port: int = 0, certificate: tuple[Path, Path] | None = None) -> None:
        import uvicorn

        self._scheme = "https" if certificate else "http"

        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope[TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
            await app(scope, receive, send)

        config = uvicorn.Config(
            with_transport,
            log_config=None,  # how users log is their business
            log_level="critical",
            access_log=False,
            ws="none",
            lifespan="off",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
            ssl_certfile=certificate[0] if certificate else None,
            ssl_keyfile=certificate[1] if certificate else None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name=f"emulator-{self.port}", daemon=True)

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Begin to serve; returns when requests are answered."""
        self._socket.listen(256)  # a client that comes before the loop runs waits in the queue
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.005)
            if not self._thread.is_alive():
                raise RuntimeError(f"The server on port {self.port} ended before it had begun.")
        return self

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Stop serving and release the port."""
        self._server.should_exit = self._server.force_exit = True
        if self._thread.is_alive():
            self._thread.join(10)
        self._socket.close()

    def join(self) -> None:
        """Wait until the server ends."""
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Emulator(LoopbackServer):
    """A Databricks workspace on 127.0.0.1 between entry and exit.

    ``requests`` holds what came in, ``faults`` what shall go wrong, ``workspace`` the state.

    :param settings: the switches
    :param port: 0 takes a free one
    :param token: the admin's token; made up if absent
    :param certificate: the files of a certificate and its key, to serve https
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        port: int = 0,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        from airflow_uc_models.emulator.app import create_app
        from airflow_uc_models.emulator.faults import FaultPlayer, Faults
        from airflow_uc_models.emulator.recording import Recorder, Requests
        from airflow_uc_models.emulator.workspace import Workspace

        self.workspace = Workspace(settings or Settings(), token)
        self.requests = Requests()
        self.faults = Faults()
        app = create_app(self.workspace)
        super().__init__(Recorder(FaultPlayer(app, self.faults), self.requests), port=port, certificate=certificate)
        self.workspace.url = self.url

    @property
    def settings(self) -> Settings:
        """The switches."""
        return self.workspace.settings

    @property
    def token(self) -> str:
        """The admin's token."""
        return self.workspace.admin.token or ""

    @property
    def runs(self) -> Runs:
        """The one-time runs; ``plan`` says what becomes of the next."""
        return self.workspace.runs

    @property
    def warehouses(self) -> Warehouses:
        """The SQL warehouses; ``add`` makes one, ``answer`` says what becomes of statements."""
        return self.workspace.warehouses

    @property
    def endpoints(self) -> Endpoints:
        """The serving endpoints; ``add`` makes one."""
        return self.workspace.endpoints

    @property
    def tables(self) -> Tables:
        """The tables, which have columns but no rows; ``add`` makes one."""
        return self.workspace.tables

    def add_schema(self, name: str) -> None:
        """Make a schema, ``catalog.schema``, and its catalog."""
        self.workspace.add_schema(name)

    def add_principal(
        self,
        name: str,
        *,
        token: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        is_admin: bool = False,
        subject: str | None = None,
    ) -> Principal:
        """Add a user or service principal, who has no privileges yet.

        :param token: a personal access token; made up if absent
        :param client_id: with ``client_secret``, the OAuth client of a service principal
        :param subject: the ``sub`` claim of federated tokens that stand for this principal
        """
        return self.workspace.add_principal(
            name, token=token, client_id=client_id, client_secret=client_secret, is_admin=is_admin, subject=subject
        )

    def grant(self, principal: Principal | str, privilege: str, securable: str) -> None:
        """Give a privilege, such as USE CATALOG, on a catalog, schema or model; missing schemas are made."""
        self.workspace.grant(_name(principal), privilege, securable)

    def revoke(self, principal: Principal | str, privilege: str, securable: str) -> None:
        """Take a privilege back."""
        self.workspace.guard.revoke(_name(principal), privilege, securable)

    def connection_json(self, principal: Principal | str | None = None, **extra: Any) -> str:
        """Return the workspace as the value of an AIRFLOW_CONN_ variable.

        :param principal: whose personal token to use, the admin's by default
        :param extra: put into the connection's extra
        """
        return json.dumps(
            {
                "conn_type": "databricks",
                "host": "127.0.0.1",
                "schema": self._scheme,
                "port": self.port,
                "password": self._token(principal),
                "extra": extra,
            }
        )

    def connection_uri(self, principal: Principal | str | None = None) -> str:
        """Return the workspace as a connection URI."""
        return f"databricks://:{self._token(principal)}@127.0.0.1:{self.port}/{self._scheme}"

    def env(
        self, conn_id: str = "databricks_default", principal: Principal | str | None = None, **extra: Any
    ) -> dict[str, str]:
        """Return the environment variable that makes the workspace an Airflow connection."""
        return {f"AIRFLOW_CONN_{conn_id.upper()}": self.connection_json(principal, **extra)}

    def _token(self, principal: Principal | str | None) -> str:
        known = self.workspace.principals.by_name
        return self.token if principal is None else known[_name(principal)].token or ""

    def reset(self) -> None:
        """Empty the workspace; forget principals but the admin, grants, requests and faults."""
        self.faults.clear()
        self.workspace.reset()
        self.requests.take()

    def stop(self) -> None:
        """Stop serving and delete the files, unless a database keeps them."""
        self.faults.clear()
        super().stop()
        self.workspace.close()


def _name(principal: Principal | str) -> str:
    return principal if isinstance(principal, str) else principal.name
