"""vLLM's kernels for GPUs keep the slots that they have seen; a growth of the ranks empties these caches."""

import torch
from vllm.lora.ops.triton_ops import utils

from loramux_server.engine.worker.rank_growth import _clear_pointers


def test_slots_that_the_kernels_keep_are_let_go() -> None:
    utils._get_lora_a_ptr([torch.zeros(2, 1, 4, 8), torch.zeros(2, 1, 4, 8)], torch.device("cpu"))
    utils._get_lora_b_ptr([torch.zeros(2, 1, 8, 4), torch.zeros(2, 1, 8, 4)], 0, torch.device("cpu"))
    assert utils._LORA_A_PTR_DICT
    assert utils._LORA_B_PTR_DICT
    _clear_pointers()
    assert not utils._LORA_A_PTR_DICT
    assert not utils._LORA_B_PTR_DICT
