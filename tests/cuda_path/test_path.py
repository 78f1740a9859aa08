"""The engine of these tests runs the code that vLLM runs on a GPU."""

import pytest

from tests.conftest import RealServer

pytestmark = [pytest.mark.cuda_path, pytest.mark.asyncio(loop_scope="session")]


async def test_the_engine_has_the_classes_of_a_gpu(real: RealServer) -> None:
    (path,) = await real.engine.collective_rpc("describe_path", None, (), {})
    assert "vllm.v1.worker.gpu.model_runner" in path["runner"]
    assert "AsyncScheduler" in path["scheduler"]
    assert "ReportingScheduler" in path["scheduler"]
    assert path["async_scheduling"]
    assert path["executor"] == "uni"
    assert path["lora"] == ["PunicaWrapperGPU"]
    assert path["zeroer"] == "KVBlockZeroer"


async def test_the_head_is_not_adapted(real: RealServer) -> None:
    """GPU-3: vLLM 0.32 adapts the logits of prompts by the adapters of other requests, beyond the end of its arrays."""
    (path,) = await real.engine.collective_rpc("describe_path", None, (), {})
    assert "MergedQKVParallelLinearWithLoRA" in path["layers"]
    assert "LogitsProcessorWithLoRA" not in path["layers"]
