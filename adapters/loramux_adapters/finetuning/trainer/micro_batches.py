"""Batches in parts that fit into memory: smaller ones after memory ran out, with the same result."""

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]

from loramux_adapters.finetuning.errors import InsufficientMemory
from loramux_adapters.finetuning.recipes.memory import MemoryStrategy

T = TypeVar("T")
Batch = Mapping[str, torch.Tensor]

_log = logging.getLogger(__name__)


def split_batch(batch: Batch, size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield parts of `size` examples of a batch whose tensors are [examples, tokens], cut to their longest example."""
    for parts in zip(*(torch.split(tensor, size) for tensor in batch.values()), strict=True):
        part = dict(zip(batch, parts, strict=True))
        used = part["attention_mask"].any(dim=0).nonzero()
        length = int(used.max()) + 1
        yield {name: tensor[:, :length] for name, tensor in part.items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a GPU or of the machine, could not be allocated."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    # Some libraries of CUDA have errors of their own: of kernels, and for the workspace of cuBLAS.
    text = str(error)
    return should_reduce_batch_size(error) or any(sign in text for sign in ("out of memory", "_ALLOC_FAILED"))


class MemoryFallback:
    """Runs parts of the training that may need too much memory, and saves memory when they do.

    `model` is the base with its adapter. `warn` is called with a sentence for the user. `explain_shortage` returns what
    would fit, as the rest of a sentence, when nothing more can be saved.
    """

    def __init__(
        self,
        model: Any,
        strategy: MemoryStrategy,
        can_checkpoint: bool,
        warn: Callable[[str], None],
        explain_shortage: Callable[[], str],
    ) -> None:
        self._model, self._can_checkpoint = model, can_checkpoint
        self._warn, self._explain_shortage = warn, explain_shortage
        self.micro_batch_size = strategy.micro_batch_size
        self.is_checkpointing = False
        if strategy.gradient_checkpointing:
            self._enable_checkpointing()

    def run(self, work: Callable[[int], T], name: str) -> T:
        """Return what `work` returns for the size of micro-batches; called again with less if memory runs out.

        `work` must add to nothing but gradients, which are dropped before it is called again.

        Raises:
            InsufficientMemory: there is too little memory for a single example.
        """
        while True:
            try:
                return work(self.micro_batch_size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                _log.warning("out of memory in %s: %s", name, error)
            # Here the error is gone, and with it the frames that held the step's tensors.
            self._free()
            self._save_memory(name)

    def _free(self) -> None:
        self._model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _save_memory(self, name: str) -> None:
        if self.micro_batch_size > 1:
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            examples = "1 example" if self.micro_batch_size == 1 else f"{self.micro_batch_size} examples"
            self._warn(f"Memory ran out in {name}: it is repeated, and goes on, with {examples} at a time")
        elif self._can_checkpoint and not self.is_checkpointing:
            self._enable_checkpointing()
            self._warn(f"Memory ran out in {name}: it is repeated, and goes on, with gradient checkpointing")
        else:
            raise InsufficientMemory(f"memory ran out in {name} with one example at a time{self._explain_shortage()}")

    def _enable_checkpointing(self) -> None:
        base = self._model.get_base_model()
        base.gradient_checkpointing_enable({"use_reentrant": False})
        # transformers lets the embedding's output require gradients, which only reentrant checkpoints need: the
        # backward pass would go through the layers below the first adapter, too.
        base.disable_input_require_grads()
        self.is_checkpointing = True
