"""Prompted base against adapter: the same held-out items through every arm, side by side, with intervals.

Run as `python -m loramux_loadtests.compare FOLDER... --url URL --base MODEL`. A folder holds test.jsonl (chat
fine-tuning format), prompt_short.json, prompt_few_shot.json and compare.yaml; its name is the adapter's.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import track

from loramux_loadtests.client import Client, Message, Reply
from loramux_loadtests.scorers import Scorer, Scores
from loramux_loadtests.verdict import Comparison, Row, summarize, write_table

SHORT, FEW_SHOT, ADAPTER = "base, short prompt", "base, few-shot prompt", "adapter, short prompt"


class ComparisonError(Exception):
    """The comparison can't be made or finished: a missing file, or a server that refused a request."""


class Task(BaseModel):
    """What compare.yaml holds: how answers are scored, and how long they may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scorer: Scorer
    max_tokens: Annotated[int, Field(ge=1)]


class Item(NamedTuple):
    """One held-out question with its right answer; whatever system message it came with is left to the arms."""

    messages: list[Message]
    expected: str


class Arm(NamedTuple):
    """One way of answering: a model, and the messages that go before every item."""

    name: str
    model: str
    prompt: list[Message]


class Folder(NamedTuple):
    """An example's folder, read."""

    name: str
    task: Task
    items: list[Item]
    short: list[Message]
    few_shot: list[Message]

    def arms(self, base: str) -> list[Arm]:
        """The three ways that are compared."""
        return [
            Arm(SHORT, base, self.short),
            Arm(FEW_SHOT, base, self.few_shot),
            Arm(ADAPTER, self.name, self.short),
        ]


def read_folder(path: Path) -> Folder:
    """Read what is to be compared; raises ComparisonError when something is missing or wrong."""
    try:
        return Folder(
            name=path.resolve().name,
            task=Task.model_validate(yaml.safe_load((path / "compare.yaml").read_text())),
            items=_items(path / "test.jsonl"),
            short=json.loads((path / "prompt_short.json").read_text()),
            few_shot=json.loads((path / "prompt_few_shot.json").read_text()),
        )
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        raise ComparisonError(f"{path.name} can't be compared: {type(error).__name__}: {error}") from error


async def run_arms(client: Client, arms: Sequence[Arm], items: Sequence[Item], task: Task, at_once: int) -> list[Row]:
    """Put every item through every arm and score the answers; raises ComparisonError when a request fails.

    All arms of an item run at the same time, in an order drawn anew for each, so that a machine that gets slower or a
    cache that gets warmer is the same to all. `at_once` items are under way at any time.
    """
    places = asyncio.Semaphore(at_once)
    draw = random.Random(0)  # noqa: S311 - an order, not a secret

    async def one(number: int, item: Item) -> list[Row]:
        async with places:
            shuffled = draw.sample(list(arms), len(arms))
            return await asyncio.gather(*(_answered(client, arm, number, item, task) for arm in shuffled))

    pending = [asyncio.ensure_future(one(number, item)) for number, item in enumerate(items)]
    rows: list[Row] = []
    try:
        for done in track(asyncio.as_completed(pending), total=len(pending), console=Console(stderr=True)):
            rows.extend(await done)
    finally:
        for unfinished in pending:
            unfinished.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return rows


async def _answered(client: Client, arm: Arm, number: int, item: Item, task: Task) -> Row:
    reply = await client.chat(arm.model, [*arm.prompt, *item.messages], max_tokens=task.max_tokens)
    if not reply.ok:
        raise ComparisonError(f"{arm.name}: {reply.error}")
    return _row(arm, number, reply, task.scorer.score(reply.text, item.expected))


def _row(arm: Arm, number: int, reply: Reply, scores: Scores) -> Row:
    return Row(arm.name, number, scores, reply.input_tokens, reply.cached_tokens, reply.output_tokens, reply.text)


def _items(path: Path) -> list[Item]:
    items = [_item(json.loads(line)["messages"]) for line in path.read_text().splitlines()]
    if not items:
        raise ValueError(f"{path.name} is empty")
    return items


def _item(messages: list[dict[str, Any]]) -> Item:
    *said, answer = (message for message in messages if message["role"] != "system")
    return Item([*said], answer["content"])


async def compare(folder: Folder, *, url: str, base: str, limit: int | None = None, at_once: int = 4) -> Comparison:
    """Compare an adapter with its base, prompted shortly and with examples, on the folder's held-out items."""
    async with Client(url) as client:
        rows = await run_arms(client, folder.arms(base), folder.items[:limit], folder.task, at_once)
    return summarize(folder.name, base, rows, challenger=ADAPTER, rival=FEW_SHOT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loramux_loadtests.compare", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders to compare, each named as its adapter")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server")
    parser.add_argument("--base", required=True, help="the base's name on the server")
    parser.add_argument("--limit", type=int, help="only the first so many items")
    parser.add_argument("--at-once", type=int, default=4, help="items under way at any time")
    parser.add_argument("--summary", type=Path, help="Markdown file whose results are rewritten with all folders'")
    return parser


def main() -> int:
    """Compare, write results.json and the table in README.md of each folder; returns the exit code."""
    arguments = _parser().parse_args()
    comparisons = []
    try:
        for path in arguments.folders:
            folder = read_folder(path)
            comparison = asyncio.run(
                compare(
                    folder, url=arguments.url, base=arguments.base, limit=arguments.limit, at_once=arguments.at_once
                )
            )
            (path / "results.json").write_text(comparison.model_dump_json(indent=2) + "\n")
            write_table(path / "README.md", [comparison])
            comparisons.append(comparison)
    except ComparisonError as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        return 1
    if arguments.summary:
        write_table(arguments.summary, comparisons)
    return 0


if __name__ == "__main__":
    sys.exit(main())
