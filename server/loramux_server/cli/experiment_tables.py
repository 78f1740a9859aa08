"""Tables that `loramux experiment` prints."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape

from loramux_server.cli.console import JsonObject, column_table, fact_table, stdout

_NAMES = {
    "duration": "seconds",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "price_list_cost": "USD, price list",
    "gpu_hour_cost": "USD, engine time",
}


def experiments(found: Sequence[JsonObject]) -> None:
    """Print experiments, one per line."""
    if not found:
        stdout.print("no experiments; start one with `loramux experiment start NAME --baseline prompt.txt`")
        return
    table = column_table("id", "adapter", "state", "users", "verdict")
    for each in found:
        report = each["report"]
        users = report["challenger"]["units"] + report["reference"]["units"]
        table.add_row(each["id"], escape(each["adapter"]), each["state"], f"{users:,}", report["verdict"])
    stdout.print(table)


def experiment(found: JsonObject) -> None:
    """Print what an experiment shows."""
    report = found["report"]
    stdout.print(fact_table(_facts(found)))
    stdout.print()
    table = column_table("variant", "users", "scored", "requests", "failed", "mean score")
    for side in ("challenger", "reference"):
        variant = report[side]
        counts = (f"{variant[name]:,}" for name in ("units", "scored_units", "requests", "failed"))
        table.add_row(variant["name"], *counts, _interval(variant["score"]))
    stdout.print(table)
    _print_ratios(report)
    stdout.print()
    stdout.print(f"[bold]{escape(report['sentence'])}[/]")
    for warning in report["warnings"]:
        stdout.print(warning, style="yellow", markup=False)
    for reason, count in found["left_out"].items():
        stdout.print(f"{count:,} requests {reason}", markup=False)


def feedback(rows: Sequence[JsonObject]) -> None:
    """Print the feedback on the requests of each route."""
    if not rows:
        stdout.print("no feedback; send it with POST /v1/feedback")
        return
    table = column_table("route", "requests", "mean score")
    for row in rows:
        route = f"{row['adapter']}@{row['version']}" if row["adapter"] else "base"
        table.add_row(escape(route), f"{row['requests']:,}", f"{row['mean']:.2f}")
    stdout.print(table)


def _facts(found: JsonObject) -> Mapping[str, str]:
    promotion = found["promotion"]
    limits = ", ".join(f"{name} {value:g}" for name, value in (promotion or {}).get("limits", {}).items() if value)
    return {
        "experiment": f"{found['id']} on {found['adapter']}",
        "state": found["state"] + (f": {found['reason']}" if found["reason"] else ""),
        "started": _moment(found["created_at"]),
        "ended": _moment(found["ended_at"]) if found["ended_at"] else "",
        found["challenger"]["name"]: _variant(found["challenger"]),
        found["reference"]["name"]: _variant(found["reference"]),
        "share": _share(found),
        "quality": _quality(found["quality"]) + f"; differences below {found['margin']:g} don't matter",
        "promoted": f"when {promotion['when']}" + (f"; limits: {limits}" if limits else "") if promotion else "",
    }


def _share(found: JsonObject) -> str:
    percent = f"{found['share'] * 100:.3g} %"
    if found["shadow"]:
        return f"the {found['sampled']} is asked {percent} of the requests in the background"
    return f"{percent} of the users get the {found['sampled']}"


def _variant(variant: JsonObject) -> str:
    prompt = variant["prompt"]
    text = variant["version"] or "base"
    if not prompt:
        return text
    has_system = any(message["role"] in ("system", "developer") for message in prompt)
    replaced = "; its system message replaces the requests' own" if has_system else ""
    return f"{text} with {len(prompt)} messages before each request{replaced}"


def _quality(quality: JsonObject) -> str:
    match quality["type"]:
        case "scorer":
            return f"scorer {quality['scorer'].get('type')}"
        case "judge":
            return f"judged by {quality['model']}"
    return "users' feedback"


def _print_ratios(report: JsonObject) -> None:
    if not report["ratios"]:
        return
    challenger, reference = report["challenger"]["name"], report["reference"]["name"]
    table = column_table("mean per request", challenger, reference, "ratio")
    for ratio in report["ratios"]:
        means = (f"{ratio[side]:.4g}" for side in ("challenger", "reference"))
        table.add_row(_NAMES[ratio["measure"]], *means, _interval(ratio["ratio"]) or "unknown")
    stdout.print()
    stdout.print(table)


def _interval(estimate: Any) -> str:
    if estimate is None:
        return ""
    return escape(f"{estimate['estimate']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]")


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
