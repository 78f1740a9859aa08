"""The page and its files: no external resources, and headers that enforce it."""

import base64
import gzip
import hashlib
import re
from html.parser import HTMLParser
from importlib.metadata import distribution

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from loramux_server.dashboard import dashboard_router
from loramux_server.dashboard.files import CHARTS_SCRIPT, STATIC

OWN_FILES = sorted(path.name for path in STATIC.iterdir())


class Tags(HTMLParser):
    """All start tags of a page, and the text inside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.inside += data.strip()


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(dashboard_router())
    return TestClient(app)


def policy(client: TestClient, path: str = "/dashboard") -> dict[str, str]:
    header = client.get(path).headers["content-security-policy"]
    return dict(part.split(" ", 1) for part in header.split("; "))


def test_the_pages_policy_allows_only_this_server(client: TestClient) -> None:
    found = policy(client)
    assert found["default-src"] == found["base-uri"] == found["form-action"] == found["frame-ancestors"] == "'none'"
    assert found["script-src"] == found["connect-src"] == found["font-src"] == "'self'"
    assert "unsafe" not in " ".join(found.values())
    assert "//" not in " ".join(found.values())


def test_the_policy_allows_only_the_styles_of_the_charts_script(client: TestClient) -> None:
    script = client.get(f"/dashboard/{CHARTS_SCRIPT}").text
    [written] = re.findall(r"""createElement\("style"\);\w+\.id="\w+",\w+\.textContent='([^'\\]*)'""", script)
    hashes = [base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in ("", written)]
    assert re.findall(r"'sha256-(.+?)'", policy(client)["style-src"]) == hashes


def test_the_page_has_no_inline_script_or_style(client: TestClient) -> None:
    page = Tags(client.get("/dashboard").text)
    assert page.inside == ""
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert "style" not in attributes
    assert not [name for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("name", [name for name in OWN_FILES if name != "icon.svg"])
def test_no_file_names_another_host_or_renders_text_as_markup(client: TestClient, name: str) -> None:
    text = client.get(f"/dashboard/{name}").text
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"(?m)^\s*//.*$", "", text)) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", text) == []


@pytest.mark.parametrize("name", [*OWN_FILES, CHARTS_SCRIPT])
def test_each_file_has_its_type_and_the_same_policy(client: TestClient, name: str) -> None:
    answer = client.get(f"/dashboard/{name}")
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(types[name.rsplit(".", 1)[-1]])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert policy(client, f"/dashboard/{name}") == policy(client)


def test_every_file_of_the_page_exists(client: TestClient) -> None:
    tags = Tags(client.get("/dashboard").text).tags
    asked = [attrs.get("src") or attrs.get("href") or "" for tag, attrs in tags if tag in ("script", "link")]
    assert len(asked) > 5
    assert {client.get(f"/{path}").status_code for path in asked} == {200}


def test_the_charts_script_is_the_installed_packages(client: TestClient) -> None:
    script = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    assert client.get(f"/dashboard/{CHARTS_SCRIPT}").content == script.read_bytes()  # type: ignore[attr-defined]


def test_a_cached_file_is_not_sent_again(client: TestClient) -> None:
    first = client.get(f"/dashboard/{CHARTS_SCRIPT}")
    assert first.headers["content-encoding"] == "gzip"
    again = client.get(f"/dashboard/{CHARTS_SCRIPT}", headers={"if-none-match": f"W/{first.headers['etag']}"})
    assert (again.status_code, again.content) == (304, b"")


def test_a_client_without_gzip_gets_the_plain_file(client: TestClient) -> None:
    plain = client.get("/dashboard/dashboard.css", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gzip.compress(plain.content)
    assert plain.content == (STATIC / "dashboard.css").read_bytes()


@pytest.mark.parametrize("name", ["unknown.js", "..%2Fpage.py", "%2Fetc%2Fpasswd", "__init__.py"])
def test_no_other_file_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/dashboard/{name}").status_code == 404
