"""vLLM's Triton kernels alone, interpreted: LoRA products, with vLLM's own sizes of tiles, and zeroed blocks."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.config.lora import LoRAConfig
from vllm.lora.layers import LoRAMapping
from vllm.lora.ops.triton_ops import utils as lora_kernels

from loramux_server.engine.worker.rank_growth import _clear_pointers
from tests.helpers.cuda_path.environment import is_cuda_path

pytestmark = [
    pytest.mark.cuda_path,
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning"),  # numpy, which interprets
]
if is_cuda_path():
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

    from tests.helpers.cuda_path.worker import interpreted_tiles  # replaces CUDA's streams, too, as in the engine

SLOTS, RANK, INPUTS, VOCABULARY = 3, 8, 40, 64
SLICES = (32, 16, 16)
"""The outputs of a packed layer of unequal parts."""
TOKEN_SLOTS = [0, -1, 1, 0, 2, -1, 1, 0]
"""The slot of each token of a batch; -1 is the base."""
DTYPE = torch.float16

Weights = tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]


def wrapper(token_slots: list[int], request_slots: list[int] | None = None) -> Any:
    """Return vLLM's wrapper in a step of these tokens and requests."""
    config = LoRAConfig(max_lora_rank=RANK, max_loras=SLOTS, max_cpu_loras=SLOTS)
    punica = PunicaWrapperGPU(64, 64, torch.device("cpu"), lora_config=config)
    # Adapter n is in slot n - 1, and 0 is the base.
    requests = token_slots if request_slots is None else request_slots
    tokens, rows = (tuple(slot + 1 for slot in slots) for slots in (token_slots, requests))
    punica.update_metadata(LoRAMapping(tokens, rows, is_prefill=True), [1, 2, 3], SLOTS, VOCABULARY)
    return punica


@pytest.fixture
def weights() -> Weights:
    random = torch.Generator().manual_seed(3)
    a = tuple(torch.randn(SLOTS, 1, RANK, INPUTS, generator=random).to(DTYPE) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, width, RANK, generator=random).to(DTYPE) for width in SLICES)
    return a, b


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Larger tiles than vLLM's, to be quick; one test has vLLM's."""
    monkeypatch.setattr(lora_kernels, "load_lora_op_config", interpreted_tiles)
    lora_kernels.get_lora_op_configs.cache_clear()
    yield
    lora_kernels.get_lora_op_configs.cache_clear()
    _clear_pointers()  # of memory that the next test may get


def batch(tokens: int = len(TOKEN_SLOTS)) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(4)
    return tuple(torch.randn(tokens, width, generator=random).to(DTYPE) for width in (INPUTS, sum(SLICES)))  # type: ignore[return-value]


def added(weights: Weights, x: torch.Tensor, y: torch.Tensor, token_slots: list[int]) -> torch.Tensor:
    """Return `y` after the kernels have added the products of each token's slot."""
    y = y.clone()
    wrapper(token_slots).add_lora_linear(y, x, *weights, 0.5, SLICES)
    return y


def expected(weights: Weights, x: torch.Tensor, y: torch.Tensor, token_slots: list[int]) -> torch.Tensor:
    """Return the same by the formula, token by token."""
    rows, pairs = [], list(zip(*weights, strict=True))
    for token, slot in enumerate(token_slots):
        row = x[token].float()
        products = [0.5 * (row @ a[slot, 0].float().T) @ b[slot, 0].float().T for a, b in pairs]
        rows.append(y[token].float() + (torch.cat(products) if slot >= 0 else 0))
    return torch.stack(rows)


@pytest.mark.parametrize("token_slots", [TOKEN_SLOTS, [2] * 5, [1], [0, 1, 2], [-1, -1, 2]], ids=str)
def test_each_token_gets_its_own_adapter_and_the_base_gets_none(weights: Weights, token_slots: list[int]) -> None:
    x, y = batch(len(token_slots))
    found = added(weights, x, y, token_slots)
    torch.testing.assert_close(found.float(), expected(weights, x, y, token_slots), rtol=1e-2, atol=2e-2)
    of_base = [token for token, slot in enumerate(token_slots) if slot < 0]
    assert torch.equal(found[of_base], y[of_base])


@pytest.mark.usefixtures("few_programs")
def test_a_batch_of_the_base_alone_is_untouched_while_all_slots_are_in_use(weights: Weights) -> None:
    x, y = batch()
    assert torch.equal(added(weights, x, y, [-1] * len(TOKEN_SLOTS)), y)


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.finfo(DTYPE).max], ids=str)
@pytest.mark.usefixtures("few_programs")
def test_a_slot_of_such_values_changes_no_bit_of_other_rows_and_is_clean_when_reset(
    weights: Weights, value: float
) -> None:
    x, y = batch()
    sound, kept = added(weights, x, y, TOKEN_SLOTS), [matrix[1].clone() for matrices in weights for matrix in matrices]
    for matrices in weights:
        for matrix in matrices:
            matrix[1] = value
    found = added(weights, x, y, TOKEN_SLOTS)
    others = [token for token, slot in enumerate(TOKEN_SLOTS) if slot != 1]
    assert torch.equal(found[others], sound[others])
    assert not found[2].isfinite().all()
    for matrix, values in zip([matrix for matrices in weights for matrix in matrices], kept, strict=True):
        matrix[1] = 0
        matrix[1] = values
    assert torch.equal(added(weights, x, y, TOKEN_SLOTS), sound)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.usefixtures("few_programs")
def test_activations_of_such_values_change_no_bit_of_other_rows(weights: Weights, value: float) -> None:
    x, y = batch()
    sound = added(weights, x, y, TOKEN_SLOTS)
    x[2] = value
    found = added(weights, x, y, TOKEN_SLOTS)
    assert torch.equal(found[[0, 1, 3, 4, 5, 6, 7]], sound[[0, 1, 3, 4, 5, 6, 7]])


@pytest.mark.usefixtures("few_programs")
def test_each_token_gets_the_embedding_of_its_own_adapter(weights: Weights) -> None:
    _, (b, *_) = weights
    rows, y = torch.randn(len(TOKEN_SLOTS), RANK).to(DTYPE), torch.zeros(len(TOKEN_SLOTS), SLICES[0], dtype=DTYPE)
    wrapper(TOKEN_SLOTS).add_lora_embedding(y, rows, b)
    for token, slot in enumerate(TOKEN_SLOTS):
        right = rows[token].float() @ b[slot, 0].float().T if slot >= 0 else torch.zeros(SLICES[0])
        torch.testing.assert_close(y[token].float(), right, rtol=1e-2, atol=2e-2)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("are_forgotten", [True, False])
def test_slots_of_another_rank_at_the_addresses_of_former_ones_are_read_right_if_those_are_forgotten(
    are_forgotten: bool,
) -> None:
    """A growth of the ranks frees slots and makes new ones; without the growth's last step, it goes wrong."""
    _clear_pointers()
    memory = [torch.zeros(SLOTS * RANK * max(INPUTS, *SLICES), dtype=DTYPE) for _ in range(2 * len(SLICES))]
    x, y = batch()
    for rank in (RANK, RANK // 2):
        shapes = [(SLOTS, 1, rank, INPUTS)] * len(SLICES) + [(SLOTS, 1, width, rank) for width in SLICES]
        slots = [part[: math.prod(shape)].view(shape) for part, shape in zip(memory, shapes, strict=True)]
        for slot in slots:
            slot.copy_(torch.randn(slot.shape, generator=torch.Generator().manual_seed(rank)))
        weights = (tuple(slots[: len(SLICES)]), tuple(slots[len(SLICES) :]))
        found = added(weights, x, y, TOKEN_SLOTS)
        if are_forgotten:
            _clear_pointers()
    is_right = torch.allclose(found.float(), expected(weights, x, y, TOKEN_SLOTS), rtol=1e-2, atol=2e-2)
    assert is_right == are_forgotten


def test_logits_of_more_rows_than_a_piece_has_would_be_written() -> None:
    """GPU-3: why heads are left alone. If this fails, vLLM bounds them, and `gpu_heads` may go."""
    piece = wrapper([0] * 12, [0] * 12).prompt_mapping_meta.meta_args(5, specialize_active_lora=False)
    mapping, _, tokens_per_lora, *_ = piece
    assert len(mapping) == 5
    assert int(tokens_per_lora.sum()) == 12  # the kernel's only bound


def test_exactly_the_given_blocks_are_zeroed() -> None:
    from vllm.v1.kv_cache_interface import FullAttentionSpec
    from vllm.v1.worker.utils import KVBlockZeroer

    spec = FullAttentionSpec(block_size=16, num_kv_heads=2, head_size=32, dtype=DTYPE)
    caches = {name: torch.full((6, 2, 16, 64), math.nan, dtype=DTYPE) for name in ("first", "second")}
    group = SimpleNamespace(kv_cache_spec=spec, kv_cache_group_id=0, layer_names=list(caches), kernel_block_stride=0)
    layers = {name: SimpleNamespace(kv_cache=cache) for name, cache in caches.items()}
    KVBlockZeroer(torch.device("cpu"), [group], [16], layers, 6).zero_block_ids([4, 1])
    for cache in caches.values():
        assert [bool(block.isnan().all()) for block in cache] == [True, False, True, True, False, True]
        assert not cache[[1, 4]].any()
