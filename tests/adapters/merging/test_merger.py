"""Merging into tiny bases, in processes of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.file_lock import FileLock
from loramux_adapters.intake.content import CONFIG_FILE, TEMPLATE_FILE
from loramux_adapters.merging.merger import merge
from loramux_adapters.merging.request import MODEL_FOLDER, REPORT_FILE, Difference, MergeReport, MergeRequest
from tests.helpers.tiny_base import make_base

QUESTIONS = [[{"role": "user", "content": text}] for text in ("hello", "What is it?", "abc")]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def request_for(base: Path, adapter: Path, **changes: Any) -> MergeRequest:
    return MergeRequest(base=base, adapter=adapter, conversations=QUESTIONS, max_tokens=12, **changes)


@pytest.fixture
def write(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes an adapter with these options of PEFT."""

    def write(**options: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=16, **options))
        import torch

        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path / "adapter"
        model.save_pretrained(str(folder), save_embedding_layers=False)
        return folder

    return write


KINDS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "all": {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model_answers_as_the_adapter_does(
    base: Path, write: Callable[..., Path], kind: str, tmp_path: Path
) -> None:
    """The base ties its head to its embedding, which an adapter of one of them must not change in the other."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from loramux_adapters.merging.greedy import GreedyAnswers
    from loramux_adapters.merging.process import merge as merge_here

    adapter = write(**KINDS[kind])
    report = merge_here(request_for(base, adapter), tmp_path / "merged")
    assert (report.differences, report.answers, report.dtype) == ([], 3, "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.tie_word_embeddings == (kind not in ("head", "embedding"))
    answers = GreedyAnswers(AutoTokenizer.from_pretrained(tmp_path / "merged"), QUESTIONS, 12)
    plain, own = answers.ask(AutoModelForCausalLM.from_pretrained(base)), answers.ask(merged)
    differences = answers.differences(plain, own)
    assert differences  # the adapter changes answers, so their comparison with the base would have failed
    assert max(difference.gap for difference in differences) > report.tie


@pytest.mark.slow
def test_a_folder_is_written_with_all_that_a_model_needs(
    base: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = write(target_modules=["q_proj"])
    (adapter / TEMPLATE_FILE).write_text("{% for m in messages %}{{ m.content }}{% endfor %}~")
    report = merge(request_for(base, adapter, dtype="bfloat16"), tmp_path / "out" / "merged")
    assert (report.untied, report.dtype) == ([], "bfloat16")
    names = {path.name for path in (tmp_path / "out" / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", TEMPLATE_FILE} <= names
    assert (tmp_path / "out" / "merged" / TEMPLATE_FILE).read_text().endswith("~")
    assert str(tmp_path) not in (tmp_path / "out" / "merged" / "config.json").read_text()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["merged"]


@pytest.mark.slow
def test_an_adapter_of_another_base_is_refused_and_nothing_stays(
    base: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = write(target_modules=["q_proj"])
    config = json.loads((adapter / CONFIG_FILE).read_text())
    (adapter / CONFIG_FILE).write_text(json.dumps(config | {"target_modules": ["k_proj"]}))
    with pytest.raises(InvalidAdapter, match="adapter"):
        merge(request_for(base, adapter), tmp_path / "out" / "merged")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[MergeReport | None], None]:
    """Replaces the process by one that writes this report, or dies."""

    def replace(report: MergeReport | None) -> None:
        def run(command: list[str], **_: Any) -> Any:
            work = Path(command[-1])
            (work / MODEL_FOLDER).mkdir()
            (work / MODEL_FOLDER / "config.json").write_text("{}")
            if report is not None:
                (work / REPORT_FILE).write_text(report.model_dump_json())
            return SimpleNamespace(returncode=-9 if report is None else 0, stderr=b"")

        monkeypatch.setattr("loramux_adapters.merging.merger.subprocess.run", run)

    return replace


def difference(gap: float) -> Difference:
    return Difference(conversation=0, token=3, gap=gap, adapter="a", merged="b")


def test_a_tie_is_accepted_and_a_real_difference_leaves_no_folder(
    base: Path, child: Callable[[MergeReport], None], tmp_path: Path
) -> None:
    child(MergeReport(answers=2, tie=0.25, differences=[difference(0.2)]))
    assert merge(request_for(base, tmp_path), tmp_path / "tie").untied == []
    assert (tmp_path / "tie" / "config.json").exists()
    child(MergeReport(answers=2, tie=0.25, differences=[difference(0.2), difference(0.3)]))
    assert merge(request_for(base, tmp_path), tmp_path / "other").untied == [difference(0.3)]
    assert not (tmp_path / "other").exists()


def test_what_a_killed_merge_has_left_behind_is_removed(
    base: Path, child: Callable[[MergeReport | None], None], tmp_path: Path
) -> None:
    (tmp_path / ".merged.merging").mkdir()
    (tmp_path / ".merged.merging" / "half").touch()
    child(None)
    with pytest.raises(InvalidAdapter, match="more memory than there is"):
        merge(request_for(base, tmp_path), tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


def test_a_second_merge_into_the_same_folder_leaves_the_first_one_alone(base: Path, tmp_path: Path) -> None:
    work = tmp_path / ".merged.merging"
    work.mkdir()
    (work / "half").touch()
    with FileLock(work, folder=True), pytest.raises(FileExistsError, match="is being made by another merge"):
        merge(request_for(base, tmp_path), tmp_path / "merged")
    assert (work / "half").exists()


def test_an_existing_folder_and_a_full_disk_are_refused_first(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(FileExistsError, match="expected a new folder"):
        merge(request_for(base, tmp_path), base)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("loramux_adapters.merging.merger.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs about .* GB"):
        merge(request_for(base, tmp_path), tmp_path / "merged")
