"""Adapters that PEFT wrote, on bases of many architectures: the server's log-probabilities are those of PEFT."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from loramux_server.base_model import ResolvedBase
from loramux_server.described_base import describe_base
from loramux_server.settings import Settings
from tests.helpers.logprobs import Reference, ScoredTokens
from tests.helpers.peft_adapters import kinds, save_adapter
from tests.helpers.served_adapters import ENGINE, ask, served
from tests.helpers.tiny_bases.bases import random_model, write_base
from tests.helpers.tiny_bases.configs import CHANGES
from tests.matrix.conftest import RECORD
from tests.matrix.results import Result, Results

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),  # it advises on embeddings and tied heads
]

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GraniteForCausalLM",
    "Olmo2ForCausalLM",
    "GPTNeoXForCausalLM",
    "OPTForCausalLM",
    "Glm4ForCausalLM",
    "Cohere2ForCausalLM",
    "SmolLM3ForCausalLM",
    "Starcoder2ForCausalLM",
    "Exaone4ForCausalLM",
    "Qwen3MoeForCausalLM",
    "MixtralForCausalLM",
    "FalconH1ForCausalLM",
    "StableLmForCausalLM",
)
"""Those that users have most, as far as vLLM serves them on a CPU, some with packed layers or unusual names, a hybrid,
and one that vLLM serves without adapters."""
FLOAT32_NATS = 2e-3
"""The largest difference of a token's log-probability in float32."""
BFLOAT16_FACTOR = 1.5
"""The largest ratio of our mean error in bfloat16 to PEFT's own, both relative to PEFT in float32. They are 0.7 to 1.2,
most where rounding chooses other experts."""
MIN_EFFECT_NATS = 0.05
"""An adapter that changes the base's log-probabilities by less, on average, would show little."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ONE_IN = 4
"""Of how many architectures one is served in bfloat16 too, to save time, unless `make matrix` asks for all."""


@dataclass(frozen=True)
class _Answers:
    """The answers of each route, by its name, to each prompt: of one route at a time, and of all in one batch."""

    alone: Mapping[str, list[ScoredTokens]]
    together: Mapping[str, list[ScoredTokens]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_kind_of_adapter_answers_as_in_peft(tmp_path: Path, architecture: str, results: Results) -> None:
    dtypes, changes = _dtypes(architecture), CHANGES.get(architecture, {})
    base = write_base(tmp_path / "base", architecture, **changes)
    settings = {dtype: Settings(data_dir=tmp_path / dtype, engine=ENGINE | {"dtype": dtype}) for dtype in dtypes}
    description = describe_base(ResolvedBase(base, "base"), settings["float32"])
    model = random_model(architecture, **changes)
    adapters = {
        name: save_adapter(tmp_path / name, model, seed=seed, **kind(description))
        for seed, (name, kind) in enumerate(kinds(description).items(), start=1)
    }
    with ThreadPoolExecutor() as pool:  # one core starts each server
        asked = {dtype: pool.submit(_ask_all, base, adapters, chosen) for dtype, chosen in settings.items()}
    references = {dtype: Reference(base, architecture, value) for dtype, value in dtypes.items()}
    for dtype in dtypes:
        for route, folder in {"base": None, **adapters}.items():
            given = [*asked[dtype].result().alone[route], *asked[dtype].result().together[route]]
            result = _compare(given, folder, references, dtype)
            results.add(architecture, dtype, route, result)
            allowed = BFLOAT16_FACTOR * result.peft_mean
            is_right = result.worst <= FLOAT32_NATS if dtype == "float32" else result.mean <= allowed
            assert is_right, (dtype, route, result)


def _dtypes(architecture: str) -> Mapping[str, torch.dtype]:
    if RECORD in os.environ or ARCHITECTURES.index(architecture) % ONE_IN == 0:
        return DTYPES
    return {"float32": DTYPES["float32"]}


def _compare(
    given: list[ScoredTokens], adapter: Path | None, references: Mapping[str, Reference], dtype: str
) -> Result:
    """Compare answers with those of PEFT in float32; PEFT in bfloat16 shows how far rounding goes."""
    exact = references["float32"].score(adapter, given)
    ours = torch.cat([torch.tensor(answer.logprobs) for answer in given])
    error = (ours - exact).abs()
    theirs = (references["bfloat16"].score(adapter, given) - exact).abs() if dtype == "bfloat16" else torch.zeros(1)
    if adapter:
        effect = float((references["float32"].score(None, given) - exact).abs().mean())
        assert effect >= MIN_EFFECT_NATS
    return Result(float(error.max()), float(error.mean()), float(theirs.mean()))


def _ask_all(base: Path, adapters: Mapping[str, Path], settings: Settings) -> _Answers:
    routes = ["base", *adapters]
    with served(base, adapters, settings) as url:
        return _Answers({route: ask(url, [route])[route] for route in routes}, ask(url, routes))
