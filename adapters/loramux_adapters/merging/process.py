"""Merges an adapter into its base, and compares the answers: `python -m loramux_adapters.merging.process FOLDER`.

FOLDER has the request and gets the report and the model. A process of its own, because it needs memory for the base,
and the libraries take seconds to import.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoTokenizer

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.trainer.base_weights import BaseWeights, find_weights, reason_of
from loramux_adapters.finetuning.trainer.model import load_adapter
from loramux_adapters.intake.content import TEMPLATE_FILE
from loramux_adapters.merging.greedy import GreedyAnswers, tie_of
from loramux_adapters.merging.request import MODEL_FOLDER, REPORT_FILE, REQUEST_FILE, MergeReport, MergeRequest

_MAX_SHARD = "5GB"
_WRITTEN = {"config.json"}
"""Files of the base that the model's own replace."""
_COPIED = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")


def merge(request: MergeRequest, target: Path) -> MergeReport:
    """Write the merged model to the new folder `target`, read it again, and compare its answers with the adapter's.

    Raises:
        TrainingError: the base or the adapter can't be used for this.
    """
    weights = _weights(request.base)
    tokenizer = _tokenizer(request)
    answers = GreedyAnswers(tokenizer, request.conversations, request.max_tokens)
    adapted = _adapted(weights, request)
    expected = answers.ask(adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    dtype, parameters = merged.dtype, sum(parameter.numel() for parameter in merged.parameters())
    merged.save_pretrained(target, max_shard_size=_MAX_SHARD)
    _copy_companions(request, target)
    del adapted, merged  # before the other one is loaded
    found = answers.ask(weights.model_class.from_pretrained(target, dtype="auto").to(request.device))
    return MergeReport(
        dtype=str(dtype).removeprefix("torch."),
        parameters=parameters,
        weights_bytes=sum(path.stat().st_size for path in target.glob("*.safetensors")),
        answers=len(expected),
        tokens=sum(len(answer.tokens) for answer in expected),
        differences=answers.differences(expected, found),
        tie=tie_of(dtype),
    )


def _weights(base: Path) -> BaseWeights:
    weights = find_weights(base, None)
    if weights.packed_bytes is not None:
        raise TrainingError(
            f"the weights of {base.name} are quantized by {weights.quantization}, and an adapter can't be merged into "
            "them: set --base to the folder or Hub id of the unquantized base"
        )
    return weights


def _tokenizer(request: MergeRequest) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(request.base, local_files_only=True)
    own = request.adapter / TEMPLATE_FILE
    if own.exists():
        tokenizer.chat_template = own.read_text(encoding="utf-8")
    return tokenizer


def _adapted(weights: BaseWeights, request: MergeRequest) -> PeftModel:
    """Return the base with the adapter; a head that shares the embedding's weights gets its own, if one is adapted."""
    dtype = "auto" if request.dtype == "auto" else getattr(torch, request.dtype)
    options = {"local_files_only": True, "config": weights.config, "dtype": dtype}
    model = weights.model_class.from_pretrained(weights.folder, **options).to(request.device)
    adapted = load_adapter(model, request.adapter, request.device)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if weights.config.get_text_config().tie_word_embeddings and any(isinstance(end, BaseTunerLayer) for end in ends):
        _untie(model, ends[1])
    return adapted


def _untie(model: Any, head: Any) -> None:
    layer = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def _copy_companions(request: MergeRequest, target: Path) -> None:
    """Copy the base's files next to its weights: the tokenizer, how it generates, the chat template."""
    paths = {path.name: path for pattern in _COPIED for path in request.base.glob(pattern)}
    for name, path in paths.items():
        if name not in _WRITTEN and not name.endswith(".index.json"):
            shutil.copyfile(path, target / name)
    own = request.adapter / TEMPLATE_FILE
    if own.exists():
        shutil.copyfile(own, target / TEMPLATE_FILE)


def main(folder: Path) -> int:
    """Do what the request in `folder` asks; returns the exit code."""
    request = MergeRequest.model_validate_json((folder / REQUEST_FILE).read_bytes())
    try:
        report = merge(request, folder / MODEL_FOLDER)
    except TrainingError as error:
        report = MergeReport(error=error.message)
    except Exception as error:  # noqa: BLE001 - the libraries raise errors of many classes; the log has the details
        import traceback

        traceback.print_exc()
        report = MergeReport(error=f"the adapter can't be merged: {reason_of(error)}")
    (folder / REPORT_FILE).write_text(report.model_dump_json())
    return 2 if report.error else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
