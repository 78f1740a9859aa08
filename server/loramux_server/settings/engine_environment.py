"""The environment variables that configure vLLM, and its log file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from loramux_server.gpus import PCI_BUS_ORDER
from loramux_server.settings.schema import Settings

_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def export_engine_environment(settings: Settings, machine_defaults: Mapping[str, str]) -> Path:
    """Set vLLM's environment variables, before it is imported; return its log file.

    Variables that the user set stay, except that adapters may only be added through loramux.
    """
    folder = settings.data_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log, log_config = folder / "engine.log", folder / "logging.json"
    handler = {
        "class": "logging.FileHandler",
        "filename": str(log.resolve()),
        "formatter": settings.log.format,
        "filters": ["short"],
    }
    log_config.write_text(
        json.dumps(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {
                    "text": {"format": _FORMAT},
                    "json": {"()": "pythonjsonlogger.json.JsonFormatter", "fmt": _FORMAT, "timestamp": True},
                },
                "filters": {"short": {"()": "loramux_server.engine_log.WithoutExpectedTracebacks"}},
                "handlers": {"file": handler},
                "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
            }
        )
    )
    defaults = {
        "VLLM_LOGGING_CONFIG_PATH": str(log_config.resolve()),
        "VLLM_NO_USAGE_STATS": "1",
        # Detects adapters that compute NaN values. Costs a small model 1 to 2 % of its time.
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Otherwise each metric gets a second series with its creation time, which nothing uses.
        "PROMETHEUS_DISABLE_CREATED_SERIES": "1",
        # These warnings are for vLLM's developers, not for users of a server.
        "PYTHONWARNINGS": "ignore",
        "TORCH_LOGS": "-all",
    }
    for name, value in {**defaults, **machine_defaults}.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0"
    return log


def export_gpu_order() -> None:
    """Have CUDA number GPUs as nvidia-smi does, unless the user set their order; for a trainer without a server."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", PCI_BUS_ORDER)
