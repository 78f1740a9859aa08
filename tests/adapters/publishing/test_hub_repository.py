from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from loramux_adapters.errors import SourceUnavailable
from loramux_adapters.intake.content import ADAPTER_FILES
from loramux_adapters.publishing.hub_repository import CARD_FILE, parse_repository, push
from tests.helpers.adapter_files import write_adapter
from tests.helpers.hub_server import HubServer, run_hub_server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with run_hub_server() as server:
        server.exists, server.token = False, "hf_secret"
        # The client reads the environment once, when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_adapter(tmp_path / "adapter")
    (folder / CARD_FILE).write_text("# Card")
    (folder / "train.jsonl").write_text("the data")
    return folder


def test_a_new_repository_is_private_and_gets_the_adapter_and_its_card_only(hub: HubServer, folder: Path) -> None:
    commit = push(folder, "org/name", "Add tone@0123456789ab", public=False)
    assert commit.startswith(f"{hub.url}/org/name/commit/")
    assert hub.private
    assert hub.pushed == {name: (folder / name).read_bytes() for name in (*ADAPTER_FILES, CARD_FILE)}


def test_a_public_one_is_only_made_if_it_is_asked_for(hub: HubServer, folder: Path) -> None:
    push(folder, "org/name", "Add it", public=True)
    assert not hub.private


def test_nothing_is_sent_to_a_repository_that_is_public_already(hub: HubServer, folder: Path) -> None:
    hub.exists, hub.private = True, False
    with pytest.raises(SourceUnavailable, match="exists and is public: say --public"):
        push(folder, "org/name", "Add it", public=False)
    assert hub.pushed == {}
    push(folder, "org/name", "Add it", public=True)
    assert CARD_FILE in hub.pushed


def test_a_later_push_is_another_commit(hub: HubServer, folder: Path) -> None:
    push(folder, "org/name", "Add it", public=False)
    (folder / CARD_FILE).write_text("# Newer card")
    push(folder, "org/name", "Add it", public=False)
    assert hub.pushed[CARD_FILE] == b"# Newer card"


def test_a_token_that_may_not_write_and_a_hub_that_fails_are_named(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.may_write = False
    with pytest.raises(SourceUnavailable, match="set HF_TOKEN to one that may"):
        push(folder, "org/name", "Add it", public=False)
    hub.may_write, hub.status = True, 500
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(SourceUnavailable, match="set HF_TOKEN to one that may"):
        push(folder, "org/name", "Add it", public=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SourceUnavailable, match="can't be reached"):
        push(folder, "org/name", "Add it", public=False)


@pytest.mark.parametrize("text", ["", "hf:", "org/name", "hf:name", "hf:a/b/c", "hf:../x", "hf:a b/c", "hf:org/x\n"])
def test_a_target_that_is_no_repository_is_refused(text: str) -> None:
    with pytest.raises(SourceUnavailable, match="expected hf:ORG/NAME"):
        parse_repository(text)


def test_a_repository_is_named_as_in_add() -> None:
    assert parse_repository("hf:acme/tone-1.0_x") == "acme/tone-1.0_x"
