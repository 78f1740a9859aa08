import numpy as np
import pytest
import torch

from loramux_server.engine.worker.cpu_kernels import KERNELS, as_array

EVERY_BFLOAT16 = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def add(y: torch.Tensor, x: torch.Tensor, slot_of: list[int], a: torch.Tensor, b: torch.Tensor) -> None:
    arrays = [as_array(tensor) for tensor in (y, x)] + [np.array(slot_of)] + [as_array(tensor) for tensor in (a, b)]
    KERNELS[y.dtype](*arrays, 1.0)


@pytest.mark.parametrize("addend", [0.0, 2.0**-10, 1.0, -3.0, 2.0**100])
def test_a_sum_is_rounded_as_torch_rounds_it(addend: float) -> None:
    y = EVERY_BFLOAT16.clone().unsqueeze(0)
    expected = (y.float() + addend).bfloat16()
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    b = torch.full((1, y.shape[1], 1), addend, dtype=torch.bfloat16)
    add(y, one, [0], one.unsqueeze(0), b)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y[~y.isnan()], expected[~expected.isnan()])


@pytest.mark.parametrize("dtype", list(KERNELS))
def test_a_part_of_the_outputs_is_changed_and_the_rest_is_left_alone(dtype: torch.dtype) -> None:
    y, x = torch.zeros(2, 6, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    add(y[:, 2:4], x, [1, -1], torch.ones(2, 2, 3, dtype=dtype), torch.ones(2, 2, 2, dtype=dtype))
    assert y.tolist() == [[0, 0, 6, 6, 0, 0], [0] * 6]
