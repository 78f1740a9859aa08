"""The three examples keep what their README promises: data, prompts, weights and results that belong together."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.recipes.recipe import load_recipe
from loramux_adapters.models import parse_adapter_name
from loramux_loadtests.compare.plan import read_plan
from loramux_loadtests.compare.summary import ComparisonSummary

EXAMPLES = Path(__file__).parents[3] / "adapters" / "loramux_adapters" / "examples"
NAMES = ("support-intent", "order-json", "house-tone")
HALVES = ("train", "test")

example = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", EXAMPLES / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conversations(name: str, half: str) -> list[dict[str, str]]:
    """The half's conversations, each as its texts by role."""
    read = read_dataset(EXAMPLES / name / f"{half}.jsonl")
    return [{message.role: str(message.content) for message in conversation.messages} for conversation in read]


def phrases(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / name / "phrases.yaml").read_text())
    return content


def leaves(value: object) -> set[str]:
    """Every text in a part of phrases.yaml."""
    if isinstance(value, dict):
        return set().union(*(leaves(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(leaves(item) for item in value))
    return {str(value)} - {""}


def loads(name: str, file: str) -> Any:
    return json.loads((EXAMPLES / name / file).read_text())


@example
@pytest.mark.parametrize("half", HALVES)
def test_the_data_is_what_the_generator_makes(generator: ModuleType, name: str, half: str) -> None:
    assert (EXAMPLES / name / f"{half}.jsonl").read_text() == generator.generate(name, half)


@example
def test_the_held_out_half_shares_no_phrase_with_the_training_half(name: str) -> None:
    train, test = (leaves(phrases(name)[half]) for half in HALVES)
    assert not train & test


@example
def test_no_held_out_message_was_trained_on_or_shown_in_a_prompt(name: str) -> None:
    held_out = {conversation["user"] for conversation in conversations(name, "test")}
    shown = {message["content"] for message in loads(name, "prompt_few_shot.json")}
    assert len(held_out) >= 200
    assert not held_out & {conversation["user"] for conversation in conversations(name, "train")}
    assert not held_out & shown


@example
def test_the_adapter_is_asked_as_it_was_trained(name: str) -> None:
    [short] = loads(name, "prompt_short.json")
    assert {conversation["system"] for conversation in conversations(name, "train")} == {short["content"]}


@example
def test_the_base_gets_instructions_and_examples(name: str) -> None:
    system, *shown = loads(name, "prompt_few_shot.json")
    assert system["role"] == "system"
    assert [message["role"] for message in shown] == ["user", "assistant"] * (len(shown) // 2)
    assert len(shown) >= 8


@example
def test_an_expected_answer_scores_full_marks(name: str) -> None:
    scorer = read_plan(EXAMPLES / name / "compare.yaml").scorer
    for conversation in conversations(name, "test"):
        scores = scorer.score(conversation["assistant"], conversation["assistant"])
        assert set(scores.values()) == {1.0}


@example
def test_the_weights_are_small_and_of_the_recipe(name: str) -> None:
    folder = EXAMPLES / parse_adapter_name(name)
    recipe = load_recipe(folder / "recipe.yaml")
    config = loads(name, "adapter_config.json")
    assert (config["r"], config["lora_alpha"]) == (recipe.rank, recipe.alpha)
    assert config["target_modules"] == sorted(recipe.target_modules)
    assert config["base_model_name_or_path"] == "SmolLM2-135M-Instruct"
    assert (folder / "adapter_model.safetensors").stat().st_size <= 3_000_000
    with safe_open(folder / "adapter_model.safetensors", "numpy") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118 - not a mapping


@example
def test_the_readmes_say_what_was_measured_of_the_best_prompt_and_the_adapter(name: str) -> None:
    results = ComparisonSummary.model_validate_json((EXAMPLES / name / "results.json").read_text())
    last = results.passes[-1]
    assert last.items >= 60
    assert (results.verdict, last.difference.low > 0) == ("better", True)
    assert results.reference_choice
    assert len(results.reference_choice.scores) == 4
    for page in (EXAMPLES / name / "README.md", EXAMPLES / "README.md", EXAMPLES.parents[2] / "README.md"):
        text = page.read_text().replace("\\", "")
        assert f"{name}, {last.items} held-out items" in text
        assert f"**{results.sentence}**" in text
