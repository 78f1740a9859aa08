"""Prints the comparison of a fine-tuning job: verdict, arms, prompts that were tried, warnings and sent messages."""

from rich.markup import escape

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.content_text import content_text
from loramux_server.cli.console import JsonObject, column_table, stdout


def evaluation(found: JsonObject) -> None:
    """Print a job's comparison; earlier releases stored only some of its parts."""
    stdout.print(f"\n[bold]{escape(found['sentence'])}[/]")
    for warning in found.get("warnings", ()):
        stdout.print(f"Warning: {escape(warning['message'])}", style="yellow")
    if arms := found.get("arms"):
        _arms(arms, found["measure"])
    if candidates := [each for each in found.get("candidates", ()) if each["score"] is not None]:
        _candidates(candidates)
    for name, arm in (arms or {}).items():
        if sample := arm.get("sample"):
            _sample(name, sample)


def preference(found: JsonObject) -> None:
    """Print the evaluation of a job by DPO, with the answers to some prompts of its validation file."""
    stdout.print(f"\n[bold]{escape(found['sentence'])}[/]")
    for sample in found["samples"]:
        question = content_text(sample["messages"][-1].get("content"))
        stdout.print(f"\n[bold]Line {sample['line']}:[/] {escape(question)}", soft_wrap=True)
        for name in ("preferred", "non_preferred", "reference", "adapter"):
            stdout.print(f"{name.replace('_', '-')}: {sample[name]}", markup=False, soft_wrap=True)


def _arms(arms: JsonObject, measure: str) -> None:
    scores = [measure, *(name for name in next(iter(arms.values()))["scores"] if name != measure)]
    table = column_table("", *map(escape, scores), "input tokens", "output tokens", "seconds")
    for name, arm in arms.items():
        intervals = [_interval(arm["scores"][score]) for score in scores]
        means = (f"{arm['input_tokens']:,.0f}", f"{arm['output_tokens']:,.0f}", f"{arm['seconds']:.2f}")
        table.add_row(escape(name), *map(escape, intervals), *means)
    stdout.print()
    stdout.print(table)


def _candidates(candidates: list[JsonObject]) -> None:
    tried = [f"{each['name']} {each['score']:.2f}{' (chosen)' if each['is_chosen'] else ''}" for each in candidates]
    items = candidates[0]["items"]
    stdout.print(f"\nTried on {items} training examples, which are not in the prompts: {escape(', '.join(tried))}.")


def _sample(arm: str, sample: JsonObject) -> None:
    stdout.print(f"\n[bold]Sent for {escape(arm)}, question {sample['question']}:[/]")
    for message in sample["messages"]:
        stdout.print(f"{message['role']}: {answer_text(message)}", markup=False, soft_wrap=True)
    if sample["left_out"]:
        stdout.print(f"({sample['left_out']} messages before the last ones are left out; comparison.json has them)")
    stdout.print(f"[bold]It answered:[/] {escape(sample['answer'])}", soft_wrap=True)
    stdout.print(f"[bold]Expected:[/] {escape(sample['expected'])}", soft_wrap=True)


def _interval(score: JsonObject) -> str:
    return f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
