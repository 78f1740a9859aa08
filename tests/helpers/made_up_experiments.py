"""Made-up fine-tuning jobs whose truth is known: data, and answers of a base and an adapter with given skills.

`python -m tests.helpers.made_up_experiments FOLDER` writes the report and the raw rows of each to a folder of its own,
under names that do not tell the truth, and the truth to truth.json: for judging them with fresh eyes.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from loramux_adapters.evaluation.items import Chat, Tools
from loramux_adapters.finetuning.jobs.evaluation import Completion, EvaluationResult, Evaluator
from loramux_adapters.finetuning.jobs.result_files import write_comparison
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from tests.helpers.fine_tuning_jobs import CharacterTokens

VERSION = VersionId(AdapterName("made-up"), parse_digest("0123456789ab"))
LABELS = ("refund", "card_lost", "loan", "address_change", "fees")
WORDS = ("my", "the", "please", "again", "today", "account", "shop", "still", "never", "why", "help", "letter", "bank")
Pair = tuple[str, str]
"""A question with its expected answer."""
Wrong = Callable[[str, str, Random], str]
"""(arm, right answer, random numbers) to a wrong answer."""


def rng_of(*parts: object) -> Random:
    """Return random numbers that depend on `parts` alone."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return Random(int.from_bytes(digest[:8]))  # noqa: S311 - a simulation


def another_label(_arm: str, right: str, rng: Random) -> str:
    """Return one of the other labels."""
    return rng.choice([label for label in LABELS if label != right])


@dataclass(frozen=True)
class Experiment:
    """A job: its data, the shares that each arm answers right, and the only verdict and warnings that are right."""

    name: str
    training: Sequence[Pair]
    validation: Sequence[Pair]
    bare: float
    prompted: float
    adapter: float
    verdict: str
    warnings: frozenset[str] = frozenset()
    measure: str = "label accuracy"
    wrong: Wrong = another_label
    truth: Mapping[str, str] = field(default_factory=dict)
    """The right answers, where the data's expected ones are wrong."""
    form: str = "{}"
    """The form of every answer."""

    async def answer(
        self,
        version: VersionId | None,
        chat: Chat,
        max_tokens: int,
        tools: Tools = (),
        parallel_tool_calls: bool = True,
    ) -> Completion:
        """Answer a chat; half of what makes a question hard is common to all arms."""
        question = chat[-1]["content"]
        arm = "adapter" if version else "prompted" if len(chat) > 2 else "bare"
        own, common = rng_of(self.name, question, arm, len(chat)), rng_of(self.name, question)
        right = self._right[question]
        hardness = (common if common.random() < 0.5 else own).random()
        text = self.form.format(right if hardness < getattr(self, arm) else self.wrong(arm, right, own))
        tokens = sum(len(message["content"]) for message in chat) // 4
        seconds = round(0.05 + tokens / 20_000, 4)
        return Completion(text[: 4 * max_tokens], tokens, max(1, len(text) // 4), seconds, "stop")

    @cached_property
    def _right(self) -> Mapping[str, str]:
        return {**dict(self.training), **dict(self.validation), **self.truth}


def experiments() -> list[Experiment]:
    """Return all made-up experiments."""
    return [
        labelled("adapter better", 200, 100, (0.2, 0.55, 0.9), "better"),
        labelled("adapter equal", 300, 600, (0.3, 0.9, 0.9), "as good"),
        labelled("adapter slightly worse", 300, 100, (0.3, 0.85, 0.8), "not enough items"),
        labelled("adapter clearly worse", 200, 100, (0.2, 0.9, 0.5), "worse"),
        labelled("adapter better, but within the margin", 300, 1500, (0.3, 0.95, 0.98), "as good"),
        labelled("tiny", 200, 8, (0.2, 0.3, 1.0), "not enough items"),
        labelled("no better than one answer", 200, 300, (0.2, 0.2, 0.2), "neither works"),
        replace(
            codes("broken scorer"), bare=1.0, prompted=1.0, adapter=1.0, form="<b>{}</b>", verdict="scorer in doubt"
        ),
        codes("nothing right"),
        orders("JSON, never all right"),
        with_leaks("leaks"),
        with_wrong_labels("wrong labels"),
    ]


def labelled(
    name: str, training: int, validation: int, skills: tuple[float, float, float], verdict: str, **more: Any
) -> Experiment:
    """Return a job that classifies messages."""
    rng = rng_of(name, "data")
    pairs = [(f"{i}: {' '.join(rng.choices(WORDS, k=9))}", rng.choice(LABELS)) for i in range(training + validation)]
    return Experiment(name, pairs[:training], pairs[training:], *skills, verdict, **more)


def codes(name: str, verdict: str = "neither works") -> Experiment:
    """Return a job whose answers are all different, and that nobody learned."""
    rng = rng_of(name, "data")
    pairs = [(f"code of item {i} {rng.choice(WORDS)}", f"{rng.randrange(10**6):06d}") for i in range(200)]
    return Experiment(
        name, pairs[:150], pairs[150:], 0.0, 0.0, 0.0, verdict, frozenset({"same_scores"}), "exact match",
        wrong=lambda *_: "?",
    )  # fmt: skip


def orders(name: str) -> Experiment:
    """Return a job whose JSON no arm has all right; the adapter has more of the fields than the prompted base."""
    rng = rng_of(name, "data")
    pairs = []
    for i in range(300):
        order = {"item": rng.choice(WORDS), "count": rng.randrange(1, 50), "size": rng.randrange(9), "note": f"n{i}"}
        pairs.append((f"order {i}: {' '.join(rng.choices(WORDS, k=6))}", json.dumps(order)))

    def partly_right(arm: str, right: str, rng: Random) -> str:
        share = {"bare": 0.1, "prompted": 0.3, "adapter": 0.6}[arm]
        kept = {key: value if rng.random() < share else None for key, value in json.loads(right).items()}
        return json.dumps(kept | {"note": "?"})

    return Experiment(
        name,
        pairs[:200],
        pairs[200:],
        0.0,
        0.0,
        0.0,
        "better",
        frozenset({"never_right"}),
        "field accuracy",
        wrong=partly_right,
    )


def with_leaks(name: str) -> Experiment:
    """Return a job whose validation file is half made from its training file; on the rest the arms are equal."""
    made = labelled(name, 200, 40, (0.2, 0.6, 0.6), "not enough items", warnings=frozenset({"leak", "near_leak"}))
    rng = rng_of(name, "long")
    long = [(" ".join(f"word{n}" for n in rng.sample(range(5000), 60)), rng.choice(LABELS)) for _ in range(20)]
    copies = [(f"{question.upper()}!", label) for question, label in made.training[:40]]
    nearly = [(f"{question} thanks", label) for question, label in long]
    return replace(made, training=[*made.training, *long], validation=[*made.validation, *copies, *nearly])


def with_wrong_labels(name: str) -> Experiment:
    """Return a job of which 12 of 100 held-out answers are wrong, and that both arms have learned."""
    made = labelled(name, 300, 100, (0.3, 1.0, 1.0), "as good", warnings=frozenset({"wrong_label"}))
    rng, right = rng_of(name, "wrong"), made.validation[:12]
    wrong = [(question, another_label("", label, rng)) for question, label in right]
    return replace(made, validation=[*wrong, *made.validation[12:]], truth=dict(right))


async def evaluate(experiment: Experiment, folder: Path) -> EvaluationResult:
    """Run a job's evaluation on a made-up experiment; its files are written to `folder`."""
    training, validation = folder / "training.jsonl", folder / "validation.jsonl"
    for path, pairs in ((training, experiment.training), (validation, experiment.validation)):
        path.write_text("".join(f"{json.dumps(_line(*pair))}\n" for pair in pairs), encoding="utf-8")
    evaluator = Evaluator(experiment.answer, CharacterTokens(), max_context_tokens=20_000, max_questions=5000)
    result = await evaluator.evaluate(VERSION, None, training, validation)
    if result is None:
        raise ValueError(f"{experiment.name}: every validation example is in the training file")
    return result


def _line(question: str, answer: str) -> dict[str, Any]:
    contents = {"system": "You work for a bank.", "user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": content} for role, content in contents.items()]}


def write_all(folder: Path) -> None:
    """Write the report and the rows of each experiment to `folder`, and the truth to truth.json."""
    made = experiments()
    rng_of("order").shuffle(made)
    truth = {}
    for number, experiment in enumerate(made, start=1):
        target = folder / f"experiment-{number:02d}"
        target.mkdir(parents=True, exist_ok=True)
        result = asyncio.run(evaluate(experiment, target))
        write_comparison(target, result)
        report = result.summary.model_dump(mode="json", exclude={"token_moments"})
        (target / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        rows = "".join(f"{json.dumps(answer._asdict(), ensure_ascii=False)}\n" for answer in result.answers)
        (target / "rows.jsonl").write_text(rows, encoding="utf-8")
        truth[target.name] = {"experiment": experiment.name, "verdict": experiment.verdict}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
