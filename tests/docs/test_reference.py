"""The generators of the reference pages."""

import re
from pathlib import Path

import pytest
from tools.docs.cli_page import cli_page
from tools.docs.hooks import LINK, decisions, python_navigation
from tools.docs.http_api_page import http_api_page
from tools.docs.markdown import table
from tools.docs.python_pages import python_pages
from tools.docs.settings_page import settings_page

from loramux_server.settings import Settings
from tests.conftest import REPOSITORY


def rows(page: str) -> list[list[str]]:
    """Return the cells of every line of a page's tables."""
    return [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]


def test_a_table_keeps_its_columns_whatever_its_cells_contain() -> None:
    assert table(["a", "b"], [["x | y", "two\nlines"], ["`x|y` z|", "a ` b|c"]]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x \\| y | two lines |",
        "| `x|y` z\\| | a ` b\\|c |",
    ]


def test_every_setting_is_listed_with_its_variable_default_and_a_description() -> None:
    listed = {row[0].split("`")[1]: row for row in rows(settings_page().partition("## Deprecated")[0])}
    assert {name.partition(".")[0] for name in listed} == set(Settings.model_fields)
    assert listed["training.queue"][:3] == ["`training.queue`<br>`LORAMUX_TRAINING__QUEUE`", "integer", "`100`"]
    assert listed["base_mismatch"][1] == "`warn` or `refuse`"
    assert [name for name, row in listed.items() if not row[-1].strip()] == []


def test_deprecated_settings_are_listed_with_the_names_to_use() -> None:
    assert ["`usage_sum_days`", "`usage_rollup_days`"] in rows(settings_page().partition("## Deprecated")[2])


def test_every_command_is_listed_with_its_options_and_their_defaults() -> None:
    page = cli_page()
    for command in ("serve", "adapter add", "finetune create", "loadtest run", "compare"):
        assert re.search(rf"^##+ loramux {command}$", page, re.MULTILINE), command
    [url] = {line for line in page.splitlines() if line.startswith("| `--url <str>`") and "LORAMUX_CLI_URL" in line}
    assert "http://127.0.0.1:8000" in url


def test_every_option_says_what_it_does() -> None:
    assert [row[0] for row in rows(cli_page()) if row[0].startswith("`--") and not row[1].strip()] == []


@pytest.mark.slow
async def test_every_endpoint_is_listed_and_ours_with_the_fields_of_their_schemas() -> None:
    page = await http_api_page()
    for endpoint in ("POST /v1/chat/completions", "GET /admin/usage", "POST /v1/fine_tuning/jobs", "GET /health"):
        assert f"### {endpoint}\n" in page
    assert "### UsageReport\n" in page
    assert "### ChatCompletionRequest\n" not in page  # OpenAI's documentation has it


def test_every_module_of_the_packages_has_a_place_in_the_python_reference() -> None:
    documented = set(re.findall(r"^::: ([\w.]+)$", "\n".join(python_pages().values()), re.MULTILINE))
    for name in (
        "loramux_adapters.residency.pool",
        "loramux_server.engine.worker.cpu_lora",
        "loramux_loadtests.client",
    ):
        assert name in documented
    assert not [name for name in documented if "migrations" in name or name.endswith("__")]


def test_the_navigation_has_every_page_of_the_python_reference_and_every_decision() -> None:
    listed = re.findall(r"reference/python/([\w/]+\.md)", str(python_navigation()))
    assert sorted(listed) == sorted(python_pages())
    assert len(decisions()) == len(list((REPOSITORY / "docs" / "decisions").glob("*.md")))


PAGES = [
    *REPOSITORY.glob("*.md"),
    *(path for folder in ("adapters", "deploy", "loadtests") for path in (REPOSITORY / folder).rglob("*.md")),
]
"""The pages outside the site, whose links MkDocs does not check."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_of_pages_outside_the_site_point_at_files_that_exist(path: Path) -> None:
    targets = [link["target"] for link in LINK.finditer(path.read_text(encoding="utf-8"))]
    assert [target for target in targets if not (path.parent / target).exists()] == []
