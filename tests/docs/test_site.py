"""The documentation site: it builds without warnings, and needs nothing from the network."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    run("tools.docs.generate")
    run("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder))
    return folder


def run(module: str, *arguments: str) -> None:
    """Run a module in the repository root; fail with all that it printed unless it succeeds."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


class Page(HTMLParser):
    """The links, anchors and loaded files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        address = found.get("src" if tag in ("script", "img") else "href")
        if address and tag == "a":
            self.links.append(address)
        elif address and found.get("rel") != "canonical":
            self.loaded.append(address)


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    """Yield each page of the site."""
    for path in sorted(site.rglob("*.html")):
        yield path, Page(path.read_text(encoding="utf-8"))


def test_every_link_within_the_site_points_at_a_page_and_an_anchor_that_exist(site: Path) -> None:
    found = dict(pages(site))
    broken = []
    for path, page in found.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in found[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    elsewhere = {link for _, page in pages(site) for link in page.loaded if urlsplit(link).netloc}
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert elsewhere == set()
    assert not [text for text in styles if re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", text)]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("index.html", "make serve"),
        ("guides/data/index.html", "Preparing data"),
        ("reference/settings/index.html", "LORAMUX_ALLOWED_ROOTS"),
        ("reference/command-line/index.html", "loramux adapter add"),
        ("reference/http-api/index.html", "/admin/adapters/{name}/alias"),
        ("reference/python/loramux_adapters/evaluation/index.html", "loramux_adapters.evaluation.statistics"),
        ("metrics/index.html", "loramux_requests_total"),
        ("structures/index.html", "request"),
        ("decisions/0005-never-reuse-lora-names-and-ids/index.html", "LoRARequest"),
    ],
)
def test_the_site_has_every_kind_of_page(site: Path, page: str, text: str) -> None:
    assert text in (site / page).read_text(encoding="utf-8")
