"""The description is computed by a child process, once per base and settings; errors are one line."""

import json
from pathlib import Path

import pytest

from loramux_server import described_base
from loramux_server.base_model import BaseError, ResolvedBase
from loramux_server.described_base import describe_base
from loramux_server.settings import Settings
from tests.helpers.adapter_files import BASE

CHILD = """\
import pathlib, sys
folder, name, versions, output = sys.argv[1:]
options = sys.stdin.read()
log = pathlib.Path(folder, "calls")
log.write_text(log.read_text() + options + "\\n" if log.exists() else options + "\\n")
print("a warning of a library", file=sys.stderr)
if pathlib.Path(folder, "refused").exists():
    print("LORAMUX_ENGINE__X: vLLM refused it", file=sys.stderr)
    sys.exit(3)
if pathlib.Path(folder, "slow").exists():
    import time
    time.sleep(60)
if pathlib.Path(folder, "unserved").exists():
    sys.exit("Model architectures ['X'] are not supported for now.")
pathlib.Path(output).write_text(pathlib.Path(folder, "description.json").read_text())
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedBase:
    """A base whose description is in its folder; the child is a script that copies it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "description.json").write_text(BASE.model_dump_json())
    (tmp_path / "scripted_child.py").write_text(CHILD)
    monkeypatch.setattr(described_base, "CHILD", "scripted_child")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return ResolvedBase(folder, BASE.name)


def settings(tmp_path: Path, **engine: object) -> Settings:
    return Settings(data_dir=tmp_path / "data", engine=engine)


def calls(base: ResolvedBase) -> list[dict[str, object]]:
    return [json.loads(line) for line in (base.path / "calls").read_text().splitlines()]


def test_a_base_is_described_once(tmp_path: Path, base: ResolvedBase) -> None:
    steps: list[str] = []
    assert describe_base(base, settings(tmp_path), steps.append) == BASE
    assert describe_base(base, settings(tmp_path), steps.append) == BASE
    assert len(calls(base)) == len(steps) == 1


def test_other_settings_or_another_config_are_another_base(tmp_path: Path, base: ResolvedBase) -> None:
    describe_base(base, settings(tmp_path))
    describe_base(base, settings(tmp_path, quantization="fp8"))
    (base.path / "config.json").write_text('{"hidden_size": 8}')
    describe_base(base, settings(tmp_path))
    assert calls(base) == [{}, {"quantization": "fp8"}, {}]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"spec": 1}'])
def test_a_broken_description_is_computed_again(tmp_path: Path, base: ResolvedBase, content: str) -> None:
    describe_base(base, settings(tmp_path))
    (stored,) = (tmp_path / "data" / "bases" / "descriptions").iterdir()
    stored.write_text(content)
    assert describe_base(base, settings(tmp_path)) == BASE
    assert len(calls(base)) == 2


def test_a_description_of_an_older_release_without_memory_is_computed_again(
    tmp_path: Path, base: ResolvedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU-4: the memory of a base is in its description since this release."""
    monkeypatch.setattr(described_base, "_CONTENT", '["modules"]')
    describe_base(base, settings(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(described_base, "CHILD", "scripted_child")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    describe_base(base, settings(tmp_path))
    assert len(calls(base)) == 2


def test_a_base_that_vllm_does_not_serve_is_one_line(tmp_path: Path, base: ResolvedBase) -> None:
    """A1: a base that vLLM can't serve is refused with its reason and no traceback."""
    (base.path / "unserved").touch()
    with pytest.raises(BaseError) as caught:
        describe_base(base, settings(tmp_path))
    assert str(caught.value) == "vLLM can't serve tiny: Model architectures ['X'] are not supported for now."
    assert not (tmp_path / "data" / "bases" / "descriptions").exists()


def test_a_setting_that_is_refused_is_named_and_not_the_base(tmp_path: Path, base: ResolvedBase) -> None:
    (base.path / "refused").touch()
    with pytest.raises(BaseError) as caught:
        describe_base(base, settings(tmp_path))
    assert str(caught.value) == "LORAMUX_ENGINE__X: vLLM refused it"


def test_a_child_that_does_not_end_is_an_error(
    tmp_path: Path, base: ResolvedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base.path / "slow").touch()
    monkeypatch.setattr(described_base, "_MAX_SECONDS", 0.5)
    with pytest.raises(BaseError, match="no answer after"):
        describe_base(base, settings(tmp_path))


def test_settings_are_not_on_the_command_line_of_the_child(tmp_path: Path, base: ResolvedBase) -> None:
    """Other users of the machine can read command lines, and `hf_token` is a setting."""
    (tmp_path / "scripted_child.py").write_text(CHILD + "assert 'secret' not in ' '.join(sys.argv)\n")
    assert describe_base(base, settings(tmp_path, hf_token="secret")) == BASE
    assert calls(base) == [{"hf_token": "secret"}]


def test_a_data_folder_that_can_not_be_written_costs_only_time(tmp_path: Path, base: ResolvedBase) -> None:
    folder = tmp_path / "data" / "bases"
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    assert describe_base(base, settings(tmp_path)) == BASE
