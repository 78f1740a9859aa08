import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.prefix) / "bin" / "hadolint"
    checked = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_every_file_that_the_dockerfile_copies_is_in_the_build_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for line in (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
        if source != "."
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in allowed), source


@pytest.mark.parametrize(
    "variable",
    [
        "HF_HOME",
        "XDG_CACHE_HOME",
        "VLLM_CACHE_ROOT",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "FLASHINFER_WORKSPACE_BASE",
        "CUDA_CACHE_PATH",
    ],
)
def test_what_a_gpu_compiles_is_kept_in_the_volume(variable: str) -> None:
    """GPU-13: caches were in the home folder, and lost with the container."""
    stage = (ROOT / "Dockerfile").read_text().partition(" AS cuda\n")[2]
    assert re.search(rf"\b{variable}=/data/\w+", stage)
