"""What a model asks for: the Python and the packages that its files name, compared with those of this worker."""

from __future__ import annotations

import codecs
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
# What a requirements file may say of itself, besides requirements; the first need a value.
_VALUE_OPTIONS = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host", "--no-binary",
                  "--only-binary")  # fmt: skip
_OPTIONS = ("--no-index", "--pre", "--prefer-binary")
# Whoever has hashes in the file has them checked.
_IMPLIED = ("--require-hashes",)
_INCLUDES = {"-r": "requirement", "--requirement": "requirement", "-c": "constraint", "--constraint": "constraint"}
_EDITABLE = ("-e", "--editable")
# What conda.yaml always has, and what every environment brings.
_OF_CONDA = {"python", "pip", "setuptools", "wheel"}
_BUILD = re.compile(r"(pip|setuptools|wheel)\s*(?:(<=|>=|==|!=|=|<|>)\s*([\w.]+))?")


@dataclass(frozen=True, slots=True)
class ModelRequirements:
    """What a model's own files ask for.

    :param python: its Python, such as ``3.11.7``; None if they do not tell
    :param lines: packages as pip takes them, in canonical form
    :param constraints: the same, for packages that only others ask for
    :param digests: of the files among the packages
    :param options: such as ``--extra-index-url ...``, for all packages
    :param build: what is installed before: pip, setuptools and wheel, as the model had them
    """

    python: str | None
    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    build: tuple[str, ...] = ()

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
    """Read the requirements of a downloaded model, as mlflow does for a virtual environment; None if it names none.

    Raises: ModelContentError if an environment cannot be built from them: packages from conda, files that are missing.

    :param folder: holds ``MLmodel``
    :param label: how messages name the model
    """
    conda_file, python_file = _env_files(folder, label)
    conda, python_env = _yaml(conda_file, label), _yaml(python_file, label)
    others = [item for item in _list(conda, "dependencies") if isinstance(item, str)]
    if only_conda := [item for item in others if _conda_name(item) not in _OF_CONDA]:
        raise ModelContentError(
            f"{label} asks for packages from conda ({', '.join(only_conda)}), which uv and pip do not install. Log it "
            "with pip_requirements instead of conda_env, or set env_manager='local' to try this worker's packages."
        )
    text = _dependencies(folder, conda, python_env)
    if not text.strip():
        return None
    reader = RequirementsReader(folder, label)
    reader.read(text, "requirement")
    if not reader.sorted("requirement"):
        return None
    build = _list(python_env, "build_dependencies") if python_env else _build_of_conda(others)
    reader.read("\n".join(map(str, build)), "build")
    python = python_env.get("python") or next(filter(None, map(_python_of_conda, others)), None)
    return ModelRequirements(
        "3.10" if python == 3.1 else str(python) if python else None,  # YAML reads it as a number
        reader.sorted("requirement"),
        reader.sorted("constraint"),
        tuple(reader.digests),
        tuple(reader.options),
        reader.sorted("build"),
    )


def _env_files(folder: Path, label: str) -> tuple[Path, Path]:
    """Return conda.yaml and python_env.yaml, which MLmodel may call otherwise."""
    flavors = _yaml(folder / "MLmodel", label).get("flavors")
    pyfunc = flavors.get("python_function") if isinstance(flavors, dict) else None
    env = pyfunc.get("env") if isinstance(pyfunc, dict) else None
    names = env if isinstance(env, dict) else {"conda": env}  # before mlflow 2 there was one
    conda, python_env = names.get("conda") or "conda.yaml", names.get("virtualenv") or "python_env.yaml"
    return folder / str(conda), folder / str(python_env)


def _dependencies(folder: Path, conda: Mapping[str, Any], python_env: Mapping[str, Any]) -> str:
    """Return the lines of requirements: those of python_env.yaml, or of requirements.txt, or of conda.yaml."""
    if lines := _list(python_env, "dependencies"):
        return "\n".join(map(str, lines))
    if (folder / "requirements.txt").is_file():
        return "-r requirements.txt"
    of_pip = [item for item in _list(conda, "dependencies") if isinstance(item, Mapping)]
    return "\n".join(str(line) for item in of_pip for line in item.get("pip") or ())


def _build_of_conda(items: list[str]) -> list[str]:
    found = [match for item in items if (match := _BUILD.fullmatch(item.strip()))]
    return [f"{m[1]}{'==' if m[2] == '=' else m[2] or ''}{m[3] or ''}" for m in found]


def _python_of_conda(item: str) -> str | None:
    """Return the Python that an entry of conda.yaml asks for; None if it is another one, or this worker's does."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    found = re.fullmatch(r"(?:[\w./-]+::)?python(?![\w-])\s*(.*)", item.strip())
    if not found:
        return None
    if exact := re.match(r"={1,2}\s*(\d+(?:\.\d+)*)", found[1]):
        return exact[1]
    try:
        fits = SpecifierSet(found[1]).contains(sys.version.split()[0])
    except InvalidSpecifier:
        return None
    least = re.search(r">=\s*(\d+(?:\.\d+)*)", found[1])
    return None if fits or not least else least[1]


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    return found if isinstance(found, list) else []


def minor(version: str) -> str:
    """``3.11`` for 3.11.7."""
    return ".".join(version.split(".")[:2])


def name_of(line: str) -> str | None:
    """Return the canonical name of the package on a line; None if it is a file or an address."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        return str(canonicalize_name(Requirement(without_hashes(line)).name))
    except InvalidRequirement:
        return None


def hide_passwords(text: str) -> str:
    """Return text without the user and password of addresses in it."""
    return re.sub(r"(?<=://)[^/\s]+@", "***@", text)


def without_hashes(line: str) -> str:
    """Return a requirement without what its files must hash to."""
    return re.sub(r"\s+--hash[= ]\S+", "", line)


class RequirementsReader:
    """Reads requirements files as pip does: all that a model's own files can say."""

    def __init__(self, folder: Path, label: str) -> None:
        self.folder = folder.resolve()
        self.label = label
        self.digests: list[str] = []
        self.options: list[str] = []
        self._read: set[tuple[Path, str]] = set()
        self._lines: dict[str, set[str]] = {"requirement": set(), "constraint": set(), "build": set()}

    def sorted(self, kind: str) -> tuple[str, ...]:
        """Return what was read of a kind, in canonical form."""
        return tuple(sorted(self._lines[kind]))

    def read(self, text: str, kind: str, folder: Path | None = None) -> None:
        """Read the lines of a file.

        :param kind: ``requirement``, ``constraint`` or ``build``
        :param folder: where the file is, from which it names others; by default the model's
        """
        for line in _logical_lines(text):
            option, value = _option(line)
            if option in _INCLUDES:
                file = self._place(value, line, folder)
                if not file.is_file():
                    raise self._refusal(line, "is no file of the model")
                included = kind if _INCLUDES[option] == "requirement" else "constraint"
                if (file, included) not in self._read:  # files may name each other
                    self._read.add((file, included))
                    self.read(_text(file, self.label), included, file.parent)
            elif option in _EDITABLE:  # the folder is gone after the build
                self._lines[kind].add(self._requirement(value))
            elif option in _VALUE_OPTIONS:
                self._add_option(option, value, line)
            elif option in _OPTIONS:
                self._add_option(option, "", line)
            elif line.startswith("-") and option not in _IMPLIED:
                raise self._refusal(line, "is an option that a model cannot have")
            elif option not in _IMPLIED:
                self._lines[kind].add(self._requirement(line))

    def _add_option(self, option: str, value: str, line: str) -> None:
        if option in ("-f", "--find-links") and "://" not in value:
            value = str(self._place(value, line))
        text = f"{option} {value}".strip()
        log.info("%s has its packages installed with %s", self.label, hide_passwords(text))
        if text not in self.options:
            self.options.append(text)

    def _requirement(self, line: str) -> str:
        from packaging.requirements import InvalidRequirement, Requirement

        plain = without_hashes(line)
        hashes = "".join(f" --hash={found}" for found in sorted(re.findall(r"\s--hash[= ](\S+)", line)))
        if " --" in plain:
            raise self._refusal(line, "has an option that a model cannot have")
        if re.match(r"(git|hg|svn|bzr)\+\w+://|https?://", plain):
            return plain + hashes
        path = re.fullmatch(r"([^\s@;\[\]]+)(\[[\w.,\s-]*\])?", plain)
        if path and (_is_path(path[1]) or self._is_project(path[1])):
            return f"{self._digested(path[1], line)}{path[2] or ''}{hashes}"
        try:
            parsed = Requirement(plain)
        except InvalidRequirement as error:
            raise self._refusal(line, "is no requirement that pip would take") from error
        parsed.name = name_of(plain) or parsed.name
        if parsed.url and ("://" not in parsed.url or parsed.url.startswith("file:")):
            parsed.url = self._digested(parsed.url.removeprefix("file://").removeprefix("file:"), line).as_uri()
        return f"{parsed}{hashes}"

    def _is_project(self, name: str) -> bool:
        return any((self.folder / name / file).is_file() for file in ("pyproject.toml", "setup.py"))

    def _digested(self, name: str, line: str) -> Path:
        """Return a package among the model's files, of which the environment is another if it changes."""
        name = name.removeprefix("file://").removeprefix("file:")
        place = self._place(name, line)
        if place.is_dir() and not self._is_project(name):
            raise self._refusal(line, "is no file of the model")
        files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.relative_to(place)}\0".encode() + file.read_bytes())
        self.digests.append(f"{place.name} {digest.hexdigest()}")
        return place

    def _place(self, name: str, line: str, folder: Path | None = None) -> Path:
        place = ((folder or self.folder) / name).resolve()
        if "://" in name or not place.is_relative_to(self.folder) or not place.exists():
            raise self._refusal(line, "is no file of the model")
        return place

    def _refusal(self, line: str, what: str) -> ModelContentError:
        return ModelContentError(
            f"No environment can be built for {self.label}: {hide_passwords(line)!r} in its requirements {what}. Log "
            "the model with other pip_requirements, or set env_manager='local' to try this worker's packages."
        )


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "file:")) or ("://" not in name and name.endswith((".whl", ".tar.gz", ".zip")))


def _option(line: str) -> tuple[str, str]:
    """Return the option that a line begins with, and its value: ``-r file``, ``--requirement=file``, ``-rfile``."""
    found = re.match(r"(--[\w-]+|-\w)\s*[= ]?\s*(.*)", line)
    return (found[1], found[2].strip()) if found else ("", "")


def _logical_lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if wanted := re.sub(r"(^|\s)#.*", "", line).strip():
            yield wanted


def _difference(line: str) -> str | None:
    """Return what is wrong with this worker's packages for one requirement."""
    from packaging.requirements import InvalidRequirement, Requirement

    line = without_hashes(line)
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
        content = yaml.safe_load(_text(file, label))
    except yaml.YAMLError as error:
        raise ModelContentError(f"{file.name} of {label} is not readable YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def _text(file: Path, label: str) -> str:
    """Return a file's text; it is UTF-8, or what the mark at its begin says, as pip takes it."""
    content = file.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelContentError(f"{file.name} of {label} is not readable: it is not UTF-8.") from error
