"""vLLM's platform for CPUs, with the scheduler, the worker and the LoRA kernels of a GPU."""

from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

if TYPE_CHECKING:  # vllm.config imports the platform
    from vllm.config import VllmConfig


class InterpretedCudaPlatform(CpuPlatform):  # type: ignore[misc] # vLLM is not typed
    """Still a CPU's in everything else: vLLM asks it for kernels of attention and of matrix products."""

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Keep asynchronous scheduling, and choose the worker; the environment keeps it in the scheduler's process."""
        super().check_and_update_config(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True
        vllm_config.parallel_config.worker_cls = "tests.helpers.cuda_path.worker.InterpretedWorker"

    @classmethod
    def get_punica_wrapper(cls) -> str:
        """Return the name of the class that computes the products of adapters."""
        return "vllm.lora.punica_wrapper.punica_gpu.PunicaWrapperGPU"
