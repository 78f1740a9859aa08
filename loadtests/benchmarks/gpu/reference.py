"""Log-probabilities of prompts by transformers and PEFT, without vLLM: `python -m benchmarks.gpu.reference`.

It reads a request as JSON from its standard input and writes the answer to its standard output. A process of its own
leaves the GPU's memory to the server when it exits.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Logprobs = list[list[float]]
"""Of each prompt's tokens from the second on."""


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log-probabilities of the prompts by route, exact ones and those in the served type.

    The exact ones are in float32, with adapters merged by hand. The others are PEFT's, or without PEFT those of the
    merged weights; `by` says which.
    """
    prompts, base = request["prompts"], Path(request["base"])
    exact, served = {}, {}
    by, has_peft = "merged weights", _has_peft()
    for name, folder in {"base": None, **request["adapters"]}.items():
        exact[name] = _logprobs(_merged(_load(base, torch.float32), folder), prompts)
        if folder and has_peft:
            by = "PEFT"
            served[name] = _logprobs(_with_peft(_load(base, _dtype(request)), folder), prompts)
        else:
            served[name] = _logprobs(_merged(_load(base, _dtype(request)), folder), prompts)
    return {"exact": exact, "served": served, "by": by, "device": _device()}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(request: Mapping[str, Any]) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, request["dtype"])
    return dtype


def _load(base: Path, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForCausalLM  # here, because some machines have only what vLLM needs

    model: nn.Module = AutoModelForCausalLM.from_pretrained(base, local_files_only=True).to(dtype).to(_device()).eval()
    return model


def _has_peft() -> bool:
    try:
        import peft  # noqa: F401
    except ImportError:
        return False
    return True


def _with_peft(model: nn.Module, folder: str) -> nn.Module:
    from peft import PeftModel

    adapted: nn.Module = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
    return adapted


def _merged(model: nn.Module, folder: str | None) -> nn.Module:
    """Add the product of each pair of matrices to the weights that it changes."""
    if folder is None:
        return model
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / config["r"]
    tensors = load_file(Path(folder) / "adapter_model.safetensors", device=_device())
    for key in (key for key in tensors if ".lora_A." in key):
        product = tensors[key.replace(".lora_A.", ".lora_B.")].double() @ tensors[key].double()
        path = key.removeprefix("base_model.model.").partition(".lora_A.")[0]
        weight = model.get_submodule(path).weight
        weight.data = (weight.data.double() + scaling * product).to(weight.dtype)
    return model


@torch.inference_mode()
def _logprobs(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Logprobs:
    return [_of_prompt(model, torch.tensor([prompt], device=_device())) for prompt in prompts]


def _of_prompt(model: nn.Module, tokens: Tensor) -> list[float]:
    logprobs = model(tokens).logits[0, :-1].float().log_softmax(-1)
    found: list[float] = logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist()
    return found


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    with redirect_stdout(sys.stderr):
        result = answer(json.load(sys.stdin))
    json.dump(result, sys.stdout)
