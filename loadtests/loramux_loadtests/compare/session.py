"""Runs comparisons from their files to their reports, and prints the results."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loramux_loadtests.compare.answer_log import AnswerLog, Batch, MeasuredAnswer, ScoredAnswer, fingerprint
from loramux_loadtests.compare.assertions import assertion_variables, check_condition, evaluate_condition
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.markdown import (
    DOUBTFUL,
    printable,
    summary_table,
    terminal_samples,
    terminal_table,
    warning_text,
)
from loramux_loadtests.compare.page import write_report
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.reading import CompareOptions, read_comparison
from loramux_loadtests.compare.runner import run_comparison, unanswered
from loramux_loadtests.compare.scoring import score_answers
from loramux_loadtests.compare.summary import ComparisonSummary, summarize

stderr, stdout = Console(stderr=True, highlight=False), Console(highlight=False)


def compare(
    comparison: Comparison, options: CompareOptions, recorded: Sequence[MeasuredAnswer] = ()
) -> ComparisonSummary:
    """Ask all unanswered items, and write report.html, report.json and report.md.

    Every answer is saved in rows.jsonl as it comes. `recorded` are answers to these items that an arm gave before; they
    are not asked again.

    Raises:
        ComparisonError: a condition is invalid, a request failed, or no item has a score in every arm.
    """
    for condition in options.conditions:
        check_condition(condition)
    folder = options.output / comparison.name
    settings = options.settings
    facts = {
        "max_tokens": comparison.max_tokens,
        "passes": ", ".join(settings.passes),
        "concurrency": settings.concurrency,
        "seed": settings.seed,
        "servers": ", ".join(sorted({arm.url for arm in comparison.arms})),
    }
    if comparison.unsent:
        facts["keys of the data that are not sent"] = ", ".join(sorted(comparison.unsent))
    answers, batches = asyncio.run(_measure(comparison, options, folder / "rows.jsonl", recorded))
    summary = summarize(comparison, answers, batches)
    write_report(folder, comparison, summary, answers, facts)
    (folder / "report.md").write_text(summary_table(summary) + "\n", encoding="utf-8")
    return summary


async def _measure(
    comparison: Comparison, options: CompareOptions, path: Path, recorded: Sequence[MeasuredAnswer]
) -> tuple[list[ScoredAnswer], Mapping[tuple[str, str], Sequence[Batch]]]:
    """Return all answers with their scores, pass by pass, and the batches by pass and arm."""
    settings, scorer = options.settings, fingerprint(comparison.scorer.cache_key())
    of_now, outdated = (_fingerprint(comparison, options, data) for data in (comparison.data, comparison.outdated_data))
    with AnswerLog(path, of_now, scorer, outdated=outdated) as log, _progress() as progress:
        known = {answer.key for answer in log.answers}
        for answer in recorded:
            if answer.key not in known:
                log.add(answer)
        total = len(comparison.items) * len(comparison.arms) * len(settings.passes)
        left = sum(len(arms) for pass_ in settings.passes for arms in unanswered(comparison, log, pass_).values())
        asking = progress.add_task(comparison.name, total=total, completed=total - left)
        await run_comparison(comparison, settings, log, lambda: progress.advance(asking))
        answers = [
            answer
            for pass_ in settings.passes
            for answer in log.answers
            if answer.pass_ == pass_ and answer.item < len(comparison.items)
        ]
        scoring = progress.add_task("scoring", total=len(answers))
        scored = await score_answers(comparison, answers, log, settings.concurrency, lambda: progress.advance(scoring))
        return scored, log.batches


def _fingerprint(comparison: Comparison, options: CompareOptions, data: str) -> str:
    # The keys must stay as they are: rows.jsonl files of earlier releases have this fingerprint.
    names = {options.url: options.server or options.url}
    arms = [arm._replace(url=names.get(arm.url, arm.url), api_key=None) for arm in comparison.arms]
    settings = {"length": comparison.max_tokens, "at once": options.settings.concurrency}
    return fingerprint({"items": data, "arms": arms, **settings})


def _progress() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}", markup=False), *columns, console=stderr)


def print_summary(summary: ComparisonSummary, options: CompareOptions) -> bool:
    """Print the summary and the conditions that do not hold; return whether all hold and every answer has a score.

    Raises:
        ComparisonError: a condition has a variable that was not measured.
    """
    for pass_summary in summary.passes:
        stdout.print(terminal_table(summary, pass_summary))
    stdout.print(printable(summary.sentence), style="bold", markup=False)
    if summary.verdict in DOUBTFUL:
        stdout.print(terminal_samples(summary))
    for warning in summary.warnings:
        stderr.print(f"warning: {printable(warning_text(warning))}", style="yellow", markup=False)
    stderr.print(f"\nfull report: {options.output / summary.name / 'report.html'}", markup=False)
    variables = assertion_variables(summary)
    failed = [condition for condition in options.conditions if not evaluate_condition(condition, variables)]
    for condition in failed:
        stderr.print(f"does not hold: {condition}", style="red", markup=False)
        stderr.print(", ".join(f"{name} {value:.4g}" for name, value in variables.items()), markup=False)
    if summary.unscored:
        stderr.print(f"{summary.unscored} answers could not be scored (`error` in rows.jsonl)", style="red")
    return not failed and not summary.unscored


def compare_all(sources: Sequence[Path], options: CompareOptions) -> tuple[int, list[ComparisonSummary]]:
    """Run all comparisons; return the exit code and the summaries.

    Exit code 1: a condition does not hold, or an answer has no score; 2: a comparison failed; 130: interrupted.
    """
    summaries, code = [], 0
    for source in sources:
        try:
            summary = compare(read_comparison(source, options), options)
            summaries.append(summary)
            code = max(code, 0 if print_summary(summary, options) else 1)
        except ComparisonError as error:
            stderr.print(f"{source.name}: {error}", style="red", markup=False)
            code = 2
        except KeyboardInterrupt:
            stderr.print("interrupted: run the same command again to resume", style="red")
            return 130, summaries
    return code, summaries
