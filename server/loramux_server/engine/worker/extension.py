"""What loramux adds to vLLM's worker: vLLM imports this module in each worker process, before the model is loaded."""

from loramux_server.engine.worker import kv_zeroing as clean_blocks  # noqa: F401 - for the workers' side of it
from loramux_server.engine.worker.cpu_lora import install
from loramux_server.engine.worker.lora_loading import BackgroundLoading

install()


class WorkerExtension(BackgroundLoading):
    """Its methods become the worker's, callable through the engine's `collective_rpc`."""

    def lora_wrapper(self) -> str:
        """The name of the class that does LoRA's matrix products in this worker."""
        return type(next(iter(self._adapters.punica_wrapper_mapping.values()))).__name__
