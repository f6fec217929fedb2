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
_MLFLOWS = {"mlflow", "mlflow-skinny"}
_UP_TO = ("==", "===", "<", "<=", "~=")
_WITH_PKG_RESOURCES = "setuptools<81"
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
        return [*self.requirements.lines, *self._added]

    @property
    def _added(self) -> list[str]:
        names = {name_of(line) for line in self.requirements.lines}
        lines = [] if names & _MLFLOWS else [f"mlflow=={metadata.version('mlflow')}"]
        return lines if "pyarrow" in names else [*lines, "pyarrow"]

    @property
    def _before(self) -> list[str]:
        """What is installed first: as mlflow does, pip, setuptools and wheel as they were where the model was made."""
        lines = [line for line in self.requirements.build if line != "setuptools"]
        has_setuptools = any(name_of(line) == "setuptools" for line in [*lines, *self.requirements.lines])
        if has_setuptools or not any(map(_needs_pkg_resources, self.requirements.lines)):
            return list(self.requirements.build)
        return [*lines, _WITH_PKG_RESOURCES]

    @property
    def key(self) -> str:
        """The same for all model versions that ask for the same."""
        asked = self.requirements
        is_own = asked.python_minor == minor(platform.python_version())
        parts = {
            "manager": self.manager,
            "python": platform.python_version() if is_own else asked.python_minor,
            "machine": f"{sys.platform} {platform.machine()}",
            "lines": sorted({*(line for line in self.lines if not _is_of_model(line)), *asked.digests}),
            "constraints": asked.constraints,
            "options": [option for option in asked.options if not _is_of_model(option)],
            "before": self._before,
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
        if self.manager == "uv":
            uv = str(uv_program())
            asked = self.requirements.python_minor
            base = sys.executable if asked == minor(platform.python_version()) else asked
            create = [uv, "venv", "--quiet", "--allow-existing", "--python", base, str(place)]
            install = [uv, "pip", "install", "--python", python]
            if any(option.startswith("--extra-index-url") for option in self.requirements.options):
                install += ["--index-strategy", "unsafe-best-match"]  # as pip does, with which the model was made
            if "--pre" in self.requirements.options:
                install += ["--prerelease", "allow"]
        else:
            create = [self._interpreter(), "-m", "venv", str(place)]
            install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        return [create, *([*install, *files] for files in self._files(place))]

    def _files(self, place: Path) -> list[list[str]]:
        """Write the files of requirements, in the order in which they are installed; return pip's options for each."""
        place.mkdir()
        asked = self.requirements
        # Where one requirement has hashes, pip wants them of all in the same file.
        is_hashed = any(" --hash=" in line for line in asked.lines)
        steps = {"build": self._before, "requirements": asked.lines if is_hashed else self.lines}
        if is_hashed:
            steps["added"] = self._added
        limits = []
        if asked.constraints:
            limits = ["-c", str(_written(place / "constraints.txt", asked.constraints))]
        return [
            ["-r", str(_written(place / f"{name}.txt", [*self._options, *lines])), *([] if name == "build" else limits)]
            for name, lines in steps.items()
            if lines
        ]

    @property
    def _options(self) -> list[str]:
        """What the files say of themselves; uv is told some of it otherwise, or has no need of it."""
        foreign = ("--pre", "--trusted-host") if self.manager == "uv" else ()
        return [option for option in self.requirements.options if not option.startswith(foreign)]

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


def _written(file: Path, lines: Sequence[str]) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _is_of_model(line: str) -> bool:
    """Whether a line names a file among the model's, which lie elsewhere each time."""
    return line.startswith("/") or " /" in line or "file:///" in line


def _needs_pkg_resources(line: str) -> bool:
    """Whether a requirement is an mlflow that imports setuptools' pkg_resources without asking for setuptools."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion, Version

    try:
        wanted = Requirement(line.partition(" --hash")[0])
        newest = [Version(s.version.removesuffix(".*")) for s in wanted.specifier if s.operator in _UP_TO]
    except (InvalidRequirement, InvalidVersion):
        return False
    return name_of(line) in _MLFLOWS and any(version < Version("2.16") for version in newest)


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
