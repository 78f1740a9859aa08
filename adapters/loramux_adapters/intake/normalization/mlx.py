"""Adapters of mlx-lm: adapters.safetensors, and a config with `lora_parameters`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loramux_adapters.base_description import TargetModule
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.normalization.tensor_files import StoredTensor

_REFUSED_TYPES = {
    "dora": "DoRA (fine_tune_type dora) is not supported",
    "full": "the weights are fully trained (fine_tune_type full), not a LoRA: serve them as a base of their own",
}
_OLD_ALPHA = (
    "lora_parameters has both scale and alpha: releases of mlx-lm multiply B·A by scale, or by scale x alpha / rank. "
    "Set scale to the factor that your release used, and remove alpha"
)


class _Parameters(BaseModel):
    model_config = ConfigDict(strict=True)

    rank: Annotated[int, Field(gt=0, le=1 << 16)]
    scale: Annotated[float, Field(gt=0, le=1e6)]
    alpha: float | None = None
    dropout: float = 0.0


class _MlxConfig(BaseModel):
    """The keys that mlx-lm needs to load an adapter."""

    model_config = ConfigDict(strict=True)

    fine_tune_type: str = "lora"
    lora_parameters: _Parameters
    model: str | None = None


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Whether `config` is one of mlx-lm."""
    return "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config)


def peft_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return PEFT's config for that of mlx-lm; which modules are targets, only the tensors say.

    Raises:
        InvalidAdapter: the config is malformed, of no LoRA, or does not say how B·A is scaled.
    """
    if problem := _REFUSED_TYPES.get(str(config.get("fine_tune_type"))):
        raise InvalidAdapter(problem, where=CONFIG_FILE)
    try:
        parsed = _MlxConfig.model_validate(config)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        key = ".".join(map(str, found["loc"]))
        raise InvalidAdapter(f"{key}: {found['msg']}", where=CONFIG_FILE, found=found["input"]) from error
    parameters = parsed.lora_parameters
    if parameters.alpha not in (None, parameters.rank):
        raise InvalidAdapter(_OLD_ALPHA, where=CONFIG_FILE, found=parameters.alpha)
    return {
        "base_model_name_or_path": parsed.model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": parameters.scale * parameters.rank,
        "lora_dropout": parameters.dropout,
        "peft_type": "LORA",
        "r": parameters.rank,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }


def transposed(name: str, tensor: StoredTensor, matrix: str, module: TargetModule, rank: int) -> StoredTensor:
    """Return the matrix A or B of mlx-lm as PEFT's, which is the transposed one.

    Raises:
        InvalidAdapter: its shape is not that for `module` at this rank.
    """
    a, b = module.shapes(rank)
    expected, found = (a if matrix == "A" else b)[::-1], tensor.info.shape
    if len(found) != len(expected):
        raise InvalidAdapter("LoRA on the experts of mlx-lm is not supported", where=name, found=found)
    if found != expected:
        raise InvalidAdapter("the shape is wrong", where=name, expected=expected, found=found)
    return StoredTensor(tensor.file, tensor.info, is_transposed=True)
