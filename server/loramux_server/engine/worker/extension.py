"""The worker extension: vLLM imports this module in each worker process, before it loads the model."""

from vllm.platforms import current_platform

from loramux_server.engine.worker import kv_zeroing  # noqa: F401 - importing it enables zeroing in this worker
from loramux_server.engine.worker.embedding_batches import install_flat_embeddings
from loramux_server.engine.worker.fused_layers import install_fused_layers
from loramux_server.engine.worker.lora_loading import BackgroundLoadingMixin
from loramux_server.engine.worker.pattern_lookup import install_pattern_lookup
from loramux_server.engine.worker.rank_growth import RankGrowthMixin
from loramux_server.engine.worker.sleep import SleepMixin, install_refresh

install_pattern_lookup()
install_fused_layers()
install_flat_embeddings()
if current_platform.is_cpu():
    from loramux_server.engine.worker.cpu_experts import install_cpu_experts
    from loramux_server.engine.worker.cpu_lora import install_punica_wrapper
    from loramux_server.engine.worker.prompt_logits import install_prompt_slots

    install_punica_wrapper()
    install_prompt_slots()
    install_cpu_experts()
else:
    from vllm.v1.worker.gpu_worker import Worker

    from loramux_server.engine.worker.gpu_heads import install_gpu_heads

    install_gpu_heads()
    install_refresh(Worker)


class WorkerExtension(BackgroundLoadingMixin, RankGrowthMixin, SleepMixin):
    """Methods that vLLM adds to its worker, callable by `collective_rpc`."""

    def punica_wrapper_name(self) -> str:
        """Return the name of the class that computes LoRA products in this worker."""
        return type(next(iter(self._adapters.punica_wrapper_mapping.values()))).__name__
