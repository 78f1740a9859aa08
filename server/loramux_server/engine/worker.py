"""What loramux adds to vLLM's worker: vLLM imports this module in each worker process, before the model is loaded."""

from loramux_server.engine.cpu_lora import install

install()


class WorkerExtension:
    """Its methods become the worker's, callable through the engine's `collective_rpc`."""

    def lora_wrapper(self) -> str:
        """The name of the class that does LoRA's matrix products in this worker."""
        manager = self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]
        return type(next(iter(manager.punica_wrapper_mapping.values()))).__name__
