"""Fine-tunes of bases with the chat templates of reasoning models, on the real engine: they answer as trained."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.helpers.chat_templates import OPEN_THINK, THINK_BLOCK
from tests.helpers.reasoning_base import RECIPE, answers, training_lines, validation_lines, write_reasoning_base
from tests.helpers.server_process import LORAMUX, serving

pytestmark = [pytest.mark.engine, pytest.mark.slow]

OPTIONS = {
    "LORAMUX_ENGINE__DTYPE": "float32",  # the same answers in every batch
    "LORAMUX_ENGINE__KV_CACHE_MEMORY_BYTES": str(64 << 20),
    "LORAMUX_TRAINING__THREADS": "1",
    "LORAMUX_TRAINING__PRIORITY": "equal",
    "LORAMUX_ADAPTERS": "{}",
}


@contextmanager
def served(base: Path, folder: Path, **environment: str) -> Iterator[openai.OpenAI]:
    command = [LORAMUX, "serve", "--base", str(base)]
    with serving(command, folder, REPOSITORY, **OPTIONS | environment) as started:
        url = started.wait_until_serving()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            yield client


def ask(client: openai.OpenAI, model: str, question: str, max_tokens: int = 16) -> str:
    messages: Any = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=max_tokens)
    return answer.choices[0].message.content or ""


def wrong_answers(client: openai.OpenAI, model: str) -> dict[str, str]:
    """Return the answers to the training questions that are not those of the training file."""
    given = {question: ask(client, model, question) for question in answers()}
    return {question: answer for question, answer in given.items() if answer.strip() != answers()[question]}


def run_job(client: openai.OpenAI, base: str, training: bytes = b"", validation: bytes = b"") -> Any:
    """Learn the answers of twelve lines by heart, of the colors by default; returns the ended job."""
    files = client.files
    training_file = files.create(file=("train.jsonl", training or training_lines()), purpose="fine-tune").id
    held_out = files.create(file=("held-out.jsonl", validation or validation_lines()), purpose="fine-tune").id
    hyperparameters: Any = {"n_epochs": RECIPE["epochs"], "batch_size": RECIPE["batch_size"]}
    job = client.fine_tuning.jobs.create(
        model=base,
        training_file=training_file,
        seed=0,
        validation_file=held_out,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        extra_body={"lora": {"rank": RECIPE["rank"], "last_layers": 2}},
    )
    while not (found := client.fine_tuning.jobs.retrieve(job.id)).finished_at:
        time.sleep(1)
    return found


def messages(client: openai.OpenAI, job: str) -> list[str]:
    return [event.message for event in client.fine_tuning.jobs.list_events(job, limit=100)]


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        pytest.param(THINK_BLOCK, "", id="T7, a think block before answers"),
        pytest.param(OPEN_THINK, "", id="T8, a prompt that ends in an open think block"),
        pytest.param(OPEN_THINK, "deepseek_r1", id="T8, with a reasoning parser"),
    ],
)
def test_a_job_on_a_reasoning_base_learns_the_answers_that_the_endpoint_returns(
    tmp_path: Path, template: str, parser: str
) -> None:
    """T7, T8, T9: answered `<think>...label`; 1 of 12 right at loss 1e-4; compared without generation_config.json."""
    base = write_reasoning_base(tmp_path / "tiny", template)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "repetition_penalty": 1.02}))
    options = {"LORAMUX_ENGINE__REASONING_PARSER": parser} if parser else {}
    with served(base, tmp_path / "server", **options) as client:
        job = run_job(client, "tiny")
        assert job.status == "succeeded", messages(client, job.id)
        assert "Self-test: 12 of 12 training questions were answered as trained" in messages(client, job.id)
        assert wrong_answers(client, job.fine_tuned_model) == {}

        comparison = json.loads(client.files.content(job.result_files[-1]).content)
        base_answers = [row for row in comparison["answers"] if row["arm"] == "base"]
        validation = [json.loads(line)["messages"] for line in validation_lines().splitlines()]
        questions = {answer["content"]: question["content"] for question, answer in validation}
        assert len(base_answers) == len(questions)
        for row in base_answers:
            asked = ask(client, "tiny", questions[row["expected"]], row["output_tokens"])
            assert asked == row["answer"].removeprefix("<think>")


def test_an_adapter_of_loramux_train_answers_its_training_questions(tmp_path: Path) -> None:
    """T8: trained with DeepSeek-R1's template, it answered 1 of 12 of its own training questions."""
    base = write_reasoning_base(tmp_path / "tiny", OPEN_THINK)
    (tmp_path / "train.jsonl").write_bytes(training_lines())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"max_length": 64}))
    options = ("--data", "train.jsonl", "--recipe", "recipe.yaml", "--output", "colors")
    command = [LORAMUX, "train", "--base", str(base), *options]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    folders = {
        "LORAMUX_ADAPTERS": json.dumps({"colors": str(tmp_path / "colors")}),
        "LORAMUX_ALLOWED_ROOTS": json.dumps([str(tmp_path)]),
    }
    with served(base, tmp_path / "server", **folders) as client:
        assert wrong_answers(client, "colors") == {}
