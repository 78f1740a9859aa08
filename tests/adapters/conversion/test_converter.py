"""Pickled weights become safetensors in a process of their own, without anything that a pickle could do."""

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from loramux_adapters.conversion import converter
from loramux_adapters.conversion.converter import convert
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, TEMPLATE_FILE, WEIGHTS_FILE
from loramux_adapters.intake.normalization import normalize
from loramux_adapters.intake.validation import validate
from tests.helpers.adapter_files import BASE, lora_config, lora_tensors

BIN = "adapter_model.bin"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(lora_config()))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "target"


def save(path: Path, content: object, **options: Any) -> None:
    import torch  # slow tests only: it takes seconds

    torch.save(content, path, **options)


def torch_tensors() -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(tensor) for name, tensor in lora_tensors().items()}


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_an_adapter_in_a_bin_file_is_converted_and_accepted(source: Path, target: Path, is_zip: bool) -> None:
    """A12: a `.bin` of older PEFT releases."""
    save(source / BIN, torch_tensors(), _use_new_zipfile_serialization=is_zip)
    (source / TEMPLATE_FILE).write_text("template")
    assert convert(source, target) == len(lora_tensors())
    assert {path.name for path in target.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, TEMPLATE_FILE}
    assert (target / CONFIG_FILE).read_bytes() == (source / CONFIG_FILE).read_bytes()
    written = load_file(target / WEIGHTS_FILE)
    assert all(np.array_equal(written[name], tensor) for name, tensor in lora_tensors().items())
    assert normalize(target, BASE, None) == []
    validate(target, BASE, max_rank=8)
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def run_command(command: str) -> Callable[[], object]:
    class Attack:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (command,)

    return Attack


@pytest.mark.slow
def test_a_pickle_with_a_program_is_refused_and_does_not_run_it(source: Path, target: Path, tmp_path: Path) -> None:
    """A12: hostile pickles."""
    attack = run_command(f"touch {tmp_path}/attacked")
    save(source / "zip.bin", {"x": attack()})
    (source / "raw.bin").write_bytes(pickle.dumps({"x": attack()}))
    for name in ("zip.bin", "raw.bin"):
        with pytest.raises(InvalidAdapter, match="can't be converted: it contains more than tensors"):
            convert(source / name, target)
    assert not (tmp_path / "attacked").exists()
    assert not list(target.parent.iterdir())


@pytest.mark.slow
def test_other_content_is_refused() -> None:
    """A12: hostile pickles."""
    import torch

    from loramux_adapters.conversion.unpickling_process import explain, read_weights

    contents: Mapping[str, tuple[object, str]] = {
        "list": ([torch.ones(2)], "does not contain tensors by name"),
        "nested": ({"a": {"b": torch.ones(2)}}, "but also 'a'"),
        "numbered": ({1: torch.ones(2)}, "but also 1"),
        "empty": ({}, "does not contain tensors"),
        "view": ({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, "larger than their file"),
        "sparse": ({"a": torch.ones(2, 2).to_sparse()}, "but also 'a'"),
    }
    raw = {
        b"": "not a file of PyTorch",
        b"x" * 1000: "more than tensors",
        # A text of 2^60 bytes is declared.
        b"\x80\x02\x8d" + (1 << 60).to_bytes(8, "little") + b"x.": "more than tensors",
    }
    for content, problem in contents.values():
        file = io.BytesIO()
        torch.save(content, file)
        raw[file.getvalue()] = problem
    for content, problem in raw.items():
        with pytest.raises(Exception) as caught:
            read_weights(io.BytesIO(content), 10_000)
        assert problem in explain(caught.value)


@pytest.mark.slow
def test_a_compressed_file_that_takes_too_much_memory_is_refused(source: Path, target: Path) -> None:
    """A12: archives of zeros."""
    import torch

    save(source / "small.bin", {"x": torch.zeros(1)})
    values = 1 << 29
    with zipfile.ZipFile(source / "small.bin") as small, zipfile.ZipFile(source / BIN, "w") as bomb:
        for entry in small.infolist():
            if entry.filename.endswith("data/0"):
                zeros = zipfile.ZipInfo(entry.filename)
                zeros.compress_type = zipfile.ZIP_DEFLATED
                with bomb.open(zeros, "w", force_zip64=True) as data:
                    for _ in range(values * 4 >> 24):
                        data.write(bytes(1 << 24))
            else:
                numbers = b"J" + values.to_bytes(4, "little")
                bomb.writestr(entry.filename, small.read(entry).replace(b"K\x01", numbers))
    assert (source / BIN).stat().st_size < 10 << 20
    with pytest.raises(InvalidAdapter, match="can't be converted: reading it takes too much memory"):
        convert(source / BIN, target)
    assert not list(target.parent.iterdir())


@pytest.mark.slow
def test_the_process_can_open_nothing_after_its_restriction(tmp_path: Path) -> None:
    """A12: what a program in a pickle could do if PyTorch ran it."""
    import subprocess

    program = (
        "import os, socket\n"
        "from loramux_adapters.conversion.unpickling_process import restrict\n"
        "restrict(0)\n"
        "os.close(0)\n"
        f"for act in (lambda: open('{tmp_path}/x', 'w'), lambda: open('/etc/passwd'), socket.socket, os.pipe):\n"
        "    try: act()\n"
        "    except OSError as error: print(error.errno)\n"
        "try: bytearray(2 << 30)\n"
        "except MemoryError: print('memory')\n"
        "print(dict(os.environ).keys() - {'LC_CTYPE'})\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == ["24", "24", "24", "24", "memory", "set()"]


def test_a_folder_without_pickled_weights_is_refused(source: Path, target: Path) -> None:
    with pytest.raises(InvalidAdapter, match=r"adapter_model\.bin: the file is missing"):
        convert(source, target)


def test_several_files_of_weights_are_not_chosen_from(source: Path, target: Path) -> None:
    for name in ("adapter_0.pt", "adapter_1.pt", "training_args.bin"):
        (source / name).touch()
    with pytest.raises(InvalidAdapter, match="there are several files of weights"):
        convert(source, target)


def test_a_missing_config_is_named(source: Path, target: Path) -> None:
    (source / CONFIG_FILE).rename(source / BIN)
    with pytest.raises(InvalidAdapter, match=r"adapter_config\.json: the file is missing"):
        convert(source, target)
    assert not list(target.parent.iterdir())


def test_nothing_is_overwritten(source: Path, tmp_path: Path) -> None:
    (source / BIN).touch()
    with pytest.raises(FileExistsError):
        convert(source, source)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os; os.kill(os.getpid(), 9)", "takes too much time or memory"),
        ("import sys; sys.exit(1)", "takes too much time or memory"),
        ("import sys; sys.exit('Traceback\\nthe \\x1b[31mreason\\u202e')", "the �\\[31mreason"),
        ("import time; time.sleep(60)", "takes too long"),
        ("print('x' * 100)", "header"),
    ],
)
def test_a_process_that_ends_badly_is_explained_and_leaves_nothing(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, program: str, problem: str
) -> None:
    (source / BIN).touch()
    monkeypatch.setattr(converter, "_COMMAND", (sys.executable, "-I", "-S", "-c", program))
    monkeypatch.setattr(converter, "MAX_WALL_SECONDS", 0.2 if "sleep" in program else 30)
    with pytest.raises(InvalidAdapter, match=problem) as caught:
        convert(source, target)
    assert caught.value.message.isprintable()
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("name", [CONFIG_FILE, TEMPLATE_FILE, BIN])
def test_links_out_of_the_folder_are_not_followed(source: Path, target: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("{}")
    (source / BIN).touch()
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to("../secret")
    with pytest.raises(InvalidAdapter, match=f"{name}: is a symbolic link to something outside its folder"):
        convert(source, target)
    assert not list(target.parent.iterdir())


def test_the_links_of_the_hubs_cache_are_followed(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A12: a snapshot in the Hub's cache."""
    snapshot, blobs = tmp_path / "models--org--tone" / "snapshots" / "0123", tmp_path / "models--org--tone" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for name in (CONFIG_FILE, BIN):
        (blobs / name[::-1]).write_bytes(b"{}")
        (snapshot / name).symlink_to(f"../../blobs/{name[::-1]}")
    copying = "import sys; h=b'{}'; sys.stdout.buffer.write(len(h).to_bytes(8, 'little') + h)"
    monkeypatch.setattr(converter, "_COMMAND", (sys.executable, "-I", "-S", "-c", copying))
    assert convert(snapshot, target) == 0
    assert (target / CONFIG_FILE).read_bytes() == b"{}"
    assert not (target / CONFIG_FILE).is_symlink()
