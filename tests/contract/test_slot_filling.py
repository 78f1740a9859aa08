"""Filling a slot does not let a GPU's step wait long: copies are from pinned memory, and in small pieces."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from loramux_server.engine.worker.lora_loading import MAX_FILL_BYTES, BackgroundLoadingMixin, pin


def test_at_most_32_mebibytes_are_copied_between_two_steps() -> None:
    """GPU-12: only the host's time was bounded, so the device could wait for hundreds of megabytes."""
    matrix = torch.zeros(1 << 20, 2, dtype=torch.float32)  # 8 MiB
    layer = SimpleNamespace(lora_a=[matrix, None], lora_b=[matrix, None])
    copied: list[int] = []
    module = SimpleNamespace(set_lora=lambda *_: copied.append(1), reset_lora=lambda _: None)
    adapters = SimpleNamespace(
        lora_index_to_id=[None],
        _active_adapters={},
        _registered_adapters={1: None},
        _get_lora_layer_weights=lambda _, name: layer if name != "none" else None,
        modules={"none": module} | {str(number): module for number in range(5)},
    )
    worker = BackgroundLoadingMixin()
    worker.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=adapters))  # type: ignore[attr-defined]
    worker._filling[1] = worker._copy_to_slot(1)
    assert [worker.fill_slot(1, 60) for _ in range(3)] == [False, False, True]
    assert len(copied) == 5
    assert 2 * (matrix.nbytes * 2) == MAX_FILL_BYTES


@dataclass
class Memory:
    """A tensor, as far as pinning is concerned: pinned memory needs a GPU's driver."""

    pinned: bool = False

    def is_pinned(self) -> bool:
        return self.pinned

    def pin_memory(self) -> "Memory":
        assert not self.pinned
        return Memory(pinned=True)


def test_packed_and_single_modules_are_pinned_alike() -> None:
    """GPU-11: an adapter of packed modules only, as of q_proj and v_proj, was never pinned."""
    packed = SimpleNamespace(lora_a=[Memory(), None, Memory()], lora_b=[Memory(), None, Memory(pinned=True)])
    single = SimpleNamespace(lora_a=Memory(pinned=True), lora_b=Memory())
    pin(SimpleNamespace(loras={"qkv_proj": packed, "o_proj": single}))
    assert packed.lora_a == packed.lora_b == [Memory(pinned=True), None, Memory(pinned=True)]
    assert single.lora_a == single.lora_b == Memory(pinned=True)
