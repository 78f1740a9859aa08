"""Folders of adapters as tools write them answer through the server as PEFT's own folder does in PEFT."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.helpers.logprobs import Reference, ScoredTokens, complete
from tests.helpers.peft_adapters import save_adapter
from tests.helpers.server_process import LORAMUX, serving
from tests.helpers.tiny_bases.bases import random_model, write_base
from tests.helpers.tool_forms import FORMS, write_form

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),  # as PEFT's users do
]
ARCHITECTURE = "LlamaForCausalLM"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MAX_NATS = 2e-3
MIN_EFFECT_NATS = 0.05
PROMPTS = (range(20, 44), range(200, 120, -3))
ENGINE = {"kv_cache_memory_bytes": 64 << 20, "max_model_len": 512, "max_loras": 4, "max_cpu_loras": 16}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, each tool's form of an adapter with weights of its own, and PEFT's forms of the same."""
    folder = tmp_path_factory.mktemp("forms")
    base = write_base(folder / "base", ARCHITECTURE)
    for seed, form in enumerate(FORMS, start=1):
        targets = [*LINEAR, "lm_head"] if form == "tinker" else LINEAR
        model = random_model(ARCHITECTURE)
        source = save_adapter(folder / "peft" / form, model, seed=seed, r=8, lora_alpha=12, target_modules=targets)
        write_form(form, folder / "forms" / form, source, base)
    pickled = folder / "forms" / "pickled"
    convert = [LORAMUX, "adapter", "convert", str(pickled), str(folder / "converted")]
    subprocess.run(convert, check=True, capture_output=True)
    pickled.rename(folder / "old")
    (folder / "converted").rename(pickled)
    return folder


@pytest.fixture(scope="module")
def answers(workplace: Path) -> Iterator[dict[str, list[ScoredTokens]]]:
    """The answers of all forms in one batch."""
    options = {f"LORAMUX_ENGINE__{name.upper()}": json.dumps(value) for name, value in ENGINE.items()} | {
        "LORAMUX_ENGINE__DTYPE": "float32",
        "LORAMUX_ADAPTERS": json.dumps({form: str(workplace / "forms" / form) for form in FORMS}),
        "LORAMUX_ALLOWED_ROOTS": json.dumps([str(workplace)]),
    }
    command = [LORAMUX, "serve", "--base", str(workplace / "base")]
    with serving(command, workplace / "data", REPOSITORY, **options) as server:
        url = server.wait_until_serving()
        assert "skipped the adapter" not in server.output, server.output
        with ThreadPoolExecutor(len(FORMS) * len(PROMPTS)) as pool:
            asked = {form: [pool.submit(complete, url, form, prompt, 16) for prompt in PROMPTS] for form in FORMS}
            yield {form: [future.result() for future in futures] for form, futures in asked.items()}


@pytest.fixture(scope="module")
def reference(workplace: Path) -> Reference:
    return Reference(workplace / "base", ARCHITECTURE, torch.float32)


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_tool_answers_as_in_peft(
    workplace: Path, answers: dict[str, list[ScoredTokens]], reference: Reference, form: str
) -> None:
    """A8, A12: folders of PEFT's releases, unsloth, axolotl, LLaMA-Factory, torchtune, mlx-lm and Tinker."""
    given = answers[form]
    ours = torch.cat([torch.tensor(answer.logprobs) for answer in given])
    expected = reference.score(workplace / "peft" / form, given)
    assert float((ours - expected).abs().max()) <= MAX_NATS
    assert float((reference.score(None, given) - expected).abs().mean()) >= MIN_EFFECT_NATS
