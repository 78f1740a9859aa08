"""The largest rank of adapters in the engine, which grows with the adapters that are added."""

import asyncio
from contextlib import nullcontext
from typing import Any

from vllm.config import CompilationMode, CUDAGraphMode

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_server.engine.admission import UseEngine
from loramux_server.engine.lora_ranks import LORA_RANKS, max_lora_rank

SETTING = "LORAMUX_ENGINE__MAX_LORA_RANK"
MAX_MEMORY_SHARE = 0.5
"""The share of the free memory that a higher limit may take."""


class RankLimit:
    """The engine's `max_lora_rank`.

    With `grows`, it rises to what an adapter needs, as far as memory allows; see `worker.rank_growth`.
    """

    def __init__(self, engine: Any, current: int, *, grows: bool = False, use: UseEngine = nullcontext) -> None:
        self._engine = engine
        self._use = use
        self._grows = grows
        self._lock = asyncio.Lock()
        self.current = current

    @property
    def maximum(self) -> int:
        """The largest rank that an adapter may have, if there is memory for it."""
        return LORA_RANKS[-1] if self._grows else self.current

    async def ensure(self, rank: int) -> None:
        """Let the engine serve adapters of `rank`.

        Raises:
            InvalidAdapter: the limit does not grow, or there is not enough memory.
            EngineAsleep: the limit has to grow, and the engine is asleep.
        """
        async with self._lock:
            if rank > self.maximum:
                raise _refused(rank, self.maximum, f"the rank is above the engine's limit ({SETTING})")
            if rank > self.current:
                with self._use():
                    await self._grow(rank, max_lora_rank([rank]))

    async def _grow(self, rank: int, limit: int) -> None:
        memory = await self._call("growth_bytes", limit)
        required, free = max(memory, key=lambda worker: worker[0] - MAX_MEMORY_SHARE * worker[1])
        if required > MAX_MEMORY_SHARE * free:
            raise _refused(rank, self.current, _not_enough(limit, required, free))
        try:
            await self._call("set_max_rank", limit)
        except Exception as error:
            await self._call("set_max_rank", self.current)
            raise _refused(rank, self.current, _not_enough(limit, required, free)) from error
        self.current = limit

    async def _call(self, method: str, rank: int) -> list[Any]:
        results: list[Any] = await self._engine.collective_rpc(method, None, (rank,), {})
        return results


def can_grow(engine: Any) -> bool:
    """Whether vLLM's slots can be made again while the engine runs: not if the model is compiled or captured."""
    config = getattr(engine, "vllm_config", None)
    if config is None or config.lora_config is None:
        return False
    compilation = config.compilation_config
    return bool(compilation.mode == CompilationMode.NONE and compilation.cudagraph_mode == CUDAGraphMode.NONE)


def _not_enough(limit: int, required: int, free: int) -> str:
    return (
        f"the rank is above the engine's limit ({SETTING}); a limit of {limit} takes {_gigabytes(required)} more, but "
        f"at most half of the free {_gigabytes(free)} are used"
    )


def _refused(rank: int, limit: int, problem: str) -> InvalidAdapter:
    return InvalidAdapter(problem, where=CONFIG_FILE, expected=f"at most {limit}", found=rank)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
