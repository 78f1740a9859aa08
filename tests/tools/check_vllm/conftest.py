from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from zipfile import ZipFile

import pytest

WriteWheel = Callable[[dict[str, str]], Path]


@pytest.fixture
def write_wheel(tmp_path: Path) -> WriteWheel:
    """Return a function that writes a wheel with these modules of vLLM, by path."""

    def write(modules: dict[str, str]) -> Path:
        path = tmp_path / f"vllm-{len(modules)}.whl"
        with ZipFile(path, "w") as wheel:
            wheel.writestr("vllm/__init__.py", "")
            wheel.writestr("vllm/envs.py", "VLLM_USE_THIS = False\n")
            wheel.writestr("vllm/_C.abi3.so", b"a kernel" * 1000)
            for name, source in modules.items():
                wheel.writestr(f"vllm/{name}", dedent(source))
        return path

    return write


@pytest.fixture
def write_project(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a project with one module of the engine."""

    def write(source: str) -> Path:
        path = tmp_path / "project" / "server" / "loramux_server" / "engine" / "ours.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
        return tmp_path / "project"

    return write
