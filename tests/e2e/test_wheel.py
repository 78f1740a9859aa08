"""The wheel: its contents, and its use without a checkout."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from tools.steps import StepRunner
from tools.uv import find_uv, uv_environment

from tests.conftest import EXAMPLE_NAMES, REPOSITORY
from tests.helpers.server_process import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test installs 2 GB

PACKAGES = (
    REPOSITORY / "server" / "loramux_server",
    REPOSITORY / "adapters" / "loramux_adapters",
    REPOSITORY / "loadtests" / "loramux_loadtests",
)
PINS = REPOSITORY / "requirements"
NOT_INSTALLED = ("__pycache__", "checkpoints")
QUESTIONS = {
    "SmolLM2-135M-Instruct": ("What is the capital of France?", "Paris"),
    "support-intent": ("Forget about the wind chime I ordered today, I do not need it after all.", "cancel_order"),
    "order-json": ("Two rye loaves for Anna, please.", "{"),
    "house-tone": ("Tell Mr. Lee that his parcel comes on Monday.", ""),
}
"""A question for each model of the demo, and what its answer contains."""


CHECK_REQUIREMENTS = """
from importlib.metadata import requires, version
from packaging.requirements import Requirement
for line in requires("loramux"):
    wanted = Requirement(line)
    extras = ("", "cpu", "train", "demo", "postgres")
    if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
        assert wanted.specifier.contains(version(wanted.name), prereleases=True), line
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the pinned packages for a CPU and the wheel, and nothing else."""
    private, folder = REPOSITORY / ".tools" / "uv", tmp_path_factory.mktemp("installed") / "venv"
    with Path(os.devnull).open() as no_lock:
        uv = find_uv(private, PINS / "uv.txt", StepRunner(), no_lock.fileno())

    def install(*arguments: str) -> None:
        command = [uv, "pip", "install", "--python", str(folder / "bin" / "python"), "--no-deps", *arguments]
        subprocess.run(command, check=True, env=uv_environment(private))

    subprocess.run([uv, "venv", "--python", sys.executable, str(folder)], check=True)
    install("--requirement", str(PINS / "torch-cpu.txt"))
    install("--requirement", str(PINS / "cpu.txt"))
    install(str(wheel))
    return folder


def run(environment: Path, *arguments: str, folder: Path) -> str:
    """Return what a command of the environment prints when it is run in `folder`."""
    command = [str(environment / "bin" / arguments[0]), *arguments[1:]]
    ended = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_wheel_has_every_file_of_the_three_packages_and_no_other(wheel: Path) -> None:
    expected = {
        path.relative_to(package.parent).as_posix()
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and not set(NOT_INSTALLED) & set(path.parts)
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.parametrize(
    "file",
    [
        *(f"loramux_adapters/examples/{name}/adapter_model.safetensors" for name in EXAMPLE_NAMES),
        "loramux_loadtests/compare/templates/page.html",
        "loramux_loadtests/scenarios/mixed.yaml",
        "loramux_server/dashboard/static/dashboard.html",
        "loramux_server/migrations/versions/0001_adapters.py",
        "loramux_server/py.typed",
    ],
)
def test_the_wheel_has_what_is_read_beside_the_code(wheel: Path, file: str) -> None:
    assert file in zipfile.ZipFile(wheel).namelist()


@pytest.mark.engine
def test_the_wheel_serves_the_demo_from_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with serving([str(environment / "bin" / "loramux"), "serve"], tmp_path / "data", folder) as server:
        url = server.wait_until_serving()
        served = {model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]}
        assert served == {*EXAMPLE_NAMES, "SmolLM2-135M-Instruct"}
        for model, (question, expected) in QUESTIONS.items():
            body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 32}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body | {"temperature": 0}, timeout=120)
            assert answer.status_code == 200, answer.text
            content = answer.json()["choices"][0]["message"]["content"]
            assert content.strip(), model
            assert expected in content, model
        listed = run(environment, "loramux", "adapter", "list", "--json", "--url", url, folder=folder)
        assert {adapter["name"] for adapter in json.loads(listed)["data"]} == set(EXAMPLE_NAMES)
        os.killpg(server.process.pid, signal.SIGTERM)
        server.process.wait(30)


@pytest.mark.engine
def test_the_wheels_other_commands_need_no_checkout(environment: Path, tmp_path: Path) -> None:
    assert run(environment, "loramux", "--version", folder=tmp_path).startswith(f"loramux {version('loramux')} (vllm")
    scenarios = run(environment, "loramux", "loadtest", "scenarios", folder=tmp_path)
    assert all(path.stem in scenarios for path in (PACKAGES[2] / "scenarios").glob("*.yaml"))


@pytest.mark.engine
def test_the_pins_meet_what_the_wheel_requires(environment: Path, tmp_path: Path) -> None:
    run(environment, "python", "-c", CHECK_REQUIREMENTS, folder=tmp_path)
