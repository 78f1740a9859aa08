"""What a base takes of memory, as vLLM says, compared with arithmetic on its config, and with a running engine.

Only configs and tokenizers are needed: no weights are in these folders.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.config import CacheConfig
from vllm.engine import arg_utils
from vllm.usage.usage_lib import UsageContext

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.base_memory import BaseMemory
from loramux_server.base_model import ResolvedBase
from loramux_server.described_base import describe_base
from loramux_server.engine.describing.kv_cache_view import samples
from loramux_server.engine.describing.memory_view import can_dequantize
from loramux_server.planning.device import MAX_SHARE, Device
from loramux_server.settings import Settings
from tests.conftest import RealServer
from tests.helpers.chat_templates import CHATML, write_tokenizer
from tests.helpers.cuda_path.environment import is_cuda_path
from tests.helpers.gpu_plans import GIB, GPUS, gpu
from tests.helpers.tiny_bases.bases import write_base

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 32,
    "vocab_size": 128256, "max_position_embeddings": 131072, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
GEMMA_1B = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 1152,
    "intermediate_size": 6912, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "num_hidden_layers": 26, "vocab_size": 262144, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
    "sliding_window": 512, "sliding_window_pattern": 6, "query_pre_attn_scalar": 256,
}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def describe(folder: Path, **engine: Any) -> BaseDescription:
    return describe_base(ResolvedBase(folder, folder.name), Settings(data_dir=folder / "data", engine=engine))


def memory_of(folder: Path, config: Mapping[str, Any] | None = None, **engine: Any) -> BaseMemory:
    if config:
        folder.mkdir()
        write_tokenizer(folder, CHATML)
        (folder / "config.json").write_text(json.dumps(config))
    found = describe(folder, **engine)
    assert found.memory is not None, found.memory_problem
    return found.memory


@pytest.mark.slow
def test_an_8b_base_takes_what_its_config_says(tmp_path: Path) -> None:
    """GPU-4: weights in 4 bits, KV cache, slots, and the operator's own arguments as vLLM reads them."""
    chosen = {"max_model_len": "8k", "max_loras": "7", "gpu_memory_utilization": "0.5", "dtype": "auto"}
    found = memory_of(tmp_path / "llama", LLAMA_8B | {"quantization_config": AWQ}, **chosen)
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    weights = linear / 2 + linear / 128 * (2 + 0.5)  # 4 bits; per group of 128, a scale of 16 bits and a zero of 4
    weights += 2 * (2 * 128256 * 4096 + 65 * 4096)  # embedding, head and norms stay in 16 bits
    weights += 131072 * 128 * 2  # the table of rotary embeddings
    assert found.weight_bytes == pytest.approx(weights, abs=4096)
    assert (found.quantization, found.min_capability) == ("awq", 75)
    assert found.max_context == 131072  # and not the operator's
    assert found.request_bytes(131072) == 16 * GIB
    assert found.bytes_per_token == 131072
    assert found.kv_cache_parts == 8  # KV heads
    assert not found.can_dequantize
    assert found.slot_bytes_per_rank == 2 * (32 * 81920 + 128256 + 4096)
    assert found.head_slot_bytes_per_rank == 2 * (128256 + 4096)
    assert found.values_per_token == 4096 + 28672 * 3 // 2
    assert found.arguments == {"max_model_len": 8000, "max_loras": 7, "gpu_memory_utilization": 0.5}


@pytest.mark.slow
def test_a_sliding_window_ends_the_growth_of_its_layers(tmp_path: Path) -> None:
    """Of 26 layers, 4 see the whole context; each takes 2 x 256 values per token."""
    found = memory_of(tmp_path / "gemma", GEMMA_1B)
    assert found.bytes_per_token == pytest.approx(4 * 2 * 256 * 2, rel=0.02)
    assert found.request_bytes(32768) < 32768 * 26 * 2 * 256 * 2 / 3
    assert found.weight_bytes == pytest.approx(999_885_952 * 2, rel=0.02)  # the head is the embedding


@pytest.mark.slow
def test_latent_attention_stores_its_latents(tmp_path: Path) -> None:
    """DeepSeek's attention has no KV heads in its cache."""
    folder = write_base(tmp_path / "deepseek", "DeepseekV2ForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").unlink()
    per_token = 2 * (config["kv_lora_rank"] + config["qk_rope_head_dim"]) * config["num_hidden_layers"]
    found = memory_of(folder)
    assert found.bytes_per_token == pytest.approx(per_token, rel=0.02)
    assert found.kv_cache_parts == 1  # each GPU has all latents


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dequantizes"),
    [
        ("fp8", True),
        ("mxfp4", True),
        ("compressed-tensors", True),
        ("awq", False),
        ("of-tomorrow", False),
        (None, False),
    ],
)
def test_transformers_says_which_weights_it_dequantizes(method: str | None, dequantizes: bool) -> None:
    config = None if method is None else {"quant_method": method}
    assert can_dequantize(config) is dequantizes


@pytest.mark.slow
def test_a_base_without_adapters_is_planned_too(tmp_path: Path) -> None:
    found = describe(write_base(tmp_path / "gpt2", "GPT2LMHeadModel"))
    assert found.refusal
    assert found.memory is not None
    assert found.memory.slot_bytes_per_rank == 0
    assert found.memory.weight_bytes == pytest.approx(2 * found.parameters, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GPUS, "A100 40", "B200"])
def test_the_steps_of_a_gpu_are_those_that_vllm_chooses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {
        "A100 40": gpu("NVIDIA A100-PCIE-40GB", 40_960, (8, 0)),
        "B200": gpu("NVIDIA B200", 183_359, (10, 0)),
    }
    device: Device = (GPUS | more)[name]
    platform = SimpleNamespace(
        get_device_total_memory=lambda: device.total_bytes,
        get_device_name=lambda: device.name,
        is_device_capability=lambda capability: device.capability == capability,
        is_tpu=lambda: False,
        is_cpu=lambda: False,
    )
    monkeypatch.setattr(arg_utils, "current_platform", platform)
    tokens, requests = (chosen[UsageContext.OPENAI_API_SERVER] for chosen in arg_utils.EngineArgs.get_batch_defaults(1))
    assert (device.batch.tokens, device.batch.requests) == (tokens, requests)


@pytest.mark.slow
def test_the_share_of_a_free_gpu_is_vllms_own() -> None:
    assert CacheConfig().gpu_memory_utilization == MAX_SHARE


@pytest.mark.slow
@pytest.mark.parametrize("block", [16, 128])
@pytest.mark.parametrize("longest", [2, 100, 4096, 131_072])
def test_samples_are_exact_but_for_a_block(block: int, longest: int) -> None:
    """Layers with the whole context, with windows of 512 and 1,000 tokens, and with a state of a fixed size."""

    def size(tokens: int) -> int:
        windows = min(tokens, 512) + min(tokens, 1000)
        return 70_000 + 4 * -(-tokens // block) * block + 22 * -(-windows // block) * block

    points = samples(size, longest)
    found = BaseMemory(weight_bytes=1, dtype="float16", values_per_token=1, max_context=longest, request_samples=points)
    assert len(points) < 40
    for tokens in range(1, longest + 1, max(1, longest // 1000)):
        assert abs(found.request_bytes(tokens) - size(tokens)) <= 2 * size(1)


@pytest.mark.engine
@pytest.mark.cuda_path
@pytest.mark.asyncio(loop_scope="session")
async def test_a_running_engine_takes_what_was_described(real: RealServer) -> None:
    """GPU-4, GPU-13: the blocks that vLLM makes of its KV cache, and the slots that it makes for adapters."""
    memory, config = real.base.memory, real.engine.vllm_config
    assert memory is not None
    width = config.model_config.dtype.itemsize / 2
    block = memory.bytes_per_token * config.cache_config.block_size * width
    assert config.cache_config.num_gpu_blocks == config.cache_config.kv_cache_memory_bytes // block
    ((slots, _),) = await real.engine.collective_rpc("growth_bytes", None, (32,), {})  # twice the rank: as much again
    head = 0 if is_cuda_path() else memory.head_slot_bytes_per_rank  # GPU-3: heads are not adapted on a GPU
    per_rank = memory.slot_bytes_per_rank + head
    assert slots == pytest.approx(config.lora_config.max_loras * 16 * per_rank * width, rel=0.01)
