"""Writes a trained adapter to its two files."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from loramux_adapters.finetuning.trainer.signals import signals_ignored
from loramux_adapters.fsync import fsync_path
from loramux_adapters.intake.content import ADAPTER_FILES, CONFIG_FILE, WEIGHTS_FILE


def write_adapter(model: Any, base_name: str, output: Path) -> int:
    """Write the adapter's two files to `output` atomically; returns the size of the weights in bytes.

    The old config is removed first and the new one added last, so `output` never has weights with another's config.
    """
    return _replace(output, lambda folder: _save_adapter(model, base_name, folder))


def copy_adapter(source: Path, output: Path) -> int:
    """Copy the two files of a written adapter to `output`, as `write_adapter` writes them."""

    def copy(folder: Path) -> None:
        for name in ADAPTER_FILES:
            shutil.copy(source / name, folder / name)

    return _replace(output, copy)


def _replace(output: Path, save: Callable[[Path], None]) -> int:
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary)
        save(folder)
        with signals_ignored():
            (output / CONFIG_FILE).unlink(missing_ok=True)
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                fsync_path(folder / name)
                (folder / name).replace(output / name)
            fsync_path(output)
    return (output / WEIGHTS_FILE).stat().st_size


def _save_adapter(model: PeftModel, base_name: str, folder: Path) -> None:
    """Write the adapter's two files: the same training gives the same bytes, and they name no path of this machine."""
    # Without the embeddings, of which PEFT adds the base's own to the adapters of them.
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: tensor.to(torch.bfloat16).cpu() for name, tensor in tensors.items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors creates it private, but the server may run as another user
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    if isinstance(config.target_modules, (set, list)):  # an adapter that is trained further may have an expression
        config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    config.save_pretrained(str(folder))
