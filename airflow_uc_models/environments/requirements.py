"""What a model asks for: the Python and the packages that its files name, compared with those of this worker."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from airflow_uc_models.exceptions import ModelContentError

log = logging.getLogger(__name__)

_MLFLOW = {"mlflow", "mlflow-skinny", "mlflow-tracing"}
# Where packages come from is the worker's matter, not the model's.
_INDEX_OPTIONS = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host")
_INCLUDES = {"-r": "requirement", "--requirement": "requirement", "-c": "constraint", "--constraint": "constraint"}
# What conda.yaml always has, and what every environment brings.
_OF_CONDA = {"python", "pip", "setuptools", "wheel"}


@dataclass(frozen=True, slots=True)
class ModelRequirements:
    """What a model's own files ask for.

    :param python: its Python, such as ``3.11.7``; None if they do not tell
    :param lines: packages as pip takes them, in canonical form
    :param constraints: the same, for packages that only others ask for
    :param digests: of the files among the packages
    """

    python: str | None
    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def python_minor(self) -> str:
        """``3.11`` for 3.11.7; this worker's if the model does not tell."""
        return minor(self.python) if self.python else minor(sys.version.split()[0])

    def differences(self) -> list[str]:
        """Return what keeps the model from running with the packages of this worker; an empty list if nothing does."""
        found = []
        here = sys.version.split()[0]
        if minor(here) != self.python_minor:
            found.append(f"the model asks for Python {self.python_minor}, and this worker has {minor(here)}")
        return found + [text for line in self.lines if (text := _difference(line))]


def read_requirements(folder: Path, label: str) -> ModelRequirements | None:
    """Read the requirements of a downloaded model; None if it names none.

    Raises: ModelContentError if an environment cannot be built from them: packages from conda, files that are missing.

    :param folder: holds ``MLmodel``
    :param label: how messages name the model
    """
    conda, python_env = _yaml(folder / "conda.yaml", label), _yaml(folder / "python_env.yaml", label)
    dependencies = conda.get("dependencies") or []
    pip = [line for item in dependencies if isinstance(item, Mapping) for line in item.get("pip") or ()]
    others = [item for item in dependencies if isinstance(item, str)]
    if only_conda := [item for item in others if _conda_name(item) not in _OF_CONDA]:
        raise ModelContentError(
            f"{label} asks for packages from conda ({', '.join(only_conda)}), which uv and pip do not install. Log it "
            "with pip_requirements instead of conda_env, or set env_manager='local' to try this worker's packages."
        )
    file = folder / "requirements.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else "\n".join(map(str, pip))
    if not text.strip():
        return None
    reader = _Reader(folder, label)
    reader.read(text, "requirement")
    python = python_env.get("python") or next(
        (m[1] for i in others if (m := re.fullmatch(r"python=+([\d.]+)", i))), None
    )
    return ModelRequirements(
        str(python) if python else None,
        reader.sorted("requirement"),
        reader.sorted("constraint"),
        tuple(reader.digests),
    )


def minor(version: str) -> str:
    """``3.11`` for 3.11.7."""
    return ".".join(version.split(".")[:2])


def name_of(line: str) -> str | None:
    """Return the canonical name of the package on a line; None if it is a file or an address."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        return str(canonicalize_name(Requirement(line).name))
    except InvalidRequirement:
        return None


def hide_passwords(text: str) -> str:
    """Return text without the user and password of addresses in it."""
    return re.sub(r"(?<=://)[^/\s]+@", "***@", text)


class _Reader:
    """Reads requirements files as pip does, as far as a model may have them."""

    def __init__(self, folder: Path, label: str) -> None:
        self.folder = folder.resolve()
        self.label = label
        self.digests: list[str] = []
        self._lines: dict[str, set[str]] = {"requirement": set(), "constraint": set()}

    def sorted(self, kind: str) -> tuple[str, ...]:
        return tuple(sorted(self._lines[kind]))

    def read(self, text: str, kind: str) -> None:
        for line in _logical_lines(text):
            option, _, rest = line.partition(" ") if " " in line else line.partition("=")
            if option in _INCLUDES:
                self.read(self._file(rest.strip()).read_text(encoding="utf-8"), _INCLUDES[option])
            elif option in _INDEX_OPTIONS:
                log.warning(
                    "%s names a package index (%s), which is left out: this worker's are used", self.label, option
                )
            elif line.startswith("-"):
                raise self._refusal(line, "is an option that a model cannot have")
            else:
                self._lines[kind].add(self._requirement(re.sub(r"\s+--hash[= ]\S+", "", line)))

    def _requirement(self, line: str) -> str:
        from packaging.requirements import InvalidRequirement, Requirement

        if re.fullmatch(r"[^\s@]+\.(whl|tar\.gz|zip)", line) and "://" not in line:
            file = self._file(line)
            self.digests.append(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}")
            return str(file)
        try:
            parsed = Requirement(line)
        except InvalidRequirement as error:
            if re.match(r"(git|hg|svn|bzr)\+\w+://|https?://", line):
                return line
            raise self._refusal(line, "is no requirement that pip would take") from error
        parsed.name = name_of(line) or parsed.name
        return str(parsed)

    def _file(self, name: str) -> Path:
        file = (self.folder / name).resolve()
        if "://" in name or not file.is_relative_to(self.folder) or not file.is_file():
            raise self._refusal(name, "is no file of the model")
        return file

    def _refusal(self, line: str, what: str) -> ModelContentError:
        return ModelContentError(
            f"No environment can be built for {self.label}: {hide_passwords(line)!r} in its requirements {what}. Log "
            "the model with other pip_requirements, or set env_manager='local' to try this worker's packages."
        )


def _logical_lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if wanted := re.sub(r"(^|\s)#.*", "", line).strip():
            yield wanted


def _difference(line: str) -> str | None:
    """Return what is wrong with this worker's packages for one requirement."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(line)
    except InvalidRequirement:
        wanted = None
    if wanted is None or wanted.url:
        return f"the model asks for {hide_passwords(line)}, which cannot be compared with what is installed"
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"the model asks for {line}, and this worker does not have it"
    if not all(_allows(wanted.name, item.operator, item.version, installed) for item in wanted.specifier):
        return f"the model asks for {line}, and this worker has {installed}"
    if lacking := next((text for extra in wanted.extras for text in _lacking(wanted.name, extra)), None):
        return f"{line}: {lacking}"
    return None


def _lacking(name: str, extra: str) -> Iterator[str]:
    """Yield what is wrong with this worker's packages for an extra of an installed one."""
    from packaging.requirements import Requirement

    for line in metadata.requires(name) or ():
        marker = Requirement(line).marker
        is_asked_for = marker is not None and "extra" in str(marker) and marker.evaluate({"extra": extra})
        if is_asked_for and (text := _difference(line.partition(";")[0].strip())):
            yield text


def _allows(name: str, operator: str, version: str, installed: str) -> bool:
    """Whether the installed version does for one clause; for a pin, its bug fix releases and newer mlflows do, too."""
    from packaging.specifiers import Specifier
    from packaging.version import InvalidVersion, Version

    if operator not in ("==", "===") or version.endswith(".*"):
        return Specifier(f"{operator}{version}").contains(installed, prereleases=True)
    try:
        pinned, found = Version(version), Version(installed)
    except InvalidVersion:
        return version == installed
    if name in _MLFLOW:  # reads the models of older ones of its major version
        return pinned.major == found.major and pinned.release[:2] <= found.release[:2]
    return (pinned.major, pinned.minor) == (found.major, found.minor)


def _conda_name(item: str) -> str:
    return re.split(r"[=<>!\s\[]", item.rpartition("::")[2].strip(), maxsplit=1)[0].lower()


def _yaml(file: Path, label: str) -> dict[str, Any]:
    import yaml

    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelContentError(f"{file.name} of {label} is not readable YAML: {error}") from error
    return content if isinstance(content, dict) else {}
