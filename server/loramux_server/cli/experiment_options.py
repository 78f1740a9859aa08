"""Options that describe an experiment: baseline, quality, share and limits."""

import re
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from loramux_server.cli.adapter_names import resolve_digest
from loramux_server.cli.api_client import ApiClient
from loramux_server.cli.console import fail

Share = Annotated[float, typer.Option(min=0.01, max=100, help="Percent of the users who get it.")]
ScorerFile = Annotated[
    Path | None,
    typer.Option("--scorer", help="YAML file of a scorer that needs no expected answer: type style or json."),
]
Judge = Annotated[
    str | None,
    typer.Option(help="Model of this server (or of the one at its judge_url) that grades the answers."),
]
Rubric = Annotated[str | None, typer.Option(help="What the judge grades by: a text, or a file with it.")]
Margin = Annotated[float, typer.Option(min=0.001, max=0.999, help="Smaller differences of mean scores don't matter.")]
LIMITS = ("errors", "latency", "quality")
_VERSION = re.compile(r"[^\s@]+@[0-9a-fA-F]+")


def baseline_body(client: ApiClient, name: str, text: str) -> dict[str, Any]:
    """Return the API's baseline: `base`, NAME@DIGEST, or the base with the prompt in a file."""
    # Imported late, as by `loramux compare`: the other commands are quicker without them.
    from loramux_loadtests.compare.errors import ComparisonError
    from loramux_loadtests.compare.items import read_prompt

    if text == "base":
        return {}
    if _VERSION.fullmatch(text) and not Path(text).is_file():
        return {"model": f"{name}@{resolve_digest(client, name, text)}"}
    try:
        prompt = read_prompt(Path(text))
    except ComparisonError as error:
        fail(f"--baseline {text}: {error}; expected a prompt file (.txt or .json), `base`, or {name}@DIGEST")
    if not prompt:
        fail(f"--baseline {text}: the file is empty; for the base without a prompt, use `--baseline base`")
    return {"prompt": prompt}


def quality_body(scorer: Path | None, judge: str | None, rubric: str | None) -> dict[str, Any]:
    """Return the API's quality: by a scorer or a judge if one is given, else by feedback."""
    if scorer is not None and judge is not None:
        fail("--scorer and --judge exclude each other")
    if (judge is None) != (rubric is None):
        fail("--judge and --rubric belong together")
    if scorer is not None:
        return {"type": "scorer", "scorer": _read_scorer(scorer)}
    if judge is not None and rubric is not None:
        return {"type": "judge", "model": judge, "rubric": _text(rubric)}
    return {"type": "feedback"}


def limits_body(texts: Sequence[str]) -> dict[str, float]:
    """Parse several NAME=NUMBER."""
    limits: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            limits[name] = float(number)
        except ValueError:
            limits[name] = float("nan")
        if name not in LIMITS or not isfinite(limits[name]):
            fail(f"invalid --limit {text!r}; expected errors=SHARE, latency=RATIO or quality=DIFFERENCE")
    return limits


def _read_scorer(path: Path) -> Any:
    try:
        scorer = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        fail(f"--scorer {path}: can't be read: {getattr(error, 'strerror', None) or error}")
    if not isinstance(scorer, dict):
        fail(f"--scorer {path}: expected a mapping, such as `type: style` with `rules`")
    return scorer


def _text(text_or_file: str) -> str:
    path = Path(text_or_file)
    try:
        return path.read_text(encoding="utf-8") if len(text_or_file) < 256 and path.is_file() else text_or_file
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--rubric {path}: can't be read: {getattr(error, 'strerror', None) or error}")
