"""Building an environment of a model's requirements, with uv or with venv and pip."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from airflow_uc_models.environments.requirements import ModelRequirements, hide_passwords, minor, name_of
from airflow_uc_models.exceptions import InvalidArgumentError, ModelEnvironmentError

log = logging.getLogger(__name__)

_LAST_LINES = 15
# What a model's process and a build do not see. Also: where this process takes its own packages from.
_OF_THE_TASK = ("AIRFLOW", "_AIRFLOW", "__AIRFLOW", "MLFLOW_", "DATABRICKS_", "PYTHON", "VIRTUAL_ENV", "CONDA_")
# Ends with the task, even if that is killed; a model's process does so by itself.
_TIED = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("The task is gone.")
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds one environment.

    :param manager: ``uv`` or ``virtualenv``
    :param label: how messages name the model
    """

    manager: str
    requirements: ModelRequirements
    label: str

    @property
    def lines(self) -> list[str]:
        """All that is to be installed: what the model asks for, and what its process speaks with."""
        lines = list(self.requirements.lines)
        names = {name_of(line) for line in lines}
        if not names & {"mlflow", "mlflow-skinny"}:
            lines.append(f"mlflow=={metadata.version('mlflow')}")
        if "pyarrow" not in names:
            lines.append("pyarrow")
        return lines

    @property
    def key(self) -> str:
        """The same for all model versions that ask for the same."""
        asked = self.requirements
        is_own = asked.python_minor == minor(platform.python_version())
        parts = {
            "manager": self.manager,
            "python": platform.python_version() if is_own else asked.python_minor,
            "machine": f"{sys.platform} {platform.machine()}",
            "lines": sorted({*(line for line in self.lines if not line.startswith("/")), *asked.digests}),
            "constraints": asked.constraints,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return f"py{asked.python_minor}-{digest[:20]}"

    def build(self, place: Path, lock: int) -> None:
        """Fill a new folder; ModelEnvironmentError with the last words of uv or pip if that fails.

        :param lock: file descriptor that the started processes hold
        """
        started = time.monotonic()
        log.info(
            "Building an environment for %s with %s: %s", self.label, self.manager, hide_passwords(str(self.lines))
        )
        for command in self._commands(place):
            self._run(command, place.parent, lock)
        log.info("Built the environment in %.1f s: %s", time.monotonic() - started, place)

    def _commands(self, place: Path) -> list[list[str]]:
        python = str(place / "bin" / "python")
        files = [str(arg) for pair in self._files(place) for arg in pair]
        if self.manager == "uv":
            uv = str(uv_program())
            asked = self.requirements.python_minor
            base = sys.executable if asked == minor(platform.python_version()) else asked
            return [
                [uv, "venv", "--quiet", "--allow-existing", "--python", base, str(place)],
                [uv, "pip", "install", "--python", python, *files],
            ]
        return [
            [self._interpreter(), "-m", "venv", str(place)],
            [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *files],
        ]

    def _files(self, place: Path) -> list[tuple[str, Path]]:
        place.mkdir()
        found = [("-r", place / "requirements.txt")]
        found[0][1].write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        if self.requirements.constraints:
            found.append(("-c", place / "constraints.txt"))
            found[1][1].write_text("\n".join(self.requirements.constraints) + "\n", encoding="utf-8")
        return found

    def _interpreter(self) -> str:
        asked = self.requirements.python_minor
        if asked == minor(platform.python_version()):
            return sys.executable
        program = f"python{asked}"
        if path := shutil.which(program):
            told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and told.stdout.startswith(f"Python {asked}."):
                return path
        raise ModelEnvironmentError(
            f"{self.label} asks for Python {asked}, which this worker does not have: no {program} on its PATH runs. "
            "Install it, or set env_manager='uv', which finds and fetches interpreters."
        )

    def _run(self, command: Sequence[str], folder: Path, lock: int) -> None:
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
        process = subprocess.Popen(
            tied,
            cwd=folder,
            env=scrubbed(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=[lock],
        )
        try:
            told, _ = process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if process.returncode:
            last = "\n".join(hide_passwords(told).strip().splitlines()[-_LAST_LINES:])
            raise ModelEnvironmentError(
                f"The environment of {self.label} could not be built: {Path(command[0]).name} ended with "
                f"{process.returncode}. Where packages come from is set by this worker's own uv and pip settings. Its "
                f"last lines:\n{last}"
            )


def uv_program() -> Path:
    """Return the uv of this worker; InvalidArgumentError if there is none."""
    if path := find_uv():
        return path
    raise InvalidArgumentError(
        "env_manager is 'uv', and uv is not on this worker. Install it (pip install uv), or set "
        "env_manager='virtualenv', which needs venv and pip only."
    )


def find_uv() -> Path | None:
    """Return the uv that is installed with this Python, or else the one on the PATH."""
    beside = Path(sys.executable).parent / "uv"
    if beside.is_file():
        return beside
    found = shutil.which("uv")
    return Path(found) if found else None


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those of Airflow, MLflow, Databricks and this Python."""
    return {name: value for name, value in environment.items() if not name.startswith(_OF_THE_TASK)}
