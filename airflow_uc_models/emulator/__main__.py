"""``python -m airflow_uc_models.emulator``: a workspace, or an open-source Unity Catalog server, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from airflow_uc_models.emulator.server import Emulator, LoopbackServer
from airflow_uc_models.emulator.settings import Settings

_EXAMPLES = """\
Databricks workspace on {url}
Token of the admin: {token}

As an Airflow connection:
  export AIRFLOW_CONN_DATABRICKS_DEFAULT='{connection}'
With MLflow:
  export DATABRICKS_HOST={url} DATABRICKS_TOKEN={token}
  export MLFLOW_REGISTRY_URI=databricks-uc
With curl:
  curl -H 'Authorization: Bearer {token}' '{url}/api/2.1/unity-catalog/models'
"""
_OPEN_SOURCE = """\
Open-source Unity Catalog server on {url}

As an Airflow connection:
  export AIRFLOW_CONN_UNITY_CATALOG_DEFAULT='{{"conn_type": "unity_catalog", "host": "{url}"}}'
With MLflow:
  export MLFLOW_REGISTRY_URI=uc:{url}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the server that the command line asks for."""
    parser = _parser()
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else files would be left behind
    try:
        server, text = _open_source(options) if options.flavor == "open-source" else _databricks(parser, options)
        with server:
            sys.stdout.write(text)
            sys.stdout.flush()
            server.join()
    except KeyboardInterrupt:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m airflow_uc_models.emulator", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 takes a free one")
    add("--flavor", choices=["databricks", "open-source"], default="databricks")
    add("--storage", choices=["files", "presigned", "vended"], default="files", help="how clients move files")
    add("--database", type=Path, help="a SQLite file that keeps the state; files are kept beside it")
    add("--root", type=Path, help="open-source: where files of models lie")
    add(
        "--token",
        default=os.environ.get("EMULATOR_TOKEN"),
        help="the admin's token (or EMULATOR_TOKEN); made up if absent",
    )
    add("--tracking-uri", help="an MLflow server for runs, experiments and logged models")
    add(
        "--grant",
        action="append",
        default=[],
        metavar="PRINCIPAL=TOKEN:PRIVILEGE:SECURABLE",
        help="give a principal with this token a privilege, such as ci=secret:USE_CATALOG:dev; may be repeated",
    )
    return parser


def _databricks(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[LoopbackServer, str]:
    settings = Settings(storage=options.storage, database=options.database, tracking_uri=options.tracking_uri)
    server = Emulator(settings, port=options.port, token=options.token)
    for text in options.grant:
        try:
            who, privilege, securable = text.split(":")
            name, token = who.split("=")
        except ValueError:
            parser.error(f"--grant {text!r} is not of the form PRINCIPAL=TOKEN:PRIVILEGE:SECURABLE")
        server.add_principal(name, token=token)
        server.grant(name, privilege, securable)
    return server, _EXAMPLES.format(url=server.url, token=server.token, connection=server.connection_json())


def _open_source(options: argparse.Namespace) -> tuple[LoopbackServer, str]:
    from airflow_uc_models.emulator.open_source import create_app

    root = options.root or Path(tempfile.mkdtemp(prefix="uc-open-source-"))
    server = LoopbackServer(
        create_app(root, authorization=options.token is not None, admin_token=options.token), port=options.port
    )
    return server, _OPEN_SOURCE.format(url=server.url)


if __name__ == "__main__":
    sys.exit(main())
