import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from loramux_adapters.errors import InvalidAdapter, SourceUnavailable
from loramux_adapters.intake.content import ADAPTER_FILES, CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE
from loramux_adapters.intake.sources.hub import HubSnapshot, HubSource, download
from loramux_adapters.intake.sources.progress import progress_bar_class, size_check
from tests.helpers.hub_server import COMMIT, HubServer, run_hub_server

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 300_000, "pytorch_model.bin": b"pickle", "README.md": b"#"}
PATTERNS = ("*.json", "*.safetensors")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with run_hub_server() as server:
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
) -> HubSnapshot:
    return download(repository, PATTERNS, progress=progress, **options)


def test_only_the_requested_files_are_downloaded(server: HubServer) -> None:
    snapshot = _download()
    assert {path.name: path.read_bytes() for path in snapshot.path.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    assert not [request for request in server.requests if "pytorch_model" in request]


def test_a_branch_resolves_to_a_commit(server: HubServer) -> None:
    assert _download(revision="main").commit == COMMIT


def test_a_second_download_requests_no_file(server: HubServer) -> None:
    _download()
    server.requests.clear()
    _download()
    assert not [request for request in server.requests if "/resolve/" in request]


def test_progress_is_reported_in_bytes_of_the_total(server: HubServer) -> None:
    lines: list[str] = []
    _download(progress=lines.append)
    assert lines[-1] == "downloading org/name: 300kB of 300kB"


def test_an_earlier_snapshot_is_used_without_a_network(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _download()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert _download() == before


def test_an_unreachable_hub_is_named_as_the_reason(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable, match="the Hub can't be reached: check the network or HF_ENDPOINT"):
        _download()


def test_a_repository_that_does_not_exist_is_refused(server: HubServer) -> None:
    with pytest.raises(SourceUnavailable, match="the Hub has no repository org/other"):
        _download("org/other")


def test_a_revision_that_does_not_exist_is_refused(server: HubServer) -> None:
    with pytest.raises(SourceUnavailable, match="org/name has no revision 'v9'"):
        _download(revision="v9")


def test_a_gated_repository_says_how_to_get_access(server: HubServer) -> None:
    server.gated = True
    with pytest.raises(SourceUnavailable, match="is gated: accept its terms on the Hub, then set HF_TOKEN"):
        _download()


def test_a_failing_hub_is_reported_as_unreachable(server: HubServer) -> None:
    server.status = 500
    with pytest.raises(SourceUnavailable, match="can't be reached"):
        _download()


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b/c", "org/na--me", "org/name\n"])
def test_an_invalid_repository_is_refused_without_a_request(server: HubServer, name: str) -> None:
    with pytest.raises(SourceUnavailable, match=r"the repository's name .* is invalid"):
        _download(name)
    assert server.requests == []


@pytest.mark.slow
def test_the_environment_sets_the_hub_the_token_and_the_cache(server: HubServer, tmp_path: Path) -> None:
    server.token = "hf_secret"
    program = (
        "from loramux_adapters.intake.sources.hub import download\n"
        "print(download('org/name', ['*.json'], progress=lambda _: None).path)"
    )
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "HF_HOME": str(tmp_path / "home")}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(printed.stdout.strip()).is_relative_to(tmp_path / "home")


ADAPTER = {CONFIG_FILE: b"{}", WEIGHTS_FILE: bytes(range(256)) * 1000, "README.md": b"#", "optimizer.pt": b"pickle"}
MAX_BYTES = {CONFIG_FILE: 1000, WEIGHTS_FILE: 300_000}


@pytest.fixture
def hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The server with an adapter in its repository, and a client that retries without waiting."""
    server.files = dict(ADAPTER)
    no_sleep = SimpleNamespace(sleep=lambda _: None, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(file_download, "time", no_sleep)
    monkeypatch.setattr(_http, "time", no_sleep)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
    return server


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def _fetch(
    into: Path, source: HubSource | None = None, report: Callable[[str], None] = lambda _: None
) -> dict[str, str]:
    source = source or HubSource("org/name")
    source.fetch(into, MAX_BYTES, report)
    return source.origin


def _fetched(into: Path) -> dict[str, bytes]:
    return {str(path.relative_to(into)): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def test_an_adapters_two_files_are_fetched_and_nothing_else(hub: HubServer, into: Path) -> None:
    _fetch(into)
    assert _fetched(into) == {name: ADAPTER[name] for name in ADAPTER_FILES}
    assert not [request for request in hub.requests if "README" in request or "optimizer" in request]


def test_nothing_of_an_adapter_stays_in_the_librarys_cache(hub: HubServer, into: Path, tmp_path: Path) -> None:
    _fetch(into)
    assert not list((tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize(("revision", "remembered"), [(None, "main"), ("v1.0", "v1.0"), ("feature/x", "feature/x")])
def test_the_commit_that_a_revision_resolves_to_is_recorded(
    hub: HubServer, into: Path, revision: str | None, remembered: str
) -> None:
    hub.revisions |= {"v1.0": COMMIT, "feature%2Fx": COMMIT}
    origin = _fetch(into, HubSource("org/name", revision))
    assert origin == {"type": "hub", "repo": "org/name", "revision": remembered, "commit": COMMIT}


def test_files_are_requested_at_the_commit_so_that_a_push_has_no_effect(hub: HubServer, into: Path) -> None:
    _fetch(into)
    assert {request.split()[1] for request in hub.requests if "/resolve/" in request} == {
        f"/org/name/resolve/{COMMIT}/{name}" for name in ADAPTER_FILES
    }


def test_an_adapters_progress_is_reported_in_bytes_of_the_total(hub: HubServer, into: Path) -> None:
    lines: list[str] = []
    _fetch(into, report=lines.append)
    assert lines[-1] == "downloading org/name: 256kB of 256kB"


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_an_announced_size_above_the_limit_is_refused_without_a_download(hub: HubServer, into: Path, name: str) -> None:
    hub.announced_sizes[name] = MAX_BYTES[name] + 1
    with pytest.raises(InvalidAdapter, match=f"{name}: the file is too large"):
        _fetch(into)
    assert not [request for request in hub.requests if f"/resolve/{COMMIT}/{name}" in request]
    assert name not in _fetched(into)


def test_a_file_that_is_longer_than_announced_ends_at_the_size_limit(hub: HubServer, into: Path) -> None:
    hub.files[WEIGHTS_FILE] = bytes(10 << 20)
    hub.announced_sizes[WEIGHTS_FILE] = 100
    with pytest.raises(InvalidAdapter, match="the file is too large"):
        _fetch(into)
    assert set(_fetched(into)) == {CONFIG_FILE}


def test_an_endless_file_ends_at_the_size_limit(hub: HubServer, into: Path) -> None:
    hub.endless = True
    with pytest.raises(InvalidAdapter, match="too large"):
        _fetch(into)
    assert _fetched(into) == {}


def test_the_size_limit_holds_if_the_library_reports_no_progress(
    hub: HubServer, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transfer(_url: str, file: BinaryIO, **_: object) -> None:
        file.write(bytes(MAX_BYTES[WEIGHTS_FILE] + 1))

    monkeypatch.setattr(file_download, "http_get", transfer)
    with pytest.raises(InvalidAdapter, match="too large"):
        _fetch(into)
    assert _fetched(into) == {}


def test_with_xet_storage_the_files_bytes_are_counted_and_not_the_transferred_ones() -> None:
    lines: list[str] = []
    bar = progress_bar_class("downloading", lines.append, size_check(WEIGHTS_FILE, 1000))
    with XetDownloadProgressReporter(reconstruction_desc="", log_level=0, total=1000, tqdm_class=bar) as reporter:
        reporter.update_progress(_xet_report(written=900, transferred=5000))
        reporter.update_progress(_xet_report(written=1000, transferred=9000))
        with pytest.raises(InvalidAdapter, match="too large"):
            reporter.update_progress(_xet_report(written=1001, transferred=9000))
    assert lines[-1] == "downloading: 1.00kB of 1.00kB"


def _xet_report(written: int, transferred: int) -> SimpleNamespace:
    return SimpleNamespace(
        total_bytes=1000,
        total_bytes_completed=written,
        total_bytes_completion_rate=1.0,
        total_transfer_bytes_completed=transferred,
        total_transfer_bytes_completion_rate=1.0,
    )


def test_a_file_that_is_shorter_or_longer_than_announced_is_refused(hub: HubServer, into: Path) -> None:
    for announced in (10, 270_000):
        hub.announced_sizes[WEIGHTS_FILE] = announced
        with pytest.raises(SourceUnavailable, match="downloading org/name failed"):
            _fetch(into)
        assert WEIGHTS_FILE not in _fetched(into)


def test_an_interrupted_transfer_is_resumed(hub: HubServer, into: Path) -> None:
    hub.cuts = [1000, 100_000, 0, 0, 50_000]
    _fetch(into)
    assert _fetched(into)[WEIGHTS_FILE] == ADAPTER[WEIGHTS_FILE]
    ranges = [request.split()[2] for request in hub.requests if "bytes=" in request and WEIGHTS_FILE in request]
    # The client keeps whole chunks of 16 KiB.
    assert ranges == ["bytes=98304-", "bytes=98304-", "bytes=98304-", "bytes=147456-"]


def test_a_connection_that_breaks_each_time_is_given_up(hub: HubServer, into: Path) -> None:
    hub.cuts = [0] * 100
    with pytest.raises(SourceUnavailable, match="the connection to the Hub failed for org/name"):
        _fetch(into)
    assert _fetched(into) == {}


def test_a_hub_that_does_not_respond_is_given_up(hub: HubServer, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.silent = True
    with pytest.raises(SourceUnavailable, match="the Hub did not respond in time"):
        _fetch(into)


def test_a_repository_with_pickles_only_is_refused_by_their_name(hub: HubServer, into: Path) -> None:
    hub.files["adapter_model.bin"] = hub.files.pop(WEIGHTS_FILE)
    with pytest.raises(InvalidAdapter, match=r"adapter_model\.bin: can run code"):
        _fetch(into)
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_a_repository_with_adapters_in_folders_only_is_refused_by_their_names(hub: HubServer, into: Path) -> None:
    """A12: `checkpoint-500/` below the folder that was given."""
    for folder in ("checkpoint-10", "checkpoint-9", "a/b"):
        hub.files |= {f"{folder}/{name}": content for name, content in ADAPTER.items()}
    for name in ADAPTER_FILES:
        del hub.files[name]
    with pytest.raises(InvalidAdapter, match=r"the file is missing.* inside: a/b, checkpoint-9, checkpoint-10$"):
        _fetch(into)


def test_an_adapter_in_a_folder_of_a_repository_is_fetched(hub: HubServer, into: Path) -> None:
    """A12: `hf:org/repo/sub`."""
    hub.files = {f"runs/v1.5/{name}": content for name, content in ADAPTER.items()}
    origin = _fetch(into, HubSource("org/name/runs/v1.5"))
    assert _fetched(into) == {name: ADAPTER[name] for name in ADAPTER_FILES}
    assert origin == {"type": "hub", "repo": "org/name", "folder": "runs/v1.5", "revision": "main", "commit": COMMIT}


def test_a_folder_that_the_repository_does_not_have_is_refused(hub: HubServer, into: Path) -> None:
    with pytest.raises(InvalidAdapter, match=r"adapter_config\.json: the file is missing"):
        _fetch(into, HubSource("org/name/runs"))


def test_weights_in_several_files_are_fetched_as_their_index_says(hub: HubServer, into: Path) -> None:
    """A12: sharded weights."""
    index = json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}).encode()
    hub.files |= {INDEX_FILE: index, "a.safetensors": b"a", "b.safetensors": b"b", "c.safetensors": b"c"}
    del hub.files[WEIGHTS_FILE]
    _fetch(into)
    assert _fetched(into).keys() == {CONFIG_FILE, INDEX_FILE, "a.safetensors", "b.safetensors"}


@pytest.mark.parametrize(
    ("status", "message"),
    [(429, "answered 429"), (500, "answered 500"), (503, "answered 503"), (418, "answered 418")],
)
def test_a_hub_that_answers_with_an_error_is_quoted_by_its_status(
    hub: HubServer, into: Path, status: int, message: str
) -> None:
    hub.status = status
    with pytest.raises(SourceUnavailable, match=message):
        _fetch(into)


def test_gated_private_and_missing_repositories_say_what_to_do(hub: HubServer, into: Path) -> None:
    with pytest.raises(SourceUnavailable, match="the Hub has no repository org/other"):
        _fetch(into, HubSource("org/other"))
    with pytest.raises(SourceUnavailable, match="org/name has no revision 'v9'"):
        _fetch(into, HubSource("org/name", "v9"))
    hub.gated = True
    with pytest.raises(SourceUnavailable, match="is gated: accept its terms"):
        _fetch(into)
    hub.token = "hf_other"
    with pytest.raises(SourceUnavailable, match="private and HF_TOKEN may not read it"):
        _fetch(into)


def test_offline_is_named_as_the_reason(hub: HubServer, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _http.close_session()
    try:
        with pytest.raises(SourceUnavailable, match="HF_HUB_OFFLINE is set"):
            _fetch(into)
    finally:
        _http.close_session()


@pytest.mark.parametrize(
    "repo",
    [
        "",
        "name",
        "../x",
        "a/b/",
        "a/b//c",
        "a/b/../c",
        "a/b/.git",
        "a/b/c d",
        "a/b/c%2Fd",
        "org/..",
        "org/name?x",
        "org/na\nme",
        "ö/x",
        "a/" * 999,
    ],
)
def test_an_adapter_s_invalid_repository_is_refused_without_a_request(hub: HubServer, into: Path, repo: str) -> None:
    with pytest.raises(SourceUnavailable, match="expected org/name"):
        _fetch(into, HubSource(repo))
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["", "../../other/name", "a b", "v1\n", "v\0", "x" * 251, "ü", "a%2Fb"])
def test_an_invalid_revision_is_refused_without_a_request(hub: HubServer, into: Path, revision: str) -> None:
    with pytest.raises(SourceUnavailable, match="a branch, a tag or a commit"):
        _fetch(into, HubSource("org/name", revision))
    assert hub.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>log in to the hotel's network</html>",
        b"[]",
        b"null",
        b"{}",
        json.dumps({"id": "org/name", "sha": "../../etc", "siblings": []}).encode(),
        json.dumps({"id": "org/name", "sha": None, "siblings": []}).encode(),
        json.dumps({"id": "org/name", "sha": 5, "siblings": []}).encode(),
        json.dumps({"id": "org/name", "sha": COMMIT, "siblings": [{"name": "x"}]}).encode(),
        json.dumps({"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": "x", "size": "many"}]}).encode(),
        json.dumps({"id": "org/name", "sha": COMMIT, "siblings": 7}).encode(),
    ],
)
def test_a_malformed_response_is_refused_with_a_message(hub: HubServer, into: Path, answer: bytes) -> None:
    hub.answer = answer
    with pytest.raises(SourceUnavailable):
        _fetch(into)
    assert _fetched(into) == {}


def test_a_full_disk_is_not_the_hubs_fault(hub: HubServer, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(OSError, match="No space left"):
        _fetch(into)


def test_refusals_name_no_path_and_no_token(hub: HubServer, into: Path, tmp_path: Path) -> None:
    hub.cuts = [0] * 100
    with pytest.raises(SourceUnavailable) as caught:
        _fetch(into)
    assert str(tmp_path) not in caught.value.message
    assert hub.url not in caught.value.message
