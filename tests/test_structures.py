"""docs/structures.md: every module has a line, and every module that it mentions exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "structures.md").read_text(encoding="utf-8")
LISTED = ("server/loramux_server", "adapters/loramux_adapters", "loadtests/loramux_loadtests", "loadtests/benchmarks")
SCRIPTS = ("tools", "deploy")
PROCESSES = {"api", "scheduler", "worker", "trainer", "sandbox", "command", "standalone"}
ENDPOINTS = {"admin/adapters", "v1/files", "v1/fine_tuning/jobs"}
NO_LINE = {"__init__", "__main__"}


def modules(folder: str) -> set[str]:
    """Return the modules of a folder, by their paths in it; migrations have no lines of their own."""
    found = (path.relative_to(ROOT / folder).with_suffix("") for path in (ROOT / folder).rglob("*.py"))
    return {path.as_posix() for path in found if path.name not in NO_LINE and "versions" not in path.parts}


def table(folder: str) -> dict[str, tuple[str, str]]:
    """Return the process and the purpose of each module that a folder's table lists."""
    section = TEXT.partition(f"### {folder}: ")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| ([\w/]+) \| ([\w, ]+) \| (.+) \|$", section, re.MULTILINE)
    return {name: (process, purpose) for name, process, purpose in rows if name != "module"}


@pytest.mark.parametrize("folder", [*LISTED, *SCRIPTS])
def test_the_table_of_a_folder_has_one_line_for_each_of_its_modules(folder: str) -> None:
    assert sorted(table(folder)) == sorted(modules(folder))


@pytest.mark.parametrize("folder", [*LISTED, *SCRIPTS])
def test_every_module_has_a_process_that_the_page_describes_and_a_purpose(folder: str) -> None:
    assert all(re.search(rf"^\| {process} \|", TEXT, re.MULTILINE) for process in PROCESSES)
    for name, (process, purpose) in table(folder).items():
        assert set(process.split(", ")) <= PROCESSES, name
        assert len(purpose) > 10, name


def lives() -> list[str]:
    """Return the lines of the lives of a request, an adapter and a job."""
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def known_names() -> set[str]:
    """Return the modules of all packages, and their folders."""
    known = {name for folder in LISTED for name in modules(folder)}
    return known | {parent for name in known for parent in map(str, Path(name).parents)}


def test_every_module_that_the_lives_mention_exists() -> None:
    known = known_names()
    subjects = {line.split()[1] for line in lives()} - {"HTTP", "vLLM", "vLLM's"}
    mentioned = set(re.findall(r"(?<![\w/])[a-z]\w*(?:/\w+)+", "\n".join(lives()))) - ENDPOINTS
    assert len(mentioned) > 30
    assert (subjects | mentioned) - known == set()


def test_every_line_of_the_lives_says_in_which_process_it_runs() -> None:
    assert {line.split()[0] for line in lives()} <= PROCESSES


def exists(path: str) -> bool:
    """Whether a path is a file or a folder of the repository, or of the server's package."""
    return any((folder / path).exists() for folder in (ROOT, ROOT / "server" / "loramux_server"))


def test_every_module_and_file_that_the_page_mentions_before_the_lives_exists() -> None:
    opening = TEXT.partition("\n## The life of a request\n")[0]
    mentioned = set(re.findall(r"`([a-z]\w*(?:/\w+)+(?:\.\w+)?)`", opening)) - {"cli/NAME"}
    assert len(mentioned) > 20
    assert {path for path in mentioned - known_names() if not exists(path)} == set()
