"""Prints the controlled results of adapters below a usage report, or how to get one."""

from collections.abc import Sequence

from rich.markup import escape

from loramux_server.cli.console import JsonObject, stdout

MAX_NAMES = 5
"""Adapters without a result that are named."""


def print_controlled(groups: Sequence[JsonObject]) -> None:
    """Print the last controlled result of each group of an adapter, and how to get one for the others."""
    adapters = [group for group in groups if group["label"].get("adapter")]
    for group in adapters:
        if group["controlled"]:
            _print_result(group["label"]["adapter"], group["controlled"])
    missing = list(dict.fromkeys(group["label"]["adapter"] for group in adapters if not group["controlled"]))
    if missing:
        _print_how(missing)


def _print_result(adapter: str, result: JsonObject) -> None:
    unit = "items" if result["kind"] == "job" else "users or requests"
    measured = (
        f"{result['measured_at'][:10]}, {result['items']:,} {unit} each, {result['version'] or 'version removed'}"
    )
    elsewhere = "" if result["is_current"] else f"; {adapter} points at other versions now"
    stdout.print()
    stdout.print(f"[bold]{escape(adapter)}[/]: {escape(result['sentence'])}", soft_wrap=True)
    for line in (
        f"measured {measured}, against {result['baseline']}{elsewhere}",
        f"break-even by the price list: {result['break_even']['sentence']}",
        f"details: {result['command']}",
    ):
        stdout.print(f"  {line}", markup=False, soft_wrap=True)


def _print_how(adapters: Sequence[str]) -> None:
    more = f" and {len(adapters) - MAX_NAMES} more" if len(adapters) > MAX_NAMES else ""
    names, first = ", ".join(adapters[:MAX_NAMES]) + more, adapters[0]
    stdout.print()
    for line in (
        f"no controlled result yet: {names}. Live traffic is not an experiment; to get one:",
        f"  loramux compare test.jsonl --arm prompted=BASE:prompt.txt --arm tuned={first}",
        f"  loramux experiment start {first} --baseline prompt.txt --share 5",
    ):
        stdout.print(line, markup=False, soft_wrap=True)
