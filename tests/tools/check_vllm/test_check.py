"""What breaks with a version of vLLM is found: on small made-up wheels, and nothing on the installed version."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from tools.check_vllm.__main__ import main, report
from tools.check_vllm.check import ENGINE, all_uses, breaks, environment_breaks
from tools.check_vllm.declared import DECLARED
from tools.check_vllm.sources import Sources
from tools.check_vllm.wheel import unpack
from tools.setup import ROOT

Write = Callable[[dict[str, str]], Path]
WriteProject = Callable[[str], Path]
CLI_ARGS = "def make_arg_parser(parser): ...\n"
BEFORE_033 = """
    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    except ImportError:
        from vllm.entrypoints.openai.cli_args import make_arg_parser
"""
WITH_033 = f"""
    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser
    except ImportError:
{BEFORE_033.replace(chr(10), chr(10) + "    ")}
"""


@pytest.fixture
def unpacked(tmp_path: Path, write_wheel: Write) -> Callable[[dict[str, str]], Path]:
    """Return a function that unpacks a wheel with these modules."""

    def write(modules: dict[str, str]) -> Path:
        if not (tmp_path / "sources").exists():
            unpack(str(write_wheel(modules)), tmp_path / "sources", {})
        return tmp_path / "sources"

    return write


def found(sources: Path, project: Path, declared: dict[str, str] | None = None) -> list[str]:
    """Return what breaks, in lines."""
    return [str(each) for each in breaks(Sources(sources), all_uses(project, declared or {}))]


def test_the_break_of_033_is_found_where_its_new_place_is_not_known(
    unpacked: Write, write_project: WriteProject, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPU-14: vLLM 0.33 moved `cli_args`, and loramux did not start on it."""
    of_033 = unpacked({"entrypoints/common/cli_args.py": CLI_ARGS})
    assert report(of_033, write_project(BEFORE_033), {}) == 1
    assert capsys.readouterr().out == (
        "server/loramux_server/engine/ours.py:3: vllm.entrypoints.launchers.cli_args.make_arg_parser is not there\n"
        "sources: 1 of 1 uses break\n"
    )
    assert report(of_033, write_project(WITH_033), {}) == 0
    assert "all 1 uses are there" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["common", "launchers", "openai"])
def test_one_of_several_places_of_a_name_is_enough(unpacked: Write, write_project: WriteProject, place: str) -> None:
    assert found(unpacked({f"entrypoints/{place}/cli_args.py": CLI_ARGS}), write_project(WITH_033)) == []


BY_BRANCH = """
    try:
        from vllm.new import size, make
        def kv_bytes(config): return size(make(config), config)
    except ImportError as error:
        from vllm.old import size
        def kv_bytes(config): return size(config)
"""


def test_each_branch_is_checked_with_the_calls_in_it(unpacked: Write, write_project: WriteProject) -> None:
    """GPU-14: a function that 0.33 moved has one more parameter there."""
    moved = {"new.py": "def size(builder, config): ...\ndef make(config): ...\n"}
    assert found(unpacked(moved), write_project(BY_BRANCH)) == []
    [problem] = found(unpacked(moved), write_project(BY_BRANCH.replace("size(make(config), config)", "size(config)")))
    assert "vllm.new.size does not take our arguments: missing a required argument: 'config'" in problem


def test_names_from_several_places_are_checked_where_they_are_called(
    unpacked: Write, write_project: WriteProject
) -> None:
    project = write_project("from loramux_server.engine.vllm_compat import make_arg_parser as make\nmake(1, 2)")
    (project / ENGINE / "vllm_compat.py").write_text(dedent(WITH_033))
    [problem] = found(unpacked({"entrypoints/common/cli_args.py": CLI_ARGS}), project)
    assert problem.startswith(
        "server/loramux_server/engine/ours.py:2: vllm.entrypoints.common.cli_args.make_arg_parser"
    )
    assert problem.endswith("too many positional arguments")


THEIRS = {
    "layers/__init__.py": "from .base import Layer as Layer\nfrom vllm.layers.base import *\n",
    "layers/base.py": """
        import abc
        from dataclasses import dataclass
        class Root(abc.ABC):
            def shared(self, a): ...
        class Layer(Root):
            plain: int = 0
            def __init__(self, size, *, name="x"):
                self.set_later = size
            def set_lora(self, index, lora_a, lora_b=None): ...
            @classmethod
            def build(cls, size): return cls(size)
            @staticmethod
            def match(pattern, name): ...
        @dataclass
        class Options:
            n: int
            kind: str = ""
        def convert(text, *, strict): ...
    """,
}


@pytest.mark.parametrize(
    "ours",
    [
        "from vllm.layers import Layer\nLayer.plain, Layer(1, name='y'), Layer.build(1), Layer.match('a', 'b')",
        "from vllm.layers import Layer\ndef use(layer: Layer | None):\n    layer.shared(1), layer.set_later",
        "from vllm.layers import Layer\nLayer.set_lora(object(), 1, 2)",
        "from vllm.layers import base\nbase.convert('a', strict=True), base.Options(1, kind='b')",
        "from vllm.layers import Layer\nclass Ours(Layer):\n    def set_lora(self, index, lora_a, **_): ...",
        "from vllm.layers import Layer\nclass Ours(Layer):\n    def set_lora(self, *args, **options): ...",
        "from vllm.layers import Layer\ndef ours(self, index, lora_a, lora_b=None): ...\nLayer.set_lora = ours",
        "from vllm.layers import Layer\ndef ours(pattern, name): ...\nLayer.match = staticmethod(ours)",
        "from vllm.layers import Layer\ndef other(Layer): return Layer.nothing",
        "from vllm.layers import Layer, base\nLayer.__mro__, Layer.__name__, base.__file__",
        "import vllm.layers.base\nvllm.layers.base.Layer",
        "from vllm import layers\nlayers.Layer",
        "import os\nos.environ['VLLM_USE_THIS'] = '1'",
    ],
)
def test_uses_that_fit_are_accepted(unpacked: Write, write_project: WriteProject, ours: str) -> None:
    sources, project = unpacked(THEIRS), write_project(ours)
    assert found(sources, project) == []
    assert environment_breaks(Sources(sources), project) == []


@pytest.mark.parametrize(
    ("ours", "problem"),
    [
        ("from vllm.layers import Gone", "vllm.layers.Gone is not there"),
        ("import vllm.gone", "vllm.gone is not there"),
        ("from vllm.layers import Layer\nLayer.gone", "vllm.layers.Layer.gone is not there"),
        ("from vllm.layers import Layer\nLayer.gone = 1", "vllm.layers.Layer.gone is not there"),
        ("from vllm.layers import Layer\nLayer(1, title='y')", "unexpected keyword argument 'title'"),
        (
            "from vllm.layers import Layer\ndef use(layer: Layer):\n    layer.shared()",
            "missing a required argument: 'a'",
        ),
        ("from vllm.layers import base\nbase.convert('a')", "missing a required argument: 'strict'"),
        ("from vllm.layers import base\nbase.Options(1, size=2)", "unexpected keyword argument 'size'"),
        (
            "from vllm.layers import Layer\nclass Ours(Layer):\n    def set_lora(self, slot, lora_a, lora_b): ...",
            "can't be replaced by our set_lora",
        ),
        (
            "from vllm.layers import Layer\ndef ours(self, index): ...\nLayer.set_lora = ours",
            "can't be replaced by our ours: too many positional arguments",
        ),
    ],
)
def test_uses_that_do_not_fit_are_reported(
    unpacked: Write, write_project: WriteProject, ours: str, problem: str
) -> None:
    [line] = found(unpacked(THEIRS), write_project(ours))
    assert problem in line
    assert line.startswith("server/loramux_server/engine/ours.py:")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("set_lora(index, lora_a, lora_b)", None),
        ("set_lora(_, _)", None),
        ("set_lora(lora_a, index)", "'lora_a' would be passed as 'index'"),
        ("set_lora(index)", "missing a required argument"),
        ("reset_lora(index)", "is not there"),
        ("plain  set_later  shared", None),
    ],
)
def test_declared_uses_are_checked_with_the_names_and_the_order_of_parameters(
    unpacked: Write, write_project: WriteProject, entry: str, problem: str | None
) -> None:
    lines = found(
        unpacked(THEIRS), write_project("layer = object()\nlayer.set_lora(1, 2)"), {"vllm.layers.Layer": entry}
    )
    assert [line.startswith("server/loramux_server/engine/ours.py:2") or "reset" in line for line in lines] == (
        [True] if problem else []
    )
    assert all(str(problem) in line for line in lines)


def test_an_environment_variable_that_vllm_does_not_know_is_reported(
    unpacked: Write, write_project: WriteProject
) -> None:
    project = write_project("import os\nos.environ['VLLM_USE_THAT'] = '1'")
    [problem] = environment_breaks(Sources(unpacked({})), project)
    assert str(problem) == "server/loramux_server/engine/ours.py:2: VLLM_USE_THAT is not there"


def test_a_folder_without_vllm_can_not_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sources", str(tmp_path)]) == 2
    assert "has no package `vllm`" in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed() -> Sources:
    """The sources of the installed vLLM."""
    spec = find_spec("vllm")  # does not import it
    assert spec is not None
    assert spec.submodule_search_locations
    return Sources(Path(spec.submodule_search_locations[0]).parent)


@pytest.mark.slow
def test_nothing_breaks_with_the_installed_version(installed: Sources) -> None:
    uses = all_uses(ROOT)
    assert [str(each) for each in breaks(installed, uses)] == []
    assert environment_breaks(installed, ROOT) == []
    assert len(uses) > 400


@pytest.mark.slow
@pytest.mark.parametrize("owner", DECLARED)
def test_a_declared_name_that_is_gone_would_be_found(installed: Sources, owner: str) -> None:
    [use] = all_uses(Path("/nonexistent"), {owner: "a_name_that_nobody_has"})
    assert [each.problem for each in breaks(installed, [use])] == ["is not there"]
