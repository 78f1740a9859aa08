"""A comparison from its files to its reports."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loramux_adapters.evaluation.scorers import Scorer
from loramux_adapters.evaluation.scorers.judge import JudgeScorer
from loramux_loadtests.client import Client, ProtocolError
from loramux_loadtests.compare import assertions as gate
from loramux_loadtests.compare import page
from loramux_loadtests.compare.costs import Prices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.markdown import overview, table
from loramux_loadtests.compare.plan import (
    Comparison,
    Plan,
    Server,
    example_arms,
    parse_arms,
    parse_keys,
    prepared,
    read_plan,
    told,
)
from loramux_loadtests.compare.rows import Journal, Row, Turn, fingerprint
from loramux_loadtests.compare.runner import Settings, missing, run
from loramux_loadtests.compare.scoring import score
from loramux_loadtests.compare.summary import Summary, summarize

FOLDER_PLAN = "compare.yaml"
_SCORER: TypeAdapter[Scorer] = TypeAdapter(Scorer)

words, out = Console(stderr=True, highlight=False), Console(highlight=False)


@dataclass(frozen=True)
class Asked:
    """What the command line says; see `loramux compare --help`."""

    url: str
    api_key: str | None = None
    arm_keys: Sequence[str] = ()
    server: str | None = None
    """What `url` is called where it changes from run to run, so that one that was broken off goes on."""
    base: str | None = None
    arms: Sequence[str] = ()
    scorer: str = "exact"
    max_tokens: int = 128
    challenger: str | None = None
    reference: str | None = None
    prices: Path | None = None
    limit: int | None = None
    output: Path = Path("comparisons")
    conditions: Sequence[str] = ()
    judge_key: str | None = None
    settings: Settings = field(default_factory=Settings)


def read(source: Path, asked: Asked) -> Comparison:
    """Read what is to be compared: a plan (YAML), a folder with one, or a data file (JSONL) with the arms asked for.

    Raises ComparisonError.
    """
    if source.is_dir():
        plan, folder, name = _of_folder(source, asked), source, source.resolve().name
    elif source.suffix in {".yaml", ".yml"}:
        plan, folder, name = read_plan(source), source.parent, source.stem
    else:
        plan, folder, name = Plan(scorer=scorer(asked.scorer), max_tokens=asked.max_tokens), source.parent, source.stem
        plan = plan.model_copy(update={"data": Path(source.name), "arms": parse_arms(asked.arms)})
    changes = {
        "challenger": asked.challenger or plan.challenger,
        "reference": asked.reference or plan.reference,
        "prices": _prices(asked.prices) if asked.prices else plan.prices,
    }
    comparison = prepared(
        plan.model_copy(update=changes),
        folder,
        name,
        Server(asked.url, asked.api_key, parse_keys(asked.arm_keys)),
        asked.limit,
    )
    return comparison._replace(scorer=_with_key(comparison.scorer, asked.judge_key))


def _with_key(scorer: Scorer, key: str | None) -> Scorer:
    if isinstance(scorer, JudgeScorer) and key:
        return scorer.model_copy(update={"api_key": SecretStr(key)})
    return scorer


def _of_folder(folder: Path, asked: Asked) -> Plan:
    plan = read_plan(folder / FOLDER_PLAN)
    if plan.arms:
        return plan
    base = asked.base or asyncio.run(_base(asked))
    return plan.model_copy(update={"arms": example_arms(base, folder.resolve().name)})


async def _base(asked: Asked) -> str:
    """The server's own base: its first model that has no parent."""
    try:
        async with Client(asked.url, asked.api_key) as client:
            models = await client.models()
    except ProtocolError as error:
        raise ComparisonError(str(error)) from error
    for model in models:
        if not model.get("parent"):
            return str(model.get("id"))
    raise ComparisonError(f"{asked.url} names no base model: say which one with --base")


def scorer(text: str) -> Scorer:
    """Read a scorer as the command line writes it: its type, or FILE.py:FUNCTION, or YAML; raises ComparisonError."""
    try:
        given: Any = yaml.safe_load(text) if ":" not in text or "{" in text else {"type": "function", "function": text}
        return _SCORER.validate_python(given if isinstance(given, dict) else {"type": given})
    except (ValidationError, yaml.YAMLError) as error:
        reason = told(error) if isinstance(error, ValidationError) else str(error)
        raise ComparisonError(f"--scorer {text}: {reason}") from error


def _prices(path: Path) -> Prices:
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ComparisonError(f"{path} can't be read: {error}") from error
    except ValidationError as error:
        raise ComparisonError(f"{path}: {told(error)}") from error


def compare(comparison: Comparison, asked: Asked) -> Summary:
    """Ask what was not asked yet, and write report.html, report.json and report.md; raises ComparisonError.

    What was answered is kept in rows.jsonl, whatever happens.
    """
    for condition in asked.conditions:
        gate.check(condition)
    folder = asked.output / comparison.name
    settings = asked.settings
    facts = {
        "max_tokens": comparison.max_tokens,
        "passes": ", ".join(settings.passes),
        "at once": settings.at_once,
        "seed": settings.seed,
        "servers": ", ".join(sorted({arm.url for arm in comparison.arms})),
    }
    rows, turns = asyncio.run(_measured(comparison, asked, folder / "rows.jsonl"))
    summary = summarize(comparison, rows, turns)
    page.write(folder, comparison, summary, rows, facts)
    (folder / "report.md").write_text(table(summary) + "\n", encoding="utf-8")
    return summary


async def _measured(
    comparison: Comparison, asked: Asked, path: Path
) -> tuple[list[Row], Mapping[tuple[str, str], Sequence[Turn]]]:
    """All answers with their scores, pass by pass, and the turns."""
    settings, scored_by = asked.settings, fingerprint(comparison.scorer.identity())
    with Journal(path, _identity(comparison, asked), scored_by) as journal, _progress() as bar:
        total = len(comparison.items) * len(comparison.arms) * len(settings.passes)
        left = sum(len(arms) for name in settings.passes for arms in missing(comparison, journal, name).values())
        asking = bar.add_task(comparison.name, total=total, completed=total - left)
        await run(comparison, settings, journal, lambda: bar.advance(asking))
        answers = [
            answer
            for name in settings.passes
            for answer in journal.answers
            if answer.pass_ == name and answer.item < len(comparison.items)
        ]
        scoring = bar.add_task("scoring", total=len(answers))
        rows = await score(comparison, answers, journal, settings.at_once, lambda: bar.advance(scoring))
        return rows, journal.turns


def _identity(comparison: Comparison, asked: Asked) -> str:
    known = {asked.url: asked.server or asked.url}
    arms = [arm._replace(url=known.get(arm.url, arm.url), api_key=None) for arm in comparison.arms]
    asked_for = {"length": comparison.max_tokens, "at once": asked.settings.at_once}
    return fingerprint({"items": comparison.data, "arms": arms, **asked_for})


def _progress() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}", markup=False), *columns, console=words)


def tell(summary: Summary, asked: Asked) -> bool:
    """Print what was found, and whether every condition holds; returns that. Raises ComparisonError."""
    for found in summary.passes:
        out.print(overview(summary, found))
    out.print(summary.sentence, style="bold", markup=False)
    folder = asked.output / summary.name
    words.print(f"\n{folder / 'report.html'} shows all of it", markup=False)
    known = gate.names(summary)
    failed = [condition for condition in asked.conditions if not gate.holds(condition, known)]
    for condition in failed:
        words.print(f"does not hold: {condition}", style="red", markup=False)
        words.print(", ".join(f"{name} {value:.4g}" for name, value in known.items()), markup=False)
    if summary.unscored:
        words.print(f"{summary.unscored} answers could not be scored (`error` in rows.jsonl)", style="red")
    return not failed and not summary.unscored


def compare_all(sources: Sequence[Path], asked: Asked) -> tuple[int, list[Summary]]:
    """Compare each; returns the exit code and what was found.

    1: a condition does not hold, or an answer was not scored; 2: broken off; 130: interrupted.
    """
    found, code = [], 0
    for source in sources:
        try:
            summary = compare(read(source, asked), asked)
            found.append(summary)
            code = max(code, 0 if tell(summary, asked) else 1)
        except ComparisonError as error:
            words.print(f"{source.name}: {error}", style="red", markup=False)
            code = 2
        except KeyboardInterrupt:
            words.print("interrupted: run the same command again, and it goes on", style="red")
            return 130, found
    return code, found
