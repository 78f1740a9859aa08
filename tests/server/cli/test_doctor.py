import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from loramux_adapters.base_description import BaseDescription
from loramux_server.base_model import BaseError, ResolvedBase
from loramux_server.cli import doctor as command
from loramux_server.gpus import Gpu
from loramux_server.machine import GIB, this_machine
from tests.helpers.adapter_files import BASE
from tests.helpers.gpu_plans import SHAPES


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command.doctor)
    return app


def test_a_supported_machine_is_described_with_exit_code_0(app: typer.Typer) -> None:
    result = CliRunner().invoke(app)
    assert result.exit_code == 0
    assert "this machine can run loramux" in result.stdout


def test_json_has_the_same_content(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--json"])
    report = json.loads(result.stdout)
    assert (report["can_run"], report["obstacles"]) == (True, [])
    assert report["machine"]["cores"] == this_machine(tmp_path).cores
    assert set(report["machine"]["instructions"]) == this_machine(tmp_path).instructions


def test_an_unsupported_machine_is_reported_with_exit_code_1(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "this_machine", lambda folder: replace(this_machine(folder), system="Windows"))
    result = CliRunner().invoke(app)
    assert result.exit_code == 1
    assert "WSL2" in result.stdout
    assert json.loads(CliRunner().invoke(app, ["--json"]).stdout)["can_run"] is False


@pytest.mark.parametrize(
    ("gpus", "problem", "shown"),
    [
        ((), None, ["none with an NVIDIA driver", "vLLM for CPU, because no GPU was found"]),
        ((), "there is an AMD GPU", ["vLLM for CPU, because there is an AMD GPU"]),
        (
            (Gpu("RTX 4090", 24 * GIB, 570, (8, 9), 20 * GIB),),
            None,
            ["RTX 4090, 24 GiB (20 GiB free), driver 570, compute capability 8.9, can't be used: its driver is 570"],
        ),
        (
            (Gpu("GB10", 120 * GIB, 580, (12, 1), None, unified=True),),
            None,
            ["GB10, the machine's memory, driver 580", "vLLM for CPU is installed, although GB10 can run it"],
        ),
        (
            (Gpu("H100", 0, 580, (9, 0), doubt="it is divided into parts (MIG)"),),
            None,
            ["H100, memory not known, driver 580, compute capability 9.0, can't be planned: it is divided into parts"],
        ),
    ],
)
def test_the_engine_is_shown_with_the_reason_for_it(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], problem: str | None, shown: list[str]
) -> None:
    """GPU-7: nothing said why a GPU was not used."""
    monkeypatch.setattr(
        command, "this_machine", lambda folder: replace(this_machine(folder), gpus=gpus, gpu_problem=problem)
    )
    monkeypatch.setattr(command, "installed_backend", lambda: "cpu")
    printed = " ".join(CliRunner().invoke(app).stdout.split())
    for text in shown:
        assert text in printed
    report = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert report["backend_reason"] in printed


def test_a_gpu_without_a_compiler_is_reported(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU-8."""
    gpu = Gpu("NVIDIA H100", 80 * GIB, 580, (9, 0))
    monkeypatch.setattr(command, "this_machine", lambda folder: replace(this_machine(folder), gpus=(gpu,)))
    monkeypatch.setattr(command, "installed_backend", lambda: "cuda")
    monkeypatch.setattr(command, "compiler_problem", lambda _: "no Python.h: `apt-get install python3.12-dev`")
    report = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert report["obstacles"] == ["no Python.h: `apt-get install python3.12-dev`"]


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BaseDescription:
    """A base whose head vLLM does not adapt."""
    refused = BASE.modules["lm_head"].model_copy(update={"refusal": "no adapters for heads"})
    described = BaseDescription.of(dict(BASE.modules) | {"lm_head": refused}, spec=BASE.spec, parameters=4_000_000)
    monkeypatch.setattr(command, "resolve_base", lambda *_, **__: ResolvedBase(tmp_path, "tiny"))
    monkeypatch.setattr(command, "describe_base", lambda *_: described)
    return described


def test_a_bases_modules_are_shown_once_for_all_layers(app: typer.Typer, base: BaseDescription) -> None:
    lines = CliRunner().invoke(app, ["--base", "tiny"]).stdout.splitlines()
    assert f"{base.name}: LlamaForCausalLM, 4.0 million parameters" in lines
    rows = [line.split() for line in lines if line.lstrip().startswith(("model.", "lm_head"))]
    assert ["model.layers.*.mlp.down_proj", "3", "24", "x", "16", "yes"] in rows
    assert ["lm_head", "1", "16", "x", "64", "no"] in rows
    assert len(rows) == 7 + 2


def test_a_base_is_described_in_json_with_reasons(app: typer.Typer, base: BaseDescription) -> None:
    report = json.loads(CliRunner().invoke(app, ["--base", "tiny", "--json"]).stdout)["base"]
    assert (report["name"], report["refusal"]) == (base.name, None)
    reasons = {module["path"]: module["refusal"] for module in report["modules"]}
    assert reasons["lm_head"] == "no adapters for heads"
    assert reasons["model.layers.*.self_attn.q_proj"] is None


def test_a_base_that_can_not_be_served_is_one_line_and_exit_code_2(
    app: typer.Typer, base: BaseDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> BaseDescription:
        raise BaseError("vLLM can't serve tiny: [X] is unknown")

    monkeypatch.setattr(command, "describe_base", refuse)
    result = CliRunner().invoke(app, ["--base", base.name])
    assert (result.exit_code, result.stderr.strip()) == (2, "vLLM can't serve tiny: [X] is unknown")


def planned(app: typer.Typer, *options: str) -> Result:
    return CliRunner().invoke(app, ["--base", "tiny", *options])


@pytest.fixture
def large(base: BaseDescription, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is as large as Llama-3.1-8B, and this machine has no GPU."""
    monkeypatch.setattr(command, "describe_base", lambda *_: SHAPES["8B"].describe())
    monkeypatch.setattr(command, "this_machine", lambda folder: replace(this_machine(folder), gpus=()))


@pytest.mark.usefixtures("large")
def test_a_plan_for_another_gpu_is_readable_in_80_columns(app: typer.Typer) -> None:
    """GPU-4: what fits on a GPU is known before it is rented."""
    result = planned(app, "--gpu-memory", "24", "--compute-capability", "8.9", "--rank", "8", "--rank", "20")
    assert result.exit_code == 0
    text = result.stdout[result.stdout.index("Plan for") :]
    assert text.startswith("Plan for a GPU with 24.0 GiB, compute capability 8.9")
    for part in ("15.0 GiB  bfloat16", "ranks up to 32", "128 KiB per token", "gpu_memory_utilization=0.92"):
        assert part in text
    assert "LORAMUX_ENGINE__MAX_MODEL_LEN=-1" in text
    assert "fits while the engine sleeps" in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.usefixtures("large")
def test_a_plan_in_json_has_the_sizes_in_bytes(app: typer.Typer) -> None:
    report = json.loads(planned(app, "--gpu-memory", "24", "--json").stdout)["plan"]
    assert report["sizes"]["weights"] == 16_060_522_496
    assert report["sizes"]["engine"] == int(24 * (1 << 30) * 0.92)
    assert report["kv_bytes_per_token"] == 131_072
    assert report["slot_bytes"] == 16 * 5_507_584
    assert (report["fits"], report["problems"], report["advice"]) == (True, [], [])
    assert report["engine"]["max_loras"] == report["slots"]
    assert report["gpu"]["compute_capability"] is None


@pytest.mark.usefixtures("large")
def test_a_base_that_does_not_fit_is_exit_code_1_with_what_would_help(app: typer.Typer) -> None:
    result = planned(app, "--gpu-memory", "16", "--compute-capability", "7.5")
    assert result.exit_code == 1
    assert "✗ base needs" in result.stdout
    assert "8-bit weights" in result.stdout
    assert "serve sets" not in result.stdout
    assert planned(app, "--gpu-memory", "24", "--context", "131072").exit_code == 1
    assert planned(app, "--gpu-memory", "24", "--context", "4096", "--requests", "100").exit_code == 1


@pytest.mark.usefixtures("large")
def test_without_a_gpu_the_option_for_another_one_is_named(app: typer.Typer) -> None:
    result = planned(app)
    assert result.exit_code == 0
    assert "--gpu-memory 24" in result.stdout


@pytest.mark.usefixtures("large")
def test_the_gpu_of_this_machine_is_planned_by_itself(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA L4", 23_034 << 20, 580, (8, 9), 20_000 << 20)
    monkeypatch.setattr(command, "this_machine", lambda folder: replace(this_machine(folder), gpus=(gpu,)))
    assert "Plan for NVIDIA L4 with 22.5 GiB, 19.5 GiB of it free" in planned(app).stdout


def test_a_base_of_which_vllm_can_not_say_what_it_takes_has_no_plan(
    app: typer.Typer, base: BaseDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = base.model_copy(update={"memory_problem": "no attention backend"})
    monkeypatch.setattr(command, "describe_base", lambda *_: unknown)
    result = planned(app, "--gpu-memory", "24")
    assert (result.exit_code, "no attention backend" in result.stdout) == (0, True)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    "options",
    [
        ("--compute-capability", "8.9"),
        ("--gpu-memory", "24", "--compute-capability", "ada"),
        ("--gpu-memory", "24", "--compute-capability", "8"),
        ("--gpu-memory", "24", "--compute-capability", "8.9\n"),
        ("--gpu-memory", "24", "--compute-capability", ""),
        ("--gpu-memory", "0"),
        ("--gpu-memory", "-24"),
        ("--gpu-memory", "nan"),
        ("--gpu-memory", "1e400"),
        ("--gpu-memory", "24", "--rank", "0"),
        ("--gpu-memory", "24", "--rank", "513"),
        ("--gpu-memory", "24", "--context", "0"),
    ],
)
def test_options_that_make_no_sense_are_exit_code_2(app: typer.Typer, options: tuple[str, ...]) -> None:
    result = planned(app, *options)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_gpu_without_a_base_is_exit_code_2(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["--gpu-memory", "24"])
    assert (result.exit_code, "--base" in result.stderr) == (2, True)
