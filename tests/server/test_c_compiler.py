import shutil
import sys
from pathlib import Path

import pytest

from loramux_server.c_compiler import compiler_problem

WHICH = {name: shutil.which(name) for name in ("gcc", "sh", "as", "ld")}
needs_gcc = pytest.mark.skipif(WHICH["gcc"] is None, reason="this machine has no gcc")


def script(folder: Path, name: str, content: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{WHICH['sh']}\n{content}\n")
    path.chmod(0o755)
    return str(path)


def interpreter(folder: Path, include: Path, version: str = "3.12") -> str:
    """Return an interpreter whose headers are said to be in `include`."""
    return script(folder, "python", f"echo '{include}'\necho {version}")


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").write_text("typedef int PyObject;\n")
    return include


@needs_gcc
def test_triton_can_compile_with_a_compiler_and_the_headers(tmp_path: Path, headers: Path) -> None:
    assert compiler_problem(interpreter(tmp_path, headers)) is None


def test_without_a_compiler_its_package_is_named(tmp_path: Path, headers: Path) -> None:
    """GPU-8: the start failed after 4 GB of downloads."""
    problem = compiler_problem(interpreter(tmp_path, headers), {"PATH": str(tmp_path / "empty")})
    assert problem == (
        "vLLM's kernels need a C compiler, and neither gcc nor clang is there: `apt-get install gcc libc6-dev` "
        "(Fedora, RHEL: `dnf install gcc`)"
    )


def test_without_the_headers_of_the_environments_python_their_package_is_named(tmp_path: Path) -> None:
    """GPU-8: Ubuntu's python3 has none without python3-dev."""
    environ = {"PATH": str(tmp_path / "bin")}
    script(tmp_path / "bin", "clang", "exit 0")
    problem = compiler_problem(interpreter(tmp_path, tmp_path / "include"), environ) or ""
    assert problem.startswith(f"vLLM's kernels need the headers of Python 3.12, and {tmp_path}/include has no Python.h")
    assert "`apt-get install python3.12-dev`" in problem
    assert "`dnf install python3.12-devel`" in problem


@needs_gcc
def test_a_compiler_without_the_c_library_says_what_it_misses(tmp_path: Path, headers: Path) -> None:
    (headers / "Python.h").write_text("#include <no_such_header.h>\n")
    problem = compiler_problem(interpreter(tmp_path, headers)) or ""
    assert "no_such_header.h" in problem
    assert "libc6-dev" in problem


def test_triton_takes_the_compiler_that_cc_names_and_no_other(tmp_path: Path, headers: Path) -> None:
    environ = {"PATH": str(tmp_path / "bin"), "CC": "my-cc"}
    script(tmp_path / "bin", "gcc", "exit 0")
    assert "CC names my-cc" in (compiler_problem(interpreter(tmp_path, headers), environ) or "")
    script(tmp_path / "bin", "my-cc", f'echo "$@" > {tmp_path}/called')
    assert compiler_problem(interpreter(tmp_path, headers), environ) is None
    assert f"-I{headers}" in (tmp_path / "called").read_text()


@pytest.mark.parametrize(("content", "reason"), [("exit 1", "exit code 1"), ("echo it broke >&2; exit 1", "it broke")])
def test_a_compiler_that_fails_is_reported(tmp_path: Path, headers: Path, content: str, reason: str) -> None:
    environ = {"PATH": str(tmp_path / "bin")}
    compiler = script(tmp_path / "bin", "gcc", content)
    problem = compiler_problem(interpreter(tmp_path, headers), environ) or ""
    assert problem.startswith(
        f"the C compiler {compiler} fails ({'it broke' if 'broke' in content else 'exit code 1'})"
    )


def test_a_python_that_can_not_be_run_is_reported(tmp_path: Path) -> None:
    script(tmp_path / "bin", "gcc", "exit 0")
    environ = {"PATH": str(tmp_path / "bin")}
    assert "can't be run" in (compiler_problem(str(tmp_path / "none"), environ) or "")


@needs_gcc
def test_the_interpreter_of_this_test_is_understood() -> None:
    problem = compiler_problem(sys.executable)
    assert problem is None or "Python.h" in problem
