"""The result files of a job: the metrics of each step as a table and as a plot, and the comparison with the base."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loramux_adapters.evaluation.items import Item
from loramux_adapters.finetuning.jobs.evaluation import EvaluationResult
from loramux_adapters.finetuning.jobs.preference_evaluation import PreferenceSummary

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
"""The columns of OpenAI's result files."""
DPO_COLUMNS = ("train_reward_accuracy", "train_reward_margin", "valid_reward_accuracy", "valid_reward_margin")
"""More columns of jobs by DPO, named as TRL's metrics."""
_SMOOTHING = 0.9


def write_results(folder: Path, metrics: Iterable[Mapping[str, Any]], title: str) -> list[Path]:
    """Write `step_metrics.csv` and `loss.png` to `folder`; for a repeated step, the last metrics count."""
    folder.mkdir(parents=True, exist_ok=True)
    steps: dict[int, dict[str, Any]] = {}
    for measured in metrics:
        row = steps.setdefault(measured["step"], {})
        row |= {key.replace("train_mean_token", "train"): value for key, value in measured.items()}
    rows = [steps[step] for step in sorted(steps)]
    table, plot = folder / "step_metrics.csv", folder / "loss.png"
    with table.open("w", newline="", encoding="utf-8") as file:
        more = DPO_COLUMNS if any(DPO_COLUMNS[0] in row for row in rows) else ()
        writer = csv.DictWriter(file, COLUMNS + more, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    _plot_losses(plot, rows, title)
    return [table, plot]


def write_comparison(folder: Path, result: EvaluationResult) -> Path:
    """Write `comparison.json` to `folder`: the summary, the questions, what is sent before each, and every answer.

    `prompts` has, for each arm of the base, the messages before a question's own turns; the adapter has none. A
    prompt with a system message in it adds to the question's own system message, as `arms[...].sample` shows.
    """
    path = folder / "comparison.json"
    document = result.summary.model_dump(mode="json") | {
        "items": [
            {"line": line, "messages": item.messages, "expected": item.expected, **_tools(item)}
            for line, item in zip(result.lines, result.questions, strict=True)
        ],
        "prompts": {prompt.name: prompt.add_to([]) for prompt in result.prompts},
        "answers": [answer._asdict() for answer in result.answers],
        "selection_answers": [answer._asdict() for answer in result.selection_answers],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8", errors="replace")
    return path


def _tools(item: Item) -> dict[str, Any]:
    return {"tools": item.tools} if item.tools else {}


def write_preferences(folder: Path, summary: PreferenceSummary) -> Path:
    """Write `preferences.json` to `folder`: the evaluation of a job by DPO, with answers."""
    path = folder / "preferences.json"
    document = summary.model_dump(mode="json")
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8", errors="replace")
    return path


def _plot_losses(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    # Imported here: it takes a second, and few servers ever plot.
    from matplotlib.figure import Figure

    trained = [(row["step"], row["train_loss"]) for row in rows if row.get("train_loss") is not None]
    validated = [(row["step"], row["valid_loss"]) for row in rows if row.get("valid_loss") is not None]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    if trained:
        steps, losses = zip(*trained, strict=True)
        axes.plot(steps, losses, color="#9db7d5", linewidth=0.8, label="training, each step")
        axes.plot(steps, exponential_averages(losses), color="#1f5fa8", linewidth=2, label="training, smoothed")
    if validated:
        axes.plot(*zip(*validated, strict=True), "o-", color="#c2410c", label="validation")
    axes.set(title=title, xlabel="step", ylabel="loss of the answers' tokens (nats)", ylim=(0, None))
    axes.grid(alpha=0.3)
    if trained or validated:
        axes.legend()
    figure.savefig(path)


def exponential_averages(values: Sequence[float]) -> list[float]:
    """Return exponential moving averages, corrected for the bias of the first values."""
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + 1 - _SMOOTHING
        means.append(mean / weight)
    return means
