import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loramux_adapters.errors import SourceUnavailable
from loramux_adapters.intake.sources import hub
from loramux_server import base_model as base
from loramux_server.base_model import BaseError, ResolvedBase, resolve_base

CONTENT = b"GGUF weights"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all files of a base."""
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A substitute for Python with torch: copies the weights, and logs its runs next to itself."""
    package = tmp_path / "site" / base.DEMO_PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('never imported')")
    (package / base.DEMO_FILE).write_bytes(CONTENT)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(base, "DEMO_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return _program(tmp_path / "python", 'mkdir "$4" && cp "$3" "$4/model.safetensors"', monkeypatch)


def _program(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.write_text(f'#!/bin/sh\necho run >> "$0.runs"\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def _runs(program: Path) -> int:
    return len(program.with_name(program.name + ".runs").read_text().splitlines())


def _resolve(name: str | Path, data_dir: Path) -> ResolvedBase:
    return resolve_base(str(name), data_dir, progress=lambda _: None)


def test_a_folder_is_served_under_its_name(folder: Path, tmp_path: Path) -> None:
    assert _resolve(folder, tmp_path) == ResolvedBase(path=folder, name="my-model")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "missing config.json with `architectures`"),
        ("model.safetensors", r"missing weights as \*\.safetensors"),
        ("tokenizer.json", "missing a tokenizer"),
    ],
)
def test_a_folder_without_a_model_is_refused_with_the_missing_files(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(BaseError, match=message):
        _resolve(folder, folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"architectures": []}'])
def test_a_config_without_architectures_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(BaseError, match="architectures"):
        _resolve(folder, folder)


def test_a_folder_with_a_missing_shard_is_refused_with_the_shards_name(folder: Path) -> None:
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-1.safetensors").write_bytes(b"weights")
    with pytest.raises(BaseError, match=r"missing model-2\.safetensors \(named in the index\)$"):
        _resolve(folder, folder)


@pytest.mark.parametrize("name", ["nowhere", "/nowhere/at/all", "a/b/c", "../x", "a b/c", "-/\n", "\0"])
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="expected `demo`, an existing folder, or a Hub id"):
        _resolve(name, tmp_path)


def test_a_hub_id_is_downloaded_at_its_revision_and_pinned_to_the_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def download(
        repository: str, patterns: tuple[str, ...], *, revision: str | None, progress: object
    ) -> hub.HubSnapshot:
        asked.extend([repository, patterns, revision])
        return hub.HubSnapshot(folder, "0123abcd")

    monkeypatch.setattr(hub, "download", download)
    resolved = resolve_base("org/name", tmp_path, revision="v1", progress=lambda _: None)
    assert resolved == ResolvedBase(path=folder, name="org/name", revision="0123abcd")
    assert asked == ["org/name", base.HUB_FILES, "v1"]


def test_a_base_that_is_only_described_needs_no_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan for a GPU must not download gigabytes."""
    (folder / "model.safetensors").unlink()
    asked: list[str] = []

    def download(_: str, patterns: tuple[str, ...], **__: object) -> hub.HubSnapshot:
        asked.extend(patterns)
        return hub.HubSnapshot(folder, "0123abcd")

    monkeypatch.setattr(hub, "download", download)
    for name in ("org/name", str(folder)):
        assert resolve_base(name, tmp_path, progress=lambda _: None, with_weights=False).path == folder
        with pytest.raises(BaseError, match="missing weights"):
            _resolve(name, tmp_path)
    described, loaded = asked[: len(base.CONFIG_FILES)], asked[len(base.CONFIG_FILES) :]
    assert "*.safetensors" in loaded
    assert not any("safetensors" in pattern for pattern in described)
    assert {"*.json", "tokenizer.model"} <= set(described)


def test_a_hub_error_is_reported_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> hub.HubSnapshot:
        raise SourceUnavailable("org/name is gated")

    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(BaseError, match="org/name is gated"):
        _resolve("org/name", tmp_path)


def test_the_demo_is_converted_once_and_then_reused(converter: Path, tmp_path: Path) -> None:
    first, again = _resolve("demo", tmp_path), _resolve("demo", tmp_path)
    assert first == again
    assert first.name == "SmolLM2-135M-Instruct"
    assert (first.path / "model.safetensors").read_bytes() == CONTENT
    assert _runs(converter) == 1


def test_servers_that_start_at_the_same_time_convert_the_demo_once(converter: Path, tmp_path: Path) -> None:
    threads = [threading.Thread(target=_resolve, args=("demo", tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _runs(converter) == 1


def test_corrupt_demo_weights_are_refused(converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "DEMO_SHA256", "0" * 64)
    with pytest.raises(BaseError, match="is corrupt"):
        _resolve("demo", tmp_path)


def test_a_missing_demo_package_is_reported_with_its_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DEMO_PACKAGE", "no_such_package")
    with pytest.raises(BaseError, match="run `make`"):
        _resolve("demo", tmp_path)


def test_a_failed_conversion_reports_its_reason_and_leaves_no_files(
    converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(converter, 'mkdir "$4"; echo "first" >&2; echo "no memory" >&2; exit 3', monkeypatch)
    with pytest.raises(BaseError, match="could not be converted: no memory"):
        _resolve("demo", tmp_path)
    assert [path.name for path in (tmp_path / "bases").iterdir()] == [".lock"]


def test_a_start_recovers_from_one_that_was_killed_during_a_conversion(
    converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(converter, 'mkdir "$4"; touch "$0.began"; sleep 0.5; touch "$0.ended"', monkeypatch)
    program = [sys.prefix + "/bin/python", "-m", "tests.helpers.processes.convert_demo"]
    arguments = [str(converter.parent / "site"), base.DEMO_SHA256, str(converter), str(tmp_path)]
    killed = subprocess.Popen([*program, *arguments], cwd=Path(__file__).parents[2])
    while not (began := converter.with_name("python.began")).exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    _program(converter, 'mkdir "$4" && cp "$3" "$4/model.safetensors"', monkeypatch)
    began.unlink()
    resolved = _resolve("demo", tmp_path)
    assert converter.with_name("python.ended").exists(), "the orphan was waited for"
    assert (resolved.path / "model.safetensors").read_bytes() == CONTENT
    assert sorted(path.name for path in resolved.path.parent.iterdir()) == [".lock", resolved.path.name]


@pytest.mark.engine
def test_the_real_demo_is_converted_to_a_valid_base(tmp_path: Path) -> None:
    made = _resolve("demo", tmp_path)
    assert _resolve(made.path, tmp_path).path == made.path
    config = json.loads((made.path / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["dtype"]) == (576, 30, "float32")
    assert "<|im_start|>" in (made.path / "chat_template.jinja").read_text()
