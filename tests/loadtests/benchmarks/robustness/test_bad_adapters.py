"""The benchmark's bad adapters: each must be bad, and for the reason that it names alone."""

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchmarks.robustness.bad_adapters import BAD, MAX_RANK
from benchmarks.robustness.corrupt import CONFIG, RANK, WEIGHTS, Draft, write_sound
from benchmarks.robustness.faults import MISHAPS
from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.validation import largest_file, validate
from loramux_adapters.models import BaseSpec, parse_adapter_name

BASE = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 64,
}


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(BASE))
    folder = write_sound(tmp_path / "adapters" / "case", base, 1)
    return Draft(folder, base, tmp_path / "outside", "bad-1", str(folder))


def take_in(draft: Draft) -> None:
    """Do what loramux does before its engine hears of an adapter; AdapterError if it is refused."""
    parse_adapter_name(draft.name)
    spec = BaseSpec.from_folder(draft.base, "base")
    staging = draft.base.with_name("staging")
    staging.mkdir()
    roots = [draft.base.with_name("adapters")]
    FolderSource(Path(draft.path), roots).fetch(staging, largest_file(spec, MAX_RANK), lambda _: None)
    validate(staging, spec, MAX_RANK)


def test_a_draft_is_sound_until_it_is_spoilt(draft: Draft) -> None:
    take_in(draft)


@pytest.mark.parametrize("case", BAD)
def test_a_spoilt_adapter_is_refused_before_the_engine_hears_of_it(draft: Draft, case: str) -> None:
    BAD[case](draft)
    with pytest.raises(AdapterError):
        take_in(draft)


def test_every_case_has_a_name_of_its_own_and_there_are_many() -> None:
    assert not BAD.keys() & MISHAPS.keys()
    assert len(BAD) >= 60


def test_a_larger_bases_adapter_has_wider_tensors_and_the_same_rank(draft: Draft) -> None:
    BAD["of a larger base"](draft)
    shapes = {tensor.shape for tensor in load_file(draft.folder / WEIGHTS).values()}
    assert shapes == {(RANK, 128), (128, RANK)}


def test_an_adapter_moved_out_lies_where_it_was_said(draft: Draft) -> None:
    for_stock_vllm_it_is_sound = {"a path outside of the allowed folders", "a path that leaves them by .."}
    for case in for_stock_vllm_it_is_sound:
        again = Draft(
            write_sound(draft.folder.with_name(case), draft.base, 1), draft.base, draft.outside, "bad", draft.path
        )
        BAD[case](again)
        assert load_file(Path(again.path) / WEIGHTS)


@pytest.mark.parametrize("case", ["a header that overstates a shape", "a header whose tensors overlap"])
def test_a_header_that_lies_is_otherwise_well_formed(draft: Draft, case: str) -> None:
    before = (draft.folder / WEIGHTS).read_bytes()
    BAD[case](draft)
    after = (draft.folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(after[:8], "little")
    assert json.loads(after[8:end]).keys() == load_keys(before)
    with pytest.raises(SafetensorError):
        load_file(draft.folder / WEIGHTS)


def load_keys(raw: bytes) -> set[str]:
    return set(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]))


def test_a_config_of_100_mb_is_valid_json(draft: Draft) -> None:
    BAD["config of 100 MB"](draft)
    text = (draft.folder / CONFIG).read_text()
    assert len(text) > 100_000_000
    assert json.loads(text)["r"] == RANK
