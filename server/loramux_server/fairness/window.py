"""The window of runs that the engine has: no more than it can start at once, so that nothing queues inside of it."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

STEPS_AHEAD = 2
"""Steps for which prompts may be in the engine: vLLM schedules the next step before the present one has ended."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run takes of the engine."""

    prompt_tokens: int
    sequences: int
    version: Hashable | None = None
    """The adapter version, None for the base."""


@dataclass(frozen=True, slots=True)
class WindowSize:
    """The size of the window, which is what the engine can have in one step."""

    sequences: int
    prompt_tokens: int
    """Tokens of one step."""
    versions: int
    """Adapter versions in one step."""

    @property
    def max_reserve(self) -> int:
        """Most sequences that are kept free for light users: a quarter, none of few."""
        return 4 * (self.sequences // 16)

    @property
    def batch_reserve(self) -> int:
        """Sequences that batches always leave to others."""
        return self.sequences // 4


@dataclass(eq=False)
class EngineWindow:
    """The runs in the engine, and whether one more fits."""

    size: WindowSize
    sequences: int = 0
    waiting_prompt_tokens: int = 0
    """Tokens of the prompts without a first token yet."""
    _versions: Counter[Hashable] = field(default_factory=Counter)

    def fits(self, demand: Demand, reserve: int) -> bool:
        """Whether a run fits, with `reserve` sequences left free; any run fits into an empty engine."""
        if not self.sequences:
            return True
        has_prompt_room = (
            not self.waiting_prompt_tokens
            or self.waiting_prompt_tokens + demand.prompt_tokens <= STEPS_AHEAD * self.size.prompt_tokens
        )
        return (
            self.sequences + demand.sequences <= self.size.sequences - reserve
            and has_prompt_room
            and (demand.version is None or demand.version in self._versions or len(self._versions) < self.size.versions)
        )

    @property
    def is_full(self) -> bool:
        """Whether no run at all fits."""
        return self.sequences >= self.size.sequences

    def enter(self, demand: Demand) -> None:
        """Count a run that is handed to the engine."""
        self.sequences += demand.sequences
        self.waiting_prompt_tokens += demand.prompt_tokens
        if demand.version is not None:
            self._versions[demand.version] += 1

    def start(self, demand: Demand) -> None:
        """Count the first token of a run."""
        self.waiting_prompt_tokens -= demand.prompt_tokens

    def leave(self, demand: Demand) -> None:
        """Count the end of a run, which has started."""
        self.sequences -= demand.sequences
        if demand.version is not None:
            self._versions[demand.version] -= 1
            if not self._versions[demand.version]:
                del self._versions[demand.version]
