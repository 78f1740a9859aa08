"""What a training run needs on a device, with each strategy that saves memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.recipes.memory import MemoryStrategy, TrainingSize, leanest_strategy, required_bytes
from loramux_adapters.finetuning.recipes.recipe import Recipe

Quantize = Literal["auto", "never", "always"]
"""Whether the base is trained on in 4 bits: where it does not fit otherwise, never, or always."""


@dataclass(frozen=True)
class TrainingDevice:
    """A device that can train: its free memory, and how it holds the weights of a base."""

    name: str
    """`cpu` or `cuda:N`."""
    free_bytes: int
    bytes_per_parameter: int
    """Of the dtype in which it trains."""
    can_load_in_4bit: bool = False
    """Whether bitsandbytes is installed and runs on it."""

    @property
    def is_gpu(self) -> bool:
        """Whether the engine's GPU memory and 4-bit weights are worth a word."""
        return self.name.startswith("cuda")


@dataclass(frozen=True)
class MemoryDemand:
    """A training run as far as memory is concerned: base, recipe, and the longest example and answer, in tokens."""

    base: BaseDescription
    recipe: Recipe
    max_example_tokens: int
    max_answer_tokens: int
    can_checkpoint: bool = True
    """Whether transformers has gradient checkpointing for the base's architecture."""
    is_quantized: bool = False
    """Whether the weights in the base's folder are quantized: then no library quantizes them to 4 bits."""
    packed_weights_bytes: int | None = None
    """Size of quantized weights that stay so; None if they are dequantized, or not quantized."""

    @classmethod
    def expected(
        cls, base: BaseDescription, recipe: Recipe, max_example_tokens: int, max_answer_tokens: int
    ) -> "MemoryDemand":
        """Return the demand of a training on the weights that are served, as far as the base's description says it."""
        memory = base.memory
        if memory is None or memory.quantization is None or memory.is_quantized_on_load:
            return cls(base, recipe, max_example_tokens, max_answer_tokens, base.can_checkpoint)
        packed = None if memory.can_dequantize else memory.weight_bytes
        return cls(base, recipe, max_example_tokens, max_answer_tokens, base.can_checkpoint, True, packed)

    def required_bytes(self, device: TrainingDevice, strategy: MemoryStrategy) -> int:
        """Return an upper estimate of the bytes that training needs on the device."""
        size = TrainingSize(
            parameters=self.base.parameters,
            bytes_per_parameter=device.bytes_per_parameter,
            max_example_tokens=self.max_example_tokens,
            max_answer_tokens=self.max_answer_tokens,
            packed_weights_bytes=self.packed_weights_bytes,
        )
        return required_bytes(self.base, self.recipe, size, strategy)

    def can_load_in_4bit(self, device: TrainingDevice) -> bool:
        """Whether the base can be held in 4 bits on the device."""
        return device.can_load_in_4bit and not self.is_quantized

    def strategies(self, device: TrainingDevice, quantize: Quantize) -> Iterator[MemoryStrategy]:
        """Yield the strategies for a device, best first: plain, checkpointing, smaller micro-batches, 4 bits.

        None if `quantize` is `always` and the device can't hold the base in 4 bits.
        """
        if quantize != "always":
            yield from self._in_precision(load_in_4bit=False)
        if quantize != "never" and self.can_load_in_4bit(device):
            yield from self._in_precision(load_in_4bit=True)

    def leanest(self, device: TrainingDevice, quantize: Quantize) -> MemoryStrategy:
        """Return the strategy with the smallest need on the device."""
        in_4bit = quantize != "never" and self.can_load_in_4bit(device)
        return leanest_strategy(load_in_4bit=in_4bit, gradient_checkpointing=self.can_checkpoint)

    def with_unquantized_base(self) -> "MemoryDemand":
        """Return the demand if the base's unquantized weights were trained on."""
        return replace(self, is_quantized=False, packed_weights_bytes=None)

    def with_examples_of(self, tokens: int) -> "MemoryDemand":
        """Return the demand if no example had more tokens."""
        return replace(
            self,
            max_example_tokens=min(tokens, self.max_example_tokens),
            max_answer_tokens=min(tokens, self.max_answer_tokens),
        )

    def with_last_layers(self, layers: int) -> "MemoryDemand":
        """Return the demand of a training with this number of adapted layers."""
        return replace(self, recipe=self.recipe.model_copy(update={"last_layers": layers}))

    def _in_precision(self, *, load_in_4bit: bool) -> Iterator[MemoryStrategy]:
        batch = self.recipe.batch_size
        yield MemoryStrategy(batch, gradient_checkpointing=False, load_in_4bit=load_in_4bit)
        for size in _halved(batch):
            if self.can_checkpoint or size < batch:
                yield MemoryStrategy(size, self.can_checkpoint, load_in_4bit)


def _halved(size: int) -> Iterator[int]:
    """Yield a size and its halves, rounded up, down to 1."""
    yield size
    while size > 1:
        size = -(-size // 2)
        yield size
