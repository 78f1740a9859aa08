"""Folders of adapters as the tools that people use write them, made of one that PEFT wrote."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from loramux_adapters.intake.content import CONFIG_FILE, INDEX_FILE, MLX_WEIGHTS_FILE, WEIGHTS_FILE
from tests.helpers.adapter_files import PEFT_CONFIGS

PREFIX = "base_model.model."
Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]
_UNSLOTH_TARGETS = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:{names}).*?)"
    r"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:{names})))"
)
_LLAMA_FACTORY_TARGETS = "^(?!.*patch_embed)(?!.*vision_tower).*(?:{names}).*"


def _save(folder: Path, config: Config, tensors: Tensors) -> None:
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _trainer(folder: Path, base: Path) -> None:
    """Add what transformers' Trainer leaves next to an adapter: the tokenizer, and the state of the training."""
    for file in base.glob("*token*"):
        shutil.copy(file, folder)
    for name in ("README.md", "trainer_state.json", "all_results.json", "training_args.bin", "optimizer.pt"):
        (folder / name).write_text("{}")
    checkpoint = folder / "checkpoint-12"
    checkpoint.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copy(folder / name, checkpoint)


def _names(tensors: Tensors) -> list[str]:
    """The last names of the adapted modules."""
    return sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})


def peft(version: str) -> Callable[[Path, Path, Config, Tensors], None]:
    """PEFT, with the keys that the config had in a release."""

    def write(folder: Path, _base: Path, config: Config, tensors: Tensors) -> None:
        keys = PEFT_CONFIGS[version]
        _save(folder, keys | {key: config[key] for key in keys.keys() & {"r", "lora_alpha", "target_modules"}}, tensors)

    return write


def unsloth(folder: Path, base: Path, config: Config, tensors: Tensors) -> None:
    """unsloth: an expression for the modules of text models and of multimodal ones."""
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers", "unsloth_fixed": True}
    targets = _UNSLOTH_TARGETS.format(names="|".join(_names(tensors)))
    _save(folder, config | {"auto_mapping": mapping, "target_modules": targets}, tensors)
    _trainer(folder, base)


def axolotl(folder: Path, base: Path, config: Config, tensors: Tensors) -> None:
    """axolotl: keys that it sets to null, and names by torch.compile with FSDP."""
    compiled = {
        f"_orig_mod.{name.replace('.layers.', '._fsdp_wrapped_module.layers.')}": t for name, t in tensors.items()
    }
    _save(folder, config | {"fan_in_fan_out": None, "lora_dropout": 0.05}, compiled)
    _trainer(folder, base)


def llama_factory(folder: Path, base: Path, config: Config, tensors: Tensors) -> None:
    """LLaMA-Factory: an expression that leaves out a vision tower, and a default rsLoRA of null."""
    targets = _LLAMA_FACTORY_TARGETS.format(names="|".join(_names(tensors)))
    _save(folder, config | {"target_modules": targets, "use_rslora": None, "corda_config": {}}, tensors)
    _trainer(folder, base)


def torchtune(folder: Path, _base: Path, config: Config, tensors: Tensors) -> None:
    """torchtune's export for PEFT: a config of five keys, next to its own checkpoint."""
    keys = {"r", "lora_alpha", "target_modules", "peft_type", "base_model_name_or_path"}
    _save(folder, {key: config[key] for key in keys}, tensors)
    (folder / "adapter_0.pt").write_bytes(b"pickled")


def mlx(folder: Path, _base: Path, config: Config, tensors: Tensors) -> None:
    """mlx-lm: its own config, and transposed matrices."""
    _save(folder, _mlx_config(config), {})
    (folder / WEIGHTS_FILE).unlink()
    named = {
        name.removeprefix(PREFIX).replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b"): tensor
        for name, tensor in tensors.items()
    }
    save_file({name: tensor.T.contiguous() for name, tensor in named.items()}, folder / MLX_WEIGHTS_FILE)


def _mlx_config(config: Config) -> Config:
    scale = config["lora_alpha"] / config["r"]
    parameters = {"rank": config["r"], "scale": scale, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    return {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters, "model": "mlx-community/base"}


def tinker(folder: Path, _base: Path, config: Config, tensors: Tensors) -> None:
    """Tinker: all-linear, which includes the head under another name."""
    head = f"{PREFIX}lm_head."
    named = {name.replace(head, f"{PREFIX}model.unembed_tokens."): tensor for name, tensor in tensors.items()}
    keys = {"peft_type", "r", "lora_alpha", "base_model_name_or_path"}
    _save(folder, {key: config[key] for key in keys} | {"target_modules": "all-linear"}, named)


def state_dict(folder: Path, _base: Path, config: Config, tensors: Tensors) -> None:
    """A state dict that was saved without PEFT, with the adapter's name."""
    _save(folder, config, {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()})


def sharded(folder: Path, _base: Path, config: Config, tensors: Tensors) -> None:
    """Weights in three files, without PEFT's prefix."""
    _save(folder, config, {})
    (folder / WEIGHTS_FILE).unlink()
    files: dict[str, Tensors] = {}
    for at, (name, tensor) in enumerate(tensors.items()):
        files.setdefault(f"adapter_model-{at % 3 + 1:05}-of-00003.safetensors", {})[name.removeprefix(PREFIX)] = tensor
    for file, content in files.items():
        save_file(content, folder / file)
    weight_map = {name: file for file, content in files.items() for name in content}
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def pickled(folder: Path, base: Path, config: Config, tensors: Tensors) -> None:
    """An old release of PEFT: a pickle, which has to be converted."""
    peft("0.3")(folder, base, config, tensors)
    (folder / WEIGHTS_FILE).unlink()
    torch.save(tensors, folder / "adapter_model.bin")


FORMS: Mapping[str, Callable[[Path, Path, Config, Tensors], None]] = {
    "peft-0.3": peft("0.3"),
    "peft-0.11": peft("0.11"),
    "peft-0.18": peft("0.18"),
    "unsloth": unsloth,
    "axolotl": axolotl,
    "llama-factory": llama_factory,
    "torchtune": torchtune,
    "mlx": mlx,
    "tinker": tinker,
    "state-dict": state_dict,
    "sharded": sharded,
    "pickled": pickled,
}


def write_form(form: str, folder: Path, source: Path, base: Path) -> Path:
    """Write the adapter in `source`, which PEFT saved for `base`, to `folder` as the tool `form` does."""
    saved = load_file(source / WEIGHTS_FILE).items()
    # PEFT alone adds the base's own head, if that is a target.
    matrices = {name: tensor for name, tensor in saved if "lora_" in name}
    FORMS[form](folder, base, json.loads((source / CONFIG_FILE).read_text()), matrices)
    return folder
