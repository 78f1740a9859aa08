"""The correctness parts of the GPU benchmark: one server each, with several checks of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.gpu.checked_base import CheckedModels, write_models
from benchmarks.gpu.checks import CheckResult, Checks, nan_control
from benchmarks.gpu.expected import compute_reference, make_prompts
from benchmarks.gpu.scoring import Prompts, Refused, ScoringClient
from benchmarks.gpu.shapes import read_config, write_base
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.targets import LORAMUX, STOCK, started_server
from loramux_loadtests.servers import ServerFailedError, ServerSetup

MAX_CONTEXT = 512
SMALL_SLOTS: Mapping[str, Any] = {"max_loras": 2, "max_cpu_loras": 3, "max_lora_rank": 8}
"""Fewer than there are adapters, so that they are loaded again and again."""


@dataclass(frozen=True)
class CheckSetup:
    """The options of all correctness parts."""

    scratch: Path
    tokenizer: Path
    arguments: Mapping[str, Any]
    environment: Mapping[str, str]
    shape: Mapping[str, Any]
    blocks: int
    """Blocks of the KV cache: so few that those of one request are soon another's."""
    long_context: Mapping[str, Any]
    """Shape of a base whose context does not fit into the memory."""
    long_context_arguments: Mapping[str, Any]


CheckPart = Callable[[CheckSetup, ProgressLine], Awaitable[list[CheckResult]]]


async def check_loramux(setup: CheckSetup, progress: ProgressLine) -> list[CheckResult]:
    """Check loramux against the reference, next to a stream, and with an adapter that computes NaN."""
    models, prompts = _models_and_prompts(setup, progress)
    progress.begin("computing the reference")
    reference = compute_reference(models, prompts, setup.arguments["dtype"])
    async with started_server(LORAMUX, _server_setup(setup, models), setup.scratch, progress) as target:
        checks = Checks(LORAMUX, ScoringClient(target.url), models.base.name, reference)
        progress.begin(f"{LORAMUX}: checking")
        return [
            await checks.load_next_to_stream(),
            *await checks.same_as_reference(),
            await checks.nan_isolation(),
        ]


async def check_stock(setup: CheckSetup, progress: ProgressLine) -> list[CheckResult]:
    """Ask an adapter that computes NaN of stock vLLM: the negative control."""
    models, prompts = _models_and_prompts(setup, progress)
    async with started_server(STOCK, _server_setup(setup, models), setup.scratch, progress) as target:
        progress.begin(f"{STOCK}: checking")
        return [await nan_control(STOCK, ScoringClient(target.url), models.base.name, prompts)]


async def check_context(setup: CheckSetup, progress: ProgressLine) -> list[CheckResult]:
    """Start loramux on a base whose context does not fit into the memory, without saying which would."""
    dtype = setup.arguments["dtype"]
    base = write_base(setup.scratch / "long-context", setup.tokenizer, setup.long_context, dtype)
    arguments = {name: value for name, value in setup.arguments.items() if name != "max_model_len"}
    server = ServerSetup(base, {}, {**arguments, **setup.long_context_arguments}, setup.environment)
    wanted = setup.long_context["max_position_embeddings"]
    async with started_server(LORAMUX, server, setup.scratch, progress) as target:
        client = ScoringClient(target.url)
        found = await client.max_context(base.name)
        answer = await client.generate(base.name, [11, 12, 13], 4)
    passed = 0 < found < wanted and not isinstance(answer, Refused)
    return [CheckResult("a start on a base whose context does not fit", LORAMUX, passed,
                        f"{found:,} of {wanted:,} tokens")]  # fmt: skip


CHECK_PARTS: Mapping[str, CheckPart] = {
    "correct": check_loramux,
    "nan-stock": check_stock,
    "context": check_context,
}
"""By name, in the order of checking."""


async def run_check_part(name: str, setup: CheckSetup, progress: ProgressLine) -> list[CheckResult]:
    """Run the checks of a part; a server that does not start is a check that failed."""
    server = STOCK if name == "nan-stock" else LORAMUX
    try:
        return await CHECK_PARTS[name](setup, progress)
    except (ServerFailedError, LoadTestError, aiohttp.ClientError) as error:
        return [CheckResult(f"part {name}", server, False, str(error)[-1000:])]


def _models_and_prompts(setup: CheckSetup, progress: ProgressLine) -> tuple[CheckedModels, Prompts]:
    progress.begin("writing a base with known weights")
    models = write_models(setup.scratch / "models", setup.tokenizer, setup.shape, setup.arguments["dtype"])
    return models, make_prompts(int(read_config(models.base)["vocab_size"]))


def _server_setup(setup: CheckSetup, models: CheckedModels) -> ServerSetup:
    arguments = {
        **setup.arguments,
        "load_format": "auto",
        "max_model_len": MAX_CONTEXT,
        "num_gpu_blocks_override": setup.blocks,
        "enable_prefix_caching": False,  # so that every request writes all of its blocks
        **SMALL_SLOTS,
    }
    return without_proof(ServerSetup(models.base, {}, arguments, setup.environment), models.adapters)
