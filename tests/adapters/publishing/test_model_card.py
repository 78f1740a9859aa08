import json
import re
from typing import Any

import yaml

from loramux_adapters.publishing.model_card import model_card

VERSION: dict[str, Any] = {
    "id": "ft:base:acme:tone:1@0123456789ab",
    "rank": 8,
    "alpha": 16.0,
    "target_modules": ["q_proj", "v_proj"],
    "parameters": 1234567,
    "source": {"type": "job", "job": "ftjob-1"},
}
MEAN = {"low": 0.81, "mean": 0.9, "high": 0.96}
SECRET = "SECRET-ANSWER-OF-A-CUSTOMER"
EVALUATION: dict[str, Any] = {
    "questions": 120,
    "measure": "label",
    "arms": {
        "adapter": {"scores": {"label": MEAN}, "sample": {"answer": SECRET, "messages": [{"content": SECRET}]}},
        "few examples": {"scores": {"label": {"low": 0.3, "mean": 0.41, "high": 0.52}}},
        "base": {"scores": {"label": {"low": 0.0, "mean": 0.05, "high": 0.1}}},
    },
    "rival": "few examples",
    "gain": {"low": 0.38, "mean": 0.49, "high": 0.6},
    "verdict": "better",
    "sentence": f"neither works; it answered {SECRET}",
    "constant_answer": SECRET,
    "warnings": [{"message": SECRET}],
}
RECIPE = {"rank": 8, "epochs": 3, "learning_rate": 0.001, "target_modules": ["q_proj"], "last_layers": None, "seed": 7}
JOB: dict[str, Any] = {
    "training_file": SECRET,
    "metadata": {"customer": SECRET},
    "suffix": SECRET,
    "loramux": {
        "examples": 1300,
        "tokens": 98765,
        "validation_loss": 0.1234,
        "recipe": RECIPE,
        "evaluation": EVALUATION,
    },
}


def test_the_card_has_data_size_recipe_and_the_measured_verdict_but_no_data() -> None:
    card = model_card(VERSION, JOB, "org/base", "acme/tone")
    for words in (
        "| training examples | 1,300 |",
        "| trained tokens | 98,765 |",
        "| epochs | 3 |",
        "| learning rate | 0.001 |",
        "| target modules | q_proj |",
        "On 120 held-out questions, with intervals of 95 %:",
        "| this adapter, mean of `label` | 0.900 [0.810, 0.960] |",
        "| the base with its best prompt, mean of `label` | 0.410 [0.300, 0.520] |",
        "| the base as it is, mean of `label` | 0.050 [0.000, 0.100] |",
        "| verdict | better |",
        "loramux adapter add NAME hf:acme/tone",
    ):
        assert words in card
    assert SECRET not in card
    assert "last layers" not in card


def test_the_head_of_the_card_is_what_the_hub_reads() -> None:
    head = yaml.safe_load(model_card(VERSION, JOB, "org/base", "acme/tone").split("---")[1])
    assert (head["library_name"], head["base_model"], head["pipeline_tag"]) == ("peft", "org/base", "text-generation")
    assert "base_model" not in yaml.safe_load(model_card(VERSION, None, "local-base", "acme/tone").split("---")[1])


def test_a_job_by_preferences_shows_how_often_it_agrees() -> None:
    preference = {
        "pairs": 60,
        "accuracy": MEAN,
        "sentence": SECRET,
        "samples": [{"adapter": SECRET}],
        "reference": "base",
    }
    card = model_card(VERSION, {"loramux": {"preference": preference}}, "base", "acme/tone")
    assert "On 60 held-out pairs of answers" in card
    assert "0.900 [0.810, 0.960]" in card
    assert SECRET not in card


def test_an_adapter_without_a_job_says_that_nothing_was_measured() -> None:
    card = model_card(VERSION, None, "base", "acme/tone")
    assert "was not compared with its base" in card
    assert "## Training" not in card


def test_hostile_names_stay_inside_of_their_cells() -> None:
    hostile = "x | y\n# Title"
    card = model_card(VERSION | {"target_modules": [hostile]}, json.loads(json.dumps(JOB)), "base", "acme/tone")
    assert "\n# Title" not in card
    assert "x \\| y # Title" in card


def test_a_hostile_name_of_a_base_ends_no_code_comment_or_heading() -> None:
    hostile = "base`\n# Title\n```\nimport os; os.system('x')\n<script>"
    card = model_card(VERSION, json.loads(json.dumps(JOB)), hostile, "acme/tone")
    assert re.search(r"^A LoRA adapter of `base +Title [\w. ]+`, version", card, re.MULTILINE)
    assert "\n# Title" not in card
    assert card.count("```") == 4
    assert "<script>" not in card
