"""The benchmark's bad adapters: each must be invalid, and only for the reason in its name."""

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchmarks.robustness.bad_adapters import BAD_ADAPTERS, MAX_RANK
from benchmarks.robustness.corrupt import CONFIG, RANK, WEIGHTS, CandidateAdapter, write_sound_adapter
from benchmarks.robustness.faults import FAULTS
from loramux_adapters.errors import AdapterError
from loramux_adapters.intake.normalization import normalize
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.validation import max_file_sizes, validate
from loramux_adapters.models import parse_adapter_name
from tests.helpers.llama_bases import LlamaSizes, llama_base, write_weights

SIZES = LlamaSizes(hidden_size=64, intermediate_size=96, num_key_value_heads=4, head_dim=16)


@pytest.fixture
def candidate(tmp_path: Path) -> CandidateAdapter:
    base = tmp_path / "base"
    base.mkdir()
    write_weights(base, SIZES)
    folder = write_sound_adapter(tmp_path / "adapters" / "case", base, 1)
    return CandidateAdapter(folder, base, tmp_path / "outside", "bad-1", str(folder))


def take_in(candidate: CandidateAdapter) -> None:
    """Validate an adapter as loramux does before it reaches the engine; raises AdapterError if it is invalid."""
    parse_adapter_name(candidate.name)
    spec = llama_base(SIZES, "base")
    staging = candidate.base.with_name("staging")
    staging.mkdir()
    roots = [candidate.base.with_name("adapters")]
    FolderSource(Path(candidate.path), roots).fetch(staging, max_file_sizes(spec, MAX_RANK), lambda _: None)
    normalize(staging, spec, candidate.base)
    validate(staging, spec, MAX_RANK)


def test_a_draft_is_sound_until_it_is_corrupted(candidate: CandidateAdapter) -> None:
    take_in(candidate)


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_ADAPTERS)
def test_a_corrupted_adapter_is_rejected_before_it_reaches_the_engine(candidate: CandidateAdapter, case: str) -> None:
    BAD_ADAPTERS[case](candidate)
    with pytest.raises(AdapterError):
        take_in(candidate)


def test_every_case_has_a_name_of_its_own_and_there_are_many() -> None:
    assert not BAD_ADAPTERS.keys() & FAULTS.keys()
    assert len(BAD_ADAPTERS) >= 60


def test_a_larger_bases_adapter_has_wider_tensors_and_the_same_rank(candidate: CandidateAdapter) -> None:
    BAD_ADAPTERS["of a larger base"](candidate)
    shapes = {tensor.shape for tensor in load_file(candidate.folder / WEIGHTS).values()}
    assert shapes == {(RANK, 128), (128, RANK)}


def test_an_adapter_moved_out_lies_where_it_was_said(candidate: CandidateAdapter) -> None:
    for_stock_vllm_it_is_sound = {"a path outside of the allowed folders", "a path that leaves them by .."}
    for case in for_stock_vllm_it_is_sound:
        again = CandidateAdapter(
            write_sound_adapter(candidate.folder.with_name(case), candidate.base, 1),
            candidate.base,
            candidate.outside,
            "bad",
            candidate.path,
        )
        BAD_ADAPTERS[case](again)
        assert load_file(Path(again.path) / WEIGHTS)


@pytest.mark.parametrize("case", ["a header that overstates a shape", "a header whose tensors overlap"])
def test_a_header_that_lies_is_otherwise_well_formed(candidate: CandidateAdapter, case: str) -> None:
    before = (candidate.folder / WEIGHTS).read_bytes()
    BAD_ADAPTERS[case](candidate)
    after = (candidate.folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(after[:8], "little")
    assert json.loads(after[8:end]).keys() == load_keys(before)
    with pytest.raises(SafetensorError):
        load_file(candidate.folder / WEIGHTS)


def load_keys(raw: bytes) -> set[str]:
    return set(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]))


@pytest.mark.slow
def test_a_config_of_100_mb_is_valid_json(candidate: CandidateAdapter) -> None:
    BAD_ADAPTERS["config of 100 MB"](candidate)
    text = (candidate.folder / CONFIG).read_text()
    assert len(text) > 100_000_000
    assert json.loads(text)["r"] == RANK
