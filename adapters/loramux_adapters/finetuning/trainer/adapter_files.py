"""Writes a trained adapter to its two files."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from loramux_adapters.finetuning.trainer.signals import signals_ignored
from loramux_adapters.fsync import fsync_path
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE


def write_adapter(model: Any, base_name: str, output: Path) -> int:
    """Write the adapter's two files to `output` atomically; returns the size of the weights in bytes.

    The old config is removed first and the new one added last, so `output` never has weights with another's config.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary)
        _save_adapter(model, base_name, folder)
        with signals_ignored():
            (output / CONFIG_FILE).unlink(missing_ok=True)
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                fsync_path(folder / name)
                (folder / name).replace(output / name)
            fsync_path(output)
    return (output / WEIGHTS_FILE).stat().st_size


def _save_adapter(model: PeftModel, base_name: str, folder: Path) -> None:
    """Write the adapter's two files: the same training gives the same bytes, and they name no path of this machine."""
    weights = {name: tensor.to(torch.bfloat16).cpu() for name, tensor in get_peft_model_state_dict(model).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors creates it private, but the server may run as another user
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    config.save_pretrained(str(folder))
