"""Describes a tiny base of each architecture that vLLM generates text with and transformers has, and asks PEFT, too.

Run it as `python -m tests.helpers.tiny_bases.families FOLDER`; it writes one JSON object per architecture to standard
output. Each architecture has a process of its own, forked from one that has imported everything.
"""

import contextlib
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from vllm.model_executor.models import ModelRegistry, is_text_generation_model, registry

from loramux_adapters.base_description import BaseDescription
from loramux_server.engine.describing.description import describe
from tests.helpers.chat_templates import CHATML, write_tokenizer
from tests.helpers.tiny_bases.configs import CHANGES, shrunk

Shape = tuple[int, tuple[int, ...], tuple[int, ...]]
"""A module's rank, and the shapes of its A and B."""
RANK = 2
PREFIX = "base_model.model."
MAMBA_TYPES, EXCLUDED = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}, ["conv1d", "out_proj"]
"""PEFT adapts these modules in no model of these types: it must be told."""


def main(folder: Path) -> None:
    """Describe all architectures."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    classes = dict(_generating_classes())
    # Else vLLM starts a process per architecture that imports vLLM only to look at the class.
    registry._LazyRegisteredModel.inspect_model_cls = lambda model: registry._ModelInfo.from_model_cls(
        model.load_model_cls()
    )
    output = os.dup(1)
    for architecture, missing in classes.items():
        if not (child := os.fork()):
            outcome = {"error": missing} if missing else _outcome(folder / architecture, architecture)
            os.write(output, json.dumps({"architecture": architecture, **outcome}).encode() + b"\n")
            os._exit(0)
        os.waitpid(child, 0)


def _generating_classes() -> Iterator[tuple[str, str | None]]:
    """Yield the architectures that vLLM generates text with and transformers has; why vLLM can't import one, if so."""
    for architecture, model in ModelRegistry.models.items():
        model_class = getattr(transformers, architecture, None)
        if model_class is not None and model_class.can_generate():
            try:
                if is_text_generation_model(model.load_model_cls()):
                    yield architecture, None
            except ImportError as error:
                yield architecture, f"vLLM can't import it: {error}"


def _outcome(folder: Path, architecture: str) -> dict[str, Any]:
    """Return a refusal, the differences between description and PEFT (none, it is hoped), or an error."""
    try:
        with tempfile.TemporaryFile() as log, contextlib.redirect_stdout(sys.stderr):
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            _write_base(folder, architecture)
            written = peft_shapes(folder, architecture)
            description = describe(folder, architecture, {"dtype": "float32"}, {})
    except Exception as error:  # noqa: BLE001 - whatever keeps a library from it is the outcome
        reason = f"{type(error).__name__}: {error}".replace(str(folder), "the base")
        return {"error": " ".join(re.sub(r"https?://[^\s'\"]+", "a URL", reason).split())[:300]}
    if description.refusal:
        return {"refusal": description.refusal}
    described = described_shapes(description, written)
    differing = sorted(path for path in described.keys() | written.keys() if described.get(path) != written.get(path))
    unserved = sorted({path.rpartition(".")[2] for path, module in description.modules.items() if module.refusal})
    return {"modules": len(described), "differences": differing, "unserved": unserved}


def _write_base(folder: Path, architecture: str) -> None:
    """Write a base whose weights have nothing but their names: which layers are packed is read from these."""
    config = shrunk(getattr(transformers, architecture).config_class, **CHANGES.get(architecture, {}))
    config.architectures = [architecture]
    config.save_pretrained(folder)
    write_tokenizer(folder, CHATML)
    with torch.device("meta"):
        names = getattr(transformers, architecture)(config).state_dict()
    save_file({name: torch.zeros(1) for name in names}, folder / "model.safetensors", {"format": "pt"})


def peft_shapes(folder: Path, architecture: str) -> dict[str, Shape]:
    """Return rank and shapes of each module of `all-linear`, by the names in the file that PEFT would write."""
    model = getattr(transformers, architecture)(transformers.AutoConfig.from_pretrained(folder))
    excluded = EXCLUDED if model.config.model_type in MAMBA_TYPES else None
    adapted = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", exclude_modules=excluded))
    tensors = get_peft_model_state_dict(adapted)
    ranks = {name: layer.r["default"] for name, layer in adapted.named_modules() if isinstance(layer, LoraLayer)}
    return {
        path.removeprefix(PREFIX): (rank, *(tuple(tensors[f"{path}.lora_{side}.weight"].shape) for side in "AB"))
        for path, rank in ranks.items()
    }


def described_shapes(description: BaseDescription, written: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the same by the description, whether vLLM applies adapters to a module or not.

    These are all linear layers, and those parameters that PEFT counts as linear, too, such as a router's.
    """
    ranks = {path: rank for path, (rank, *_) in written.items()}
    return {
        path: (ranks.get(path, RANK), *module.shapes(ranks.get(path, RANK)))
        for path, module in description.modules.items()
        if path in written or (module.kind == "linear" and not (module.is_head or module.is_expert or module.parameter))
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
