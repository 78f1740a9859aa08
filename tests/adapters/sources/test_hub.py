import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from loramux_adapters.sources.hub import HubError, Snapshot, download
from tests.adapters.sources.hub_server import COMMIT, Hub, hub_server

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 300_000, "pytorch_model.bin": b"pickle", "README.md": b"#"}
PATTERNS = ("*.json", "*.safetensors")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        server.files.update(FILES)
        # The client reads the environment once, when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def _download(
    repository: str = "org/name", progress: Callable[[str], None] = lambda _: None, **options: str
) -> Snapshot:
    return download(repository, PATTERNS, progress=progress, **options)


def test_only_the_files_that_were_asked_for_are_fetched(server: Hub) -> None:
    snapshot = _download()
    assert {path.name: path.read_bytes() for path in snapshot.path.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    assert not [request for request in server.requests if "pytorch_model" in request]


def test_a_branch_is_pinned_to_the_commit_that_it_means(server: Hub) -> None:
    assert _download(revision="main").commit == COMMIT


def test_a_second_download_asks_for_no_file_again(server: Hub) -> None:
    _download()
    server.requests.clear()
    _download()
    assert not [request for request in server.requests if "/resolve/" in request]


def test_progress_is_told_in_bytes_of_the_whole(server: Hub) -> None:
    lines: list[str] = []
    _download(progress=lines.append)
    assert lines[-1] == "downloading org/name: 300kB of 300kB"


def test_a_snapshot_from_before_serves_without_a_network(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _download()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert _download() == before


def test_a_hub_out_of_reach_is_named_as_the_reason(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="can't be reached: check the network or HF_ENDPOINT"):
        _download()


def test_a_repository_that_does_not_exist_is_refused(server: Hub) -> None:
    with pytest.raises(HubError, match="the Hub has no repository org/other"):
        _download("org/other")


def test_a_revision_that_does_not_exist_is_refused(server: Hub) -> None:
    with pytest.raises(HubError, match="org/name has no revision 'v9'"):
        _download(revision="v9")


def test_a_gated_repository_says_how_to_get_in(server: Hub) -> None:
    server.gated = True
    with pytest.raises(HubError, match="is gated: accept its terms on the Hub, then set HF_TOKEN"):
        _download()


def test_a_hub_that_fails_is_reported_as_out_of_reach(server: Hub) -> None:
    server.broken = True
    with pytest.raises(HubError, match="can't be reached"):
        _download()


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b/c", "org/na--me", "org/name\n"])
def test_what_can_be_no_repository_is_refused_before_the_hub_is_asked(server: Hub, name: str) -> None:
    with pytest.raises(HubError, match="not a repository's name"):
        _download(name)
    assert server.requests == []


def test_the_environment_names_the_hub_the_token_and_the_cache(server: Hub, tmp_path: Path) -> None:
    server.token = "hf_secret"
    program = (
        "from loramux_adapters.sources.hub import download\n"
        "print(download('org/name', ['*.json'], progress=lambda _: None).path)"
    )
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "HF_HOME": str(tmp_path / "home")}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(printed.stdout.strip()).is_relative_to(tmp_path / "home")
