"""The tensors must be exactly those of the adapted modules; what else a tensor is, is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.validation import validate
from loramux_adapters.models import Manifest
from tests.helpers.adapter_files import BASE, Tensors, lora_config, lora_tensors, write_adapter

PREFIX = "base_model.model."
NO_HEAD = "vLLM applies no adapters to this base's head"
HEADLESS = BaseDescription.of(
    {
        path: module.model_copy(update={"refusal": NO_HEAD}) if path in ("lm_head", "model.embed_tokens") else module
        for path, module in BASE.modules.items()
    },
    spec=BASE.spec,
    parameters=BASE.parameters,
)
EXPERTS = BaseDescription.of(
    {
        **BASE.modules,
        **{
            f"model.layers.{layer}.mlp.experts{part}": TargetModule(inputs=16, outputs=n, experts=3, parameter=name)
            for layer in range(2)
            for part, name, n in ((".base_layer", "gate_up_proj", 48), ("", "down_proj", 24))
        },
    },
    spec=BASE.spec,
    parameters=BASE.parameters,
)
SEPARATE = BaseDescription.of(
    {
        f"model.layers.0.mlp.experts.{expert}.{name}": TargetModule(inputs=4, outputs=4)
        for expert in range(2)
        for name in ("gate_proj", "up_proj", "down_proj")
    },
    spec=BASE.spec,
    parameters=BASE.parameters,
)


def matrices(shapes: dict[str, tuple[int, int]]) -> Tensors:
    rng = np.random.default_rng(1)
    return {f"{PREFIX}{name}": (rng.standard_normal(shape) / 10).astype(np.float32) for name, shape in shapes.items()}


VOCABULARY = matrices(
    {
        "lm_head.lora_A.weight": (4, 16),
        "lm_head.lora_B.weight": (64, 4),
        "model.embed_tokens.lora_embedding_A": (4, 64),
        "model.embed_tokens.lora_embedding_B": (16, 4),
    }
)


def accept(folder: Path, tensors: Tensors, base: BaseDescription = BASE, **config: Any) -> Manifest:
    return validate(write_adapter(folder, lora_config(**config), tensors), base, max_rank=8)


def refusal(folder: Path, tensors: Tensors, base: BaseDescription = BASE, **config: Any) -> InvalidAdapter:
    with pytest.raises(InvalidAdapter) as caught:
        accept(folder, tensors, base, **config)
    return caught.value


def test_a_head_and_an_embedding_are_accepted_where_vllm_serves_them(tmp_path: Path) -> None:
    """A6."""
    manifest = accept(
        tmp_path, lora_tensors() | VOCABULARY, target_modules=["q_proj", "v_proj", "lm_head", "embed_tokens"]
    )
    assert manifest.target_modules == ("embed_tokens", "lm_head", "q_proj", "v_proj")
    assert manifest.layers == (0, 1, 2)


def test_a_head_is_refused_by_the_bases_own_reason_where_vllm_does_not_serve_it(tmp_path: Path) -> None:
    """A6."""
    targets = ["q_proj", "v_proj", "lm_head"]
    head = {name: tensor for name, tensor in VOCABULARY.items() if "lm_head" in name}
    error = refusal(tmp_path, lora_tensors() | head, HEADLESS, target_modules=targets)
    assert (error.where, error.problem) == (f"{PREFIX}lm_head", NO_HEAD)


def test_a_head_alone_is_refused_by_the_bases_own_reason(tmp_path: Path) -> None:
    """A6."""
    assert refusal(tmp_path, lora_tensors(), HEADLESS, target_modules=["lm_head"]).problem == NO_HEAD


def test_a_module_that_vllm_does_not_serve_may_be_selected_if_the_file_does_not_change_it(tmp_path: Path) -> None:
    assert accept(tmp_path, lora_tensors(), HEADLESS, target_modules=["q_proj", "v_proj", "lm_head"])


def test_an_embedding_that_is_tied_to_the_head_by_peft_comes_with_the_heads_tensors(tmp_path: Path) -> None:
    """A6."""
    embedding = {name: tensor for name, tensor in VOCABULARY.items() if "embed" in name}
    tied: dict[str, Any] = {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    half = {name: tensor for name, tensor in VOCABULARY.items() if "lm_head.lora_B" not in name}
    assert refusal(tmp_path, half, **tied).where == f"{PREFIX}lm_head.lora_B.weight"
    assert accept(tmp_path, VOCABULARY, **tied).target_modules == ("embed_tokens", "lm_head")
    assert accept(tmp_path, embedding, **tied).target_modules == ("embed_tokens",)  # as on a base that is not tied
    assert accept(tmp_path, embedding, target_modules=["embed_tokens"]).target_modules == ("embed_tokens",)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("model.layers.0.self_attn.k_proj.lora_A.weight", (4, 16), "the config does not select this module"),
        ("lm_head.weight", (64, 16), "a fully trained copy of lm_head: train LoRA"),
        ("model.embed_tokens.weight", (72, 16), "the vocabulary was resized from 64 to 72 tokens"),
        ("lm_head.base_layer.weight", (65, 16), "the vocabulary was resized from 64 to 65 tokens"),
        ("lm_head.modules_to_save.weight", (64, 16), "a fully trained copy of lm_head"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight", (16, 1), "DoRA"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", (16, 1), "a bias in LoRA layers"),
        ("model.layers.0.self_attn.q_proj.bias", (16, 1), "trained biases"),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 16), "trained tokens"),
        ("model.layers.7.self_attn.q_proj.lora_A.weight", (4, 16), "the config and the base have no such module"),
    ],
)
def test_a_tensor_without_a_place_is_refused_by_what_it_is(
    tmp_path: Path, name: str, shape: tuple[int, int], problem: str
) -> None:
    error = refusal(tmp_path, lora_tensors() | matrices({name: shape}))
    assert error.where == f"{PREFIX}{name}"
    assert problem in error.problem


def experts(layers: tuple[int, ...], gate_up_rank: int = 2) -> Tensors:
    return matrices(
        {
            f"model.layers.{layer}.mlp.experts{part}.lora_{matrix}.weight": shape
            for layer in layers
            for part, rank, outputs in ((".base_layer", gate_up_rank, 48), ("", 4, 24))
            for matrix, shape in (("A", (rank * 3, 16)), ("B", (outputs, rank * 3)))
        }
    )


BOTH = ["experts.gate_up_proj", "experts.down_proj"]


def test_the_experts_of_all_layers_are_accepted_with_ranks_of_their_own(tmp_path: Path) -> None:
    manifest = accept(
        tmp_path, experts((0, 1)), EXPERTS, target_modules=[], target_parameters=BOTH, rank_pattern={BOTH[0]: 2}
    )
    assert manifest.target_modules == ("down_proj", "gate_up_proj")


def test_the_experts_of_one_layer_are_accepted(tmp_path: Path) -> None:
    targets = [f"0.mlp.{name}" for name in BOTH]
    assert accept(tmp_path, experts((0,), 4), EXPERTS, target_modules=[], target_parameters=targets).layers == (0,)


@pytest.mark.parametrize("target", BOTH)
def test_experts_that_are_adapted_in_part_are_refused_because_vllm_packs_them(tmp_path: Path, target: str) -> None:
    error = refusal(tmp_path, experts((0, 1)), EXPERTS, target_modules=[], target_parameters=[target])
    assert error.where == f"{PREFIX}model.layers.0.mlp.experts"
    assert "all matrices of a layer's experts or none" in error.problem


@pytest.mark.parametrize(
    ("config", "is_accepted"),
    [
        ({"target_modules": ["gate_proj", "up_proj", "down_proj"]}, True),
        ({"target_modules": ["gate_proj", "up_proj", "down_proj"], "rank_pattern": {"gate_proj": 2}}, True),
        ({"target_modules": ["gate_proj", "up_proj", "down_proj"], "rank_pattern": {"0.gate_proj": 2}}, False),
        ({"target_modules": ["gate_proj", "up_proj"]}, False),
        ({"target_modules": ["0.gate_proj", "0.up_proj", "0.down_proj"]}, False),
    ],
)
def test_separate_experts_need_equal_ranks_and_all_three_matrices(
    tmp_path: Path, config: dict[str, Any], is_accepted: bool
) -> None:
    ranks = config.get("rank_pattern", {})
    targets = config["target_modules"]
    paths = [path for path in SEPARATE.modules if any(path.endswith(f".{target}") for target in targets)]
    rank = {path: next((n for key, n in ranks.items() if path.endswith(key)), 4) for path in paths}
    tensors = matrices(
        {f"{path}.lora_A.weight": (rank[path], 4) for path in paths}
        | {f"{path}.lora_B.weight": (4, rank[path]) for path in paths}
    )
    if is_accepted:
        accept(tmp_path, tensors, SEPARATE, **config)
    else:
        assert "with equal ranks" in refusal(tmp_path, tensors, SEPARATE, **config).problem


def single_experts(layers: tuple[int, ...]) -> BaseDescription:
    """A base whose experts vLLM adapts one by one, in some of its layers."""
    experts = {
        f"model.layers.{layer}.mlp.experts.{expert}.{name}": TargetModule(inputs=16, outputs=16, is_expert=True)
        for layer in layers
        for expert in range(2)
        for name in ("gate_proj", "up_proj", "down_proj")
    }
    return BaseDescription.of({**BASE.modules, **experts}, spec=BASE.spec, parameters=BASE.parameters)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "gate_proj", "up_proj", "down_proj"]])
def test_experts_that_were_no_modules_where_the_adapter_was_trained_may_all_be_absent(
    tmp_path: Path, targets: str | list[str]
) -> None:
    """Since transformers 5, the matrices of all experts are one parameter, which `target_modules` does not select."""
    base = single_experts((0, 1))
    chosen = [path for path in BASE.linear if targets == "all-linear" or path.rpartition(".")[2] in targets]
    others = matrices({f"{path}.lora_A.weight": base.modules[path].shapes(4)[0] for path in chosen}) | matrices(
        {f"{path}.lora_B.weight": base.modules[path].shapes(4)[1] for path in chosen}
    )
    assert accept(tmp_path, others, base, target_modules=targets).layers == (0, 1, 2)
    one = matrices({"model.layers.0.mlp.experts.0.up_proj.lora_A.weight": (4, 16)})
    assert refusal(tmp_path, others | one, base, target_modules=targets).problem == "the tensor is missing"


def test_a_base_without_adapters_refuses_every_adapter_by_its_own_reason(tmp_path: Path) -> None:
    base = BASE.model_copy(update={"refusal": "vLLM serves this base without adapters"})
    assert refusal(tmp_path, lora_tensors(), base).problem == "vLLM serves this base without adapters"
