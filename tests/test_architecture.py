"""The rules that keep the packages apart (docs/structures.md), checked on the source itself."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("server/loramux_server", "adapters/loramux_adapters", "loadtests/loramux_loadtests")
DESCRIBING = "loramux_server.engine.describing"
"""A process of its own."""
TRAINER = "loramux_adapters.finetuning.trainer"
OF_THE_MACHINE = ("loramux_server.c_compiler", "loramux_server.gpus", "loramux_server.machine")
"""The machine's description, of which CUDA_VISIBLE_DEVICES, CC and PATH are a part."""
UNPICKLING = "loramux_adapters.conversion.unpickling_process"
GRAMMARS = "loramux_server.engine.grammars.process"
"""It reads vLLM's configuration, which its server wrote to a file without a name."""
PICKLING = "loramux_server.engine.grammars.sandbox"
MERGING = ("loramux_adapters.merging.process", "loramux_adapters.merging.greedy")
"""A process of its own."""
NETWORK = (
    "socket",
    "ssl",
    "urllib",
    "http",
    "asyncio",
    "aiohttp",
    "httpx",
    "httpx2",
    "requests",
    "huggingface_hub",
    "fsspec",
)
CLOCKS = ("time", "datetime")
PURE = (
    "loramux_adapters.evaluation",
    "loramux_adapters.intake.validation",
    "loramux_adapters.residency.policy",
    "loramux_server.metering.cost_allocation",
    "loramux_server.engine.lora_directory",
    "loramux_server.planning",
)


@dataclass(frozen=True)
class Module:
    """A source file, as the rules see it: its dotted name and what it mentions, in dotted names too."""

    name: str
    imports: frozenset[str]
    attributes: frozenset[str]

    def uses(self, *libraries: str) -> bool:
        return any(_within(imported, library) for imported in self.imports for library in libraries)

    def is_in(self, *packages: str) -> bool:
        return any(_within(self.name, package) for package in packages)


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


def _read(package: Path) -> Iterator[Module]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        attributes = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        name = ".".join(parts).removesuffix(".__init__")
        yield Module(name, frozenset(_imports(nodes, parts[:-1])), frozenset(attributes))


def _imports(nodes: list[ast.AST], folder: tuple[str, ...]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) + 1 - node.level] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return [module for package in PACKAGES for module in _read(ROOT / package)]


def importers(modules: list[Module], *libraries: str, besides: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the modules that import one of `libraries`, other than those in the packages `besides`."""
    return [module.name for module in modules if module.uses(*libraries) and not module.is_in(*besides)]


def environment_readers(modules: list[Module]) -> list[str]:
    """Return the names of the modules that look at environment variables."""
    names = {"os.environ", "os.getenv", "os.environb", "os.putenv"}
    return [module.name for module in modules if names & (module.attributes | module.imports)]


def unpicklers(modules: list[Module]) -> list[str]:
    """Return the names of the modules that could run what a file says."""
    libraries, calls = ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"), {"torch.load", "yaml.load"}
    return [module.name for module in modules if module.uses(*libraries) or calls & module.attributes]


def test_all_three_packages_are_looked_at(modules: list[Module]) -> None:
    names = {module.name for module in modules}
    assert {"loramux_server.settings", TRAINER, "loramux_loadtests.client"} <= names


def test_the_server_may_import_the_adapters_but_never_the_other_way_round(modules: list[Module]) -> None:
    adapters = [module for module in modules if module.is_in("loramux_adapters")]
    assert importers(adapters, "loramux_server", "loramux_loadtests") == []


def test_the_load_tests_speak_http_and_import_nothing_but_the_evaluation(modules: list[Module]) -> None:
    loadtests = [module for module in modules if module.is_in("loramux_loadtests")]
    assert importers(loadtests, "loramux_server", "vllm", "torch") == []
    imported = {name for module in loadtests for name in module.imports if _within(name, "loramux_adapters")}
    assert {name for name in imported if not _within(name, "loramux_adapters.evaluation")} == set()


def test_the_evaluation_imports_nothing_else_of_the_adapters(modules: list[Module]) -> None:
    evaluation = [module for module in modules if module.is_in("loramux_adapters.evaluation")]
    imported = {name for module in evaluation for name in module.imports if _within(name, "loramux_adapters")}
    assert {name for name in imported if not _within(name, "loramux_adapters.evaluation")} == set()


def test_nothing_that_is_installed_imports_a_benchmark(modules: list[Module]) -> None:
    assert importers(modules, "benchmarks") == []


def test_every_import_is_absolute() -> None:
    relative = [
        f"{path}:{node.lineno}"
        for folder in (*PACKAGES, "loadtests/benchmarks", "tests", "tools", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_server_does_not_need_the_load_tests(modules: list[Module]) -> None:
    server = [module for module in modules if module.is_in("loramux_server")]
    commands = ("loramux_server.cli", "loramux_server.importing")
    assert importers(server, "loramux_loadtests", besides=commands) == []
    others = [module for module in server if not module.is_in(*commands)]
    assert importers(others, *commands, besides=("loramux_server.__main__",)) == []


def test_only_the_engine_package_imports_vllm(modules: list[Module]) -> None:
    assert importers(modules, "vllm", besides=("loramux_server.engine",)) == []


def test_only_the_engine_package_and_processes_of_their_own_import_torch(modules: list[Module]) -> None:
    besides = ("loramux_server.engine", TRAINER, UNPICKLING, *MERGING)
    assert importers(modules, "torch", "transformers", besides=besides) == []


def test_the_api_process_imports_of_the_workers_code_only_what_installs_the_scheduler(modules: list[Module]) -> None:
    worker = "loramux_server.engine.worker"
    api = [module for module in modules if not (module.is_in(worker) or module.is_in(DESCRIBING))]
    imported = {(module.name, name) for module in api for name in module.imports if _within(name, worker)}
    assert imported == {("loramux_server.engine.startup", f"{worker}.kv_zeroing.install_scheduler")}


def test_only_the_trainer_the_merger_and_the_description_of_the_base_import_peft_and_trl(modules: list[Module]) -> None:
    besides = (TRAINER, MERGING[0], f"{DESCRIBING}.peft_view")
    assert importers(modules, "peft", "trl", besides=besides) == []


def test_only_the_hub_source_and_the_publisher_import_the_hubs_client(modules: list[Module]) -> None:
    besides = ("loramux_adapters.intake.sources.hub", "loramux_adapters.publishing")
    assert importers(modules, "huggingface_hub", besides=besides) == []


def test_only_the_object_stores_source_imports_fsspec(modules: list[Module]) -> None:
    assert importers(modules, "fsspec", "s3fs", besides=("loramux_adapters.intake.sources.objects",)) == []


def test_what_decides_does_no_network_and_reads_no_clock(modules: list[Module]) -> None:
    assert importers([module for module in modules if module.is_in(*PURE)], *NETWORK, *CLOCKS) == []


def test_only_the_composition_root_imports_the_api(modules: list[Module]) -> None:
    besides = tuple(f"loramux_server.{name}" for name in ("app", "fine_tuning", "experimentation", "api"))
    assert importers(modules, "loramux_server.api", besides=besides) == []


def test_only_the_settings_and_the_machines_description_read_the_environment(modules: list[Module]) -> None:
    readers = [name for name in environment_readers(modules) if name not in OF_THE_MACHINE]
    assert readers
    assert all(_within(name, "loramux_server.settings") for name in readers), readers


def test_only_processes_of_their_own_unpickle_and_nothing_imports_it(modules: list[Module]) -> None:
    assert sorted(unpicklers(modules)) == sorted([UNPICKLING, GRAMMARS, PICKLING])
    assert importers(modules, UNPICKLING) == importers(modules, GRAMMARS) == []


def test_the_machines_description_needs_only_the_standard_library(modules: list[Module]) -> None:
    described = [module for module in modules if module.name in OF_THE_MACHINE]
    assert len(described) == len(OF_THE_MACHINE)
    imported = {name for module in described for name in module.imports}
    others = {name for name in imported if not any(_within(name, known) for known in OF_THE_MACHINE)}
    assert {name.split(".")[0] for name in others} <= sys.stdlib_module_names


def _module(folder: Path, source: str) -> list[Module]:
    (folder / "module.py").write_text(source)
    return list(_read(folder))


@pytest.mark.parametrize(
    "source",
    [
        "import vllm",
        "import vllm.engine.arg_utils as arguments",
        "from vllm import LLM",
        "from vllm.engine import arg_utils",
        "def late():\n    from vllm import LLM",
        "if TYPE_CHECKING:\n    import vllm",
    ],
)
def test_a_forbidden_import_is_caught_however_it_is_written(tmp_path: Path, source: str) -> None:
    module = f"{tmp_path.name}.module"
    assert importers(_module(tmp_path, source), "vllm") == [module]
    assert importers(_module(tmp_path, source), "vllm", besides=(module,)) == []


def test_a_name_that_only_begins_alike_is_not_caught(tmp_path: Path) -> None:
    assert importers(_module(tmp_path, "import vllm_router\nimport not_vllm"), "vllm") == []


def test_a_name_that_is_imported_from_a_package_counts_as_its_module(tmp_path: Path) -> None:
    assert importers(_module(tmp_path, "from loramux_server import api"), "loramux_server.api") != []


@pytest.mark.parametrize("source", ["from . import api", "from .api import models", "from .api.models import Router"])
def test_a_relative_import_counts_as_what_it_means(tmp_path: Path, source: str) -> None:
    assert importers(_module(tmp_path, source), f"{tmp_path.name}.api") == [f"{tmp_path.name}.module"]


@pytest.mark.parametrize(
    "source", ["import os\nos.environ['A']", "from os import environ", "import os\nos.getenv('A')"]
)
def test_a_look_at_the_environment_is_caught(tmp_path: Path, source: str) -> None:
    assert environment_readers(_module(tmp_path, source)) != []


@pytest.mark.parametrize("source", ["import pickle", "from pickle import loads", "import torch\ntorch.load('x')"])
def test_unpickling_is_caught(tmp_path: Path, source: str) -> None:
    assert unpicklers(_module(tmp_path, source)) != []
