"""Options of `loramux compare`, and reading of the plans, data, scorers and prices that they name."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, TypeAdapter, ValidationError

from loramux_loadtests.client import ChatClient, ProtocolError
from loramux_loadtests.compare.arm_options import example_arms, parse_arms, parse_keys
from loramux_loadtests.compare.costs import ComparisonPrices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.judge import ComparisonScorer, JudgeScorer
from loramux_loadtests.compare.plan import (
    Comparison,
    ComparisonPlan,
    DefaultServer,
    build_comparison,
    format_validation_error,
    read_plan,
)
from loramux_loadtests.compare.runner import RunSettings
from loramux_loadtests.prices import parse_price_list

FOLDER_PLAN = "compare.yaml"
_SCORER: TypeAdapter[ComparisonScorer] = TypeAdapter(ComparisonScorer)


@dataclass(frozen=True)
class CompareOptions:
    """The options of the command line; see `loramux compare --help`."""

    url: str
    api_key: str | None = None
    arm_keys: Sequence[str] = ()
    server: str | None = None
    """Name of the server if its `url` changes between runs, so that an interrupted comparison can resume."""
    base: str | None = None
    arms: Sequence[str] = ()
    scorer: str = "auto"
    measure: str | None = None
    margin: float | None = None
    training: Path | None = None
    max_tokens: int = 128
    challenger: str | None = None
    reference: str | None = None
    prices: Path | None = None
    limit: int | None = None
    output: Path = Path("comparisons")
    conditions: Sequence[str] = ()
    judge_key: str | None = None
    settings: RunSettings = field(default_factory=RunSettings)


def read_comparison(source: Path, options: CompareOptions) -> Comparison:
    """Read a plan (YAML), a folder with one, or a data file (JSONL) that is compared by the arms of the options.

    Raises:
        ComparisonError: a file can't be read, an option is invalid, or the base model is not known.
    """
    plan, folder, name = _read_plan(source, options)
    plan = plan.model_copy(
        update={
            "challenger": options.challenger or plan.challenger,
            "reference": options.reference or plan.reference,
            "measure": options.measure or plan.measure,
            "margin": plan.margin if options.margin is None else options.margin,
            "training": options.training.resolve() if options.training else plan.training,
            "prices": _read_prices(options.prices) if options.prices else plan.prices,
        }
    )
    server = DefaultServer(options.url, options.api_key, parse_keys(options.arm_keys))
    comparison = build_comparison(plan, folder, name, server, options.limit)
    return comparison._replace(
        scorer=_add_key(comparison.scorer, options.judge_key),
        base_model=_base_model(options) if plan.prices and plan.prices.needs_base_model else None,
    )


def _read_plan(source: Path, options: CompareOptions) -> tuple[ComparisonPlan, Path, str]:
    """Return the plan, the folder that its paths are relative to, and its name."""
    if source.is_dir():
        return _read_folder_plan(source, options), source, source.resolve().name
    if source.suffix in {".yaml", ".yml"}:
        return read_plan(source), source.parent, source.stem
    plan = ComparisonPlan(scorer=parse_scorer(options.scorer), max_tokens=options.max_tokens)
    update = {"data": Path(source.name), "arms": parse_arms(options.arms)}
    return plan.model_copy(update=update), source.parent, source.stem


def _read_folder_plan(folder: Path, options: CompareOptions) -> ComparisonPlan:
    plan = read_plan(folder / FOLDER_PLAN)
    if plan.arms:
        return plan
    return plan.model_copy(update={"arms": example_arms(_base_model(options), folder.resolve().name, folder)})


def _base_model(options: CompareOptions) -> str:
    return options.base or asyncio.run(_find_base_model(options))


async def _find_base_model(options: CompareOptions) -> str:
    """Ask the server for its models, and return the first one that has no parent."""
    try:
        async with ChatClient(options.url, options.api_key) as client:
            models = await client.models()
    except ProtocolError as error:
        raise ComparisonError(str(error)) from error
    for model in models:
        if not model.get("parent"):
            return str(model.get("id"))
    raise ComparisonError(f"{options.url} lists no base model: name it with --base")


def _add_key(scorer: ComparisonScorer, key: str | None) -> ComparisonScorer:
    if isinstance(scorer, JudgeScorer) and key:
        return scorer.model_copy(update={"api_key": SecretStr(key)})
    return scorer


def parse_scorer(text: str) -> ComparisonScorer:
    """Parse `--scorer`: a type, FILE.py:FUNCTION or MODULE:FUNCTION, or YAML.

    Raises:
        ComparisonError: it is not a scorer.
    """
    try:
        given: Any = yaml.safe_load(text) if ":" not in text or "{" in text else {"type": "function", "function": text}
        return _SCORER.validate_python(given if isinstance(given, dict) else {"type": given})
    except (ValidationError, yaml.YAMLError) as error:
        reason = format_validation_error(error) if isinstance(error, ValidationError) else str(error)
        raise ComparisonError(f"--scorer {text}: {reason}") from error


def _read_prices(path: Path) -> ComparisonPrices:
    try:
        return parse_price_list(path.read_text(encoding="utf-8"), ComparisonPrices)
    except OSError as error:
        raise ComparisonError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ComparisonError(f"{path}: {error}") from error
