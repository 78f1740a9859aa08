"""Bases in 4 bits, bases that are served quantized, and which weights are trained on; GPU-10."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from loramux_adapters.finetuning.errors import InsufficientMemory, UnusableBase
from loramux_adapters.finetuning.events import Started
from loramux_adapters.finetuning.recipes.memory_demand import TrainingDevice
from tests.helpers.real_trainer import make_inputs, training_run
from tests.helpers.tiny_base import DESCRIPTION
from tests.helpers.trainer_here import ROOMY, TrainerHere, Training, find_weights, load_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
HIGGS = {"quant_method": "higgs", "bits": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("training"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> TrainerHere:
    return TrainerHere(monkeypatch)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Training:
    with pytest.MonkeyPatch.context() as patch:
        return TrainerHere(patch).run(training_run(folder, "plain"))


def changed_base(folder: Path, name: str, **config: Any) -> Path:
    """A copy of the base with another config."""
    copy = folder / name
    if not copy.exists():
        shutil.copytree(folder / "base", copy)
        document = json.loads((copy / "config.json").read_text()) | config
        (copy / "config.json").write_text(json.dumps(document))
    return copy


def test_a_base_in_4_bits_trains_an_adapter_of_the_same_form(here: TrainerHere, folder: Path, plain: Training) -> None:
    """bitsandbytes has NF4 for CPUs, too; its CUDA kernels are not run."""
    pytest.importorskip("bitsandbytes")
    device = TrainingDevice("cpu", ROOMY.free_bytes, 4, can_load_in_4bit=True)
    models = []
    here.change_trainers(lambda trainer: models.append(trainer.model))
    found = here.run(training_run(folder, "nf4", quantize="always"), [device])
    [started], [model] = found.of_kind(Started), models
    assert started.precision == "4 bits (NF4) and float32"
    assert started.memory == "the base in 4 bits (NF4), as training.quantize demands"
    assert type(model.get_base_model().get_decoder().layers[0].self_attn.k_proj).__name__ == "Linear4bit"
    assert {name: tensor.shape for name, tensor in found.adapter.items()} == {
        name: tensor.shape for name, tensor in plain.adapter.items()
    }
    assert {tensor.dtype for tensor in found.adapter.values()} == {torch.float32}
    assert found.losses == pytest.approx(plain.losses, rel=0.35)
    assert found.losses[-1] < 0.95 * found.losses[0]


@pytest.mark.parametrize(
    ("quantization", "reason"), [(GPTQ, "can't be trained on: .*(gptq|optimum)"), (HIGGS, "higgs|can't be trained on")]
)
def test_quantized_weights_that_can_not_be_trained_on_are_refused_with_the_setting_that_helps(
    here: TrainerHere, folder: Path, quantization: dict[str, Any], reason: str
) -> None:
    base = changed_base(folder, quantization["quant_method"], quantization_config=quantization)
    refused = here.run(training_run(folder, "refused", base=base))
    assert isinstance(refused.error, UnusableBase)
    assert str(refused.error).endswith(
        "set training.base (LORAMUX_TRAINING__BASE) to the folder or Hub id of the unquantized base"
    )
    with pytest.raises(UnusableBase, match=reason):
        raise refused.error
    assert refused.events == []


def test_a_base_that_is_served_quantized_trains_on_its_unquantized_weights(
    here: TrainerHere, folder: Path, plain: Training
) -> None:
    base = changed_base(folder, "gptq", quantization_config=GPTQ)
    run = training_run(folder, "unquantized", base=base, unquantized_base=folder / "base", served_dtype="float16")
    found = here.run(run)
    assert found.losses == plain.losses
    [started] = found.of_kind(Started)
    assert started.precision == "float32 (served in float16)"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 32}, "hidden_size 32.*expected.*hidden_size 16"),
        ({"num_hidden_layers": 2}, "num_hidden_layers 2"),
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "architecture MistralForCausalLM"),
        ({"intermediate_size": 64}, "mlp.gate_proj has 16 inputs and 64 outputs; expected 16 inputs and 32 outputs"),
    ],
)
def test_another_base_is_not_taken_for_the_unquantized_one(
    here: TrainerHere, folder: Path, change: dict[str, Any], reason: str
) -> None:
    other = changed_base(folder, f"other-{next(iter(change))}", **change)
    if "intermediate_size" in change:
        _write_random_weights(other)
    refused = here.run(training_run(folder, "refused", unquantized_base=other))
    with pytest.raises(UnusableBase, match=f"{reason}.*check training.base"):
        raise refused.error or AssertionError


def _write_random_weights(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def test_the_state_of_a_training_on_other_weights_is_not_resumed(here: TrainerHere, folder: Path) -> None:
    state = folder / "weights-state"
    here.run(training_run(folder, "first", state=state), pause_after=3)
    other = folder / "other-weights"
    shutil.copytree(folder / "base", other)
    _write_random_weights(other)
    [started] = here.run(training_run(folder, "first", state=state, unquantized_base=other)).of_kind(Started)
    assert started.resumed_step == 0


def test_weights_that_transformers_can_dequantize_are_dequantized(folder: Path) -> None:
    weights = find_weights(changed_base(folder, "fp8", quantization_config=FP8), None)
    assert weights.is_dequantized
    assert weights.packed_bytes is None
    assert weights.description == "weights dequantized from fp8"


def test_a_base_in_fp8_on_a_gpu_too_small_for_16_bits_is_refused_before_it_is_loaded(
    here: TrainerHere, folder: Path
) -> None:
    """Transformers quantizes no weights again, so 4 bits are no way out."""
    base = changed_base(folder, "fp8", quantization_config=FP8)
    gpu = TrainingDevice("cuda:0", 1, 2, can_load_in_4bit=True)
    refused = here.run(training_run(folder, "refused", base=base), [gpu])
    assert isinstance(refused.error, InsufficientMemory)
    assert "with gradient checkpointing and" in str(refused.error)
    always = here.run(training_run(folder, "refused", base=base, quantize="always"), [gpu])
    assert str(always.error).endswith(
        "the base's weights are quantized already: set training.base to the unquantized base"
    )


def test_a_base_of_compressed_tensors_is_dequantized_and_trained_on(
    here: TrainerHere, folder: Path, plain: Training
) -> None:
    base = _compressed_base(folder)
    weights = find_weights(base, None)
    model = load_model(weights, "cpu", load_in_4bit=False)
    original = load_model(find_weights(folder / "base", None), "cpu", load_in_4bit=False)
    for path in DESCRIPTION.linear:
        found, expected = (one.get_submodule(path).weight for one in (model, original))
        assert found.dtype == expected.dtype
        assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))
    trained = here.run(training_run(folder, "compressed", base=base))
    [started] = trained.of_kind(Started)
    assert "weights dequantized from compressed-tensors" in started.precision
    assert trained.losses == pytest.approx(plain.losses, rel=0.1)


def _compressed_base(folder: Path) -> Path:
    """The base with its linear modules in 8 bits, as llm-compressor writes them."""
    from compressed_tensors.compressors import ModelCompressor  # type: ignore[import-untyped]
    from compressed_tensors.quantization import (  # type: ignore[import-untyped]
        QuantizationConfig,
        apply_quantization_config,
    )
    from transformers import AutoModelForCausalLM

    base = folder / "compressed"
    shutil.copytree(folder / "base", base)
    model = AutoModelForCausalLM.from_pretrained(base)
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    config = QuantizationConfig.model_validate(
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme}}, "ignore": ["lm_head"],
         "format": "pack-quantized", "quantization_status": "frozen"}
    )  # fmt: skip
    apply_quantization_config(model, config)
    for path in DESCRIPTION.linear:
        module = model.get_submodule(path)
        module.weight_scale.data = module.weight.abs().amax(dim=1, keepdim=True) / 127
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    model.save_pretrained(base)
    compressor.update_config(str(base))
    return base
