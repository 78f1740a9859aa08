"""The table of declared uses is complete: whatever the engine's code reaches into is in it, or visible by syntax."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.check_vllm.check import ENGINE, FOLDERS
from tools.check_vllm.declared import DECLARED
from tools.check_vllm.imports import Use
from tools.check_vllm.uses import uses_of
from tools.setup import ROOT

OURS = ("server", "adapters", "loadtests")
FAKE = f"{ENGINE}/fake.py"
"""It imitates vLLM's engine, and has its names itself."""
PYTHON = {
    name
    for kind in (str, bytes, list, dict, set, tuple, int, float, object, BaseException, type, Path, re.Match)
    for name in dir(kind)
}
OTHER_LIBRARIES = """
    add_api_route include_router dependencies methods status_code body_iterator
    _actions dest option_strings parse_args create_task exception run_in_executor submit move_to_end popleft
    get_all model_copy model_dump model_dump_json
    register makefile sendall readline callback seek fileno add_exception_handler
    addmm_ aminmax any clone contiguous copy_ flatten named_modules named_parameters nbytes ndim numpy pin_memory
    storage_offset stride to buffers zero_ is_cuda is_meta
    architectures convert_ids_to_tokens eos_token_id get_input_embeddings get_output_embeddings model_type
    save_pretrained special_tokens_map lora_A lora_B lora_embedding_A lora_embedding_B parameter_name
"""
"""Of starlette, the standard library, jinja2, pydantic, torch, transformers and PEFT."""


def our_names() -> Iterator[str]:
    """Yield the names of functions, classes, fields and attributes in our packages."""
    for path in (path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    yield name
                case ast.AnnAssign(target=ast.Name(id=name)):
                    yield name
                case ast.Assign(targets=targets):
                    yield from (each.id for each in targets if isinstance(each, ast.Name))
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    yield name


def undeclared(source: str, known: set[str], visible: set[str]) -> list[str]:
    """Return the attributes in a source that are neither known, nor of a module that it imports."""
    tree = ast.parse(source)
    modules = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and "vllm" not in (node.module or ""))
        for alias in node.names
    }
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _root(node) not in modules]
    return [f"line {node.lineno}: {node.attr}" for node in found if node.attr not in known | visible]


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


DECLARED_NAMES = {name for entries in DECLARED.values() for name in re.findall(r"\w+", entries)}


@pytest.mark.slow
def test_every_attribute_that_the_engines_code_uses_of_vllm_is_in_the_table() -> None:
    known = {*our_names(), *PYTHON, *OTHER_LIBRARIES.split(), *DECLARED_NAMES}
    missing = []
    for path in sorted((ROOT / ENGINE).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name != FAKE:
            uses = (use for use in uses_of(path, name) if isinstance(use, Use))
            visible = {part for use in uses for part in use.target.split(".")}
            missing += [f"{name}, {line}" for line in undeclared(path.read_text(), known, visible)]
    assert missing == [], "add the attribute to tools/check_vllm/declared.py, with vLLM's class that has it"


def test_an_attribute_that_nobody_declared_is_found() -> None:
    source = "import os\nfrom vllm import x\n\ndef use(engine):\n    return engine._private, os.environ, engine.errored"
    assert undeclared(source, DECLARED_NAMES, set()) == ["line 5: _private"]


@pytest.mark.slow
def test_vllms_private_names_are_used_in_the_engines_code_only() -> None:
    private = {name for name in DECLARED_NAMES if re.match(r"_[a-zA-Z]", name)} - set(our_names())
    for path in (path for folder in FOLDERS if folder != "tests" for path in (ROOT / folder).rglob("*.py")):
        if not path.is_relative_to(ROOT / ENGINE):
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert not names & private, path
