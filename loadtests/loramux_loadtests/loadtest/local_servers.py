"""Base model, vLLM arguments and environment of the servers that are started on this machine to be measured."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loramux_loadtests.servers import ServerSetup, loramux_spec, running

DATA_DIR = Path(".loramux")
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 32,
    "kv_cache_memory_bytes": 2 << 30,
    "max_loras": 4,
    "max_cpu_loras": 8,
    "max_lora_rank": 16,
}
"""All vLLM arguments that matter for speed, set for both servers, so that no default decides a comparison."""
ENVIRONMENT = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_NO_USAGE_STATS": "1"}
"""What loramux sets for vLLM on a machine with two cores, set for both: all cores compute, no usage statistics."""


async def demo_base(report_progress: Callable[[str], object]) -> Path:
    """Return the folder of the demo's base model. If it does not exist, start loramux once, which creates it.

    Raises:
        ServerFailedError: loramux did not start.
    """
    bases = DATA_DIR / "bases"
    if not any(bases.glob("*/config.json")):
        report_progress("starting loramux once to create the demo's base model")
        with tempfile.TemporaryDirectory(prefix="loramux-base-") as scratch:
            async with running(
                loramux_spec(ServerSetup(Path("demo"), {}, ENGINE, ENVIRONMENT), DATA_DIR), Path(scratch) / "log"
            ):
                pass
    return next(bases.glob("*/config.json")).parent.resolve()


def without_proof(setup: ServerSetup, adapters: Mapping[str, Path]) -> ServerSetup:
    """Return `setup` with `adapters`, which loramux registers without proving their effect: thousands take hours."""
    return replace(setup, adapters=adapters, environment={**setup.environment, "LORAMUX_PROOF": "false"})
