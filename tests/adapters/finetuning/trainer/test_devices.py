"""The devices that can train and their dtypes, with faked GPUs; GPU-10."""

from collections.abc import Sequence

import pytest
import torch

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.trainer import devices
from loramux_adapters.finetuning.trainer.devices import candidate_devices, select_dtype

pytestmark = pytest.mark.slow  # imports torch and transformers


def fake_gpus(patch: pytest.MonkeyPatch, *gpus: tuple[int, tuple[int, int]]) -> None:
    """GPUs with these free bytes and compute capabilities."""

    def number(device: str) -> int:
        return int(device.partition(":")[2] or 0)

    patch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    patch.setattr(torch.cuda, "mem_get_info", lambda device: (gpus[number(device)][0], 80 << 30))
    patch.setattr(torch.cuda, "get_device_capability", lambda device: gpus[number(device)][1])
    patch.setattr(devices, "is_bitsandbytes_available", lambda: True)


def names(requested: str) -> Sequence[str]:
    return [device.name for device in candidate_devices(requested)]


def test_auto_prefers_the_gpu_with_the_most_free_memory_and_the_cpu_last(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (2 << 30, (8, 0)), (20 << 30, (8, 9)), (5 << 30, (7, 5)))
    assert names("auto") == ["cuda:1", "cuda:2", "cuda:0", "cpu"]
    assert [device.can_load_in_4bit for device in candidate_devices("auto")] == [True, True, True, False]
    assert [device.free_bytes >> 30 for device in candidate_devices("auto")][:3] == [20, 5, 2]


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch)
    assert names("auto") == ["cpu"]


def test_a_named_device_is_the_only_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, (1, (8, 0)), (1, (8, 0)))
    assert [names(device) for device in ("cpu", "cuda", "cuda:1")] == [["cpu"], ["cuda"], ["cuda:1"]]


@pytest.mark.parametrize("device", ["cuda:2", "cuda:-1", "cuda:x", "tpu", "", "cpu:1", "cuda:0:1"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    fake_gpus(monkeypatch, (1, (8, 0)), (1, (8, 0)))
    with pytest.raises(TrainingError, match="one of this machine's 2 GPUs"):
        candidate_devices(device)


BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120", "compute_120"]


def test_auto_skips_a_gpu_for_which_pytorch_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU-7: CUDA 13 has none for a P40, whatever memory is free there."""
    fake_gpus(monkeypatch, (2 << 30, (8, 9)), (23 << 30, (6, 1)))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)
    assert names("auto") == ["cuda:0", "cpu"]
    with pytest.raises(TrainingError, match=r"^cuda:1 has compute capability 6\.1, .* kernels for sm_75, .* only; set"):
        candidate_devices("cuda:1")


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 0), False),
        ((7, 5), True),
        ((8, 9), True),
        ((9, 0), True),
        ((10, 0), False),
        ((12, 1), True),
        ((13, 0), True),
    ],
)
def test_machine_code_runs_on_later_minor_versions_and_ptx_on_all(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool
) -> None:
    fake_gpus(monkeypatch, (1 << 30, capability))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)
    assert (names("auto") == ["cuda:0", "cpu"]) is runs


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((7, 5), torch.float16),  # T4
        ((7, 0), torch.float16),
        ((8, 0), torch.bfloat16),
        ((8, 9), torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
)
def test_a_gpu_that_emulates_bfloat16_trains_in_float16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    fake_gpus(monkeypatch, (1, capability))
    assert select_dtype("cuda:0") is dtype


@pytest.mark.parametrize(("flag", "dtype"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_a_cpu_trains_in_bfloat16_if_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, flag: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert select_dtype("cpu") is dtype
