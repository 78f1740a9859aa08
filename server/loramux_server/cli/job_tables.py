"""Tables that `loramux finetune` prints."""

import json
import shlex
from datetime import UTC, datetime

from rich.markup import escape

from loramux_adapters.durations import format_duration
from loramux_server.cli import evaluation_tables
from loramux_server.cli.console import JsonObject, column_table, fact_table, stdout


def jobs(page: JsonObject) -> None:
    """Print jobs, one per line."""
    if not page["data"]:
        stdout.print("no jobs; create one with `loramux finetune create train.jsonl`")
        return
    table = column_table("job", "status", "step", "loss", "model", "created")
    for job in page["data"]:
        details = job["loramux"]
        steps = f"{details['step']:,}/{details['steps']:,}" if details["steps"] else ""
        loss = "" if details["loss"] is None else f"{details['loss']:.3f}"
        table.add_row(job["id"], job["status"], steps, loss, escape(details["model"]), local_time(job["created_at"]))
    stdout.print(table)


def job(job: JsonObject, url: str) -> None:
    """Print one job, and the command to run next."""
    details = job["loramux"]
    facts = {
        "job": job["id"],
        "status": status(job),
        "model": details["model"],
        "alias": details.get("alias") or "",
        "trained from": details.get("from_version") or "",
        "hyperparameters": ", ".join(f"{key} {value}" for key, value in job["hyperparameters"].items()),
        "queue": queue_place(details),
        "progress": pace(details),
        "trained": _trained_parameters(details),
        "cost": ", ".join(f"${cost:.4f} by {way.replace('_', ' ')}" for way, cost in details["cost"].items() if cost),
        "result files": ", ".join(job["result_files"]),
        "error": (job["error"] or {}).get("message", ""),
    }
    stdout.print(fact_table(facts))
    if details["evaluation"]:
        evaluation_tables.evaluation(details["evaluation"])
    if details.get("preference"):
        evaluation_tables.preference(details["preference"])
    if job["status"] == "succeeded":
        stdout.print("\nTry it:\n")
        print(_curl_command(job["fine_tuned_model"], url))  # noqa: T201 - unwrapped, to be copied
    elif job["status"] in {"validating_files", "queued", "running"}:
        stdout.print(f"\nFollow it: loramux finetune wait {job['id']}")


def estimate(plan: JsonObject) -> None:
    """Print the plan of a job: data, recipe, time and cost."""
    report, estimated, cost = plan["report"], plan["estimate"], plan["cost"]
    recipe = {key: value for key, value in plan["recipe"].items() if value is not None}
    facts = {
        "examples": f"{report['examples']:,}, {report['tokens']:,} tokens, {report['trained_tokens']:,} trained",
        "lengths": f"{report['shortest']:,} to {report['longest']:,} tokens, median {report['median']:,}",
        "validation": f"{plan['validation_report']['examples']:,} examples" if plan["validation_report"] else "",
        "training": f"{estimated['steps']:,} steps, {estimated['tokens']:,} tokens",
        "time": f"{format_duration(estimated['total_seconds'])}: {_phases(estimated['phases'])}",
        "assumption": estimated["assumption"],
        "cost": ", ".join(f"${dollars:.4f} by {way.replace('_', ' ')}" for way, dollars in cost.items() if dollars),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
    }
    stdout.print(fact_table(facts))
    overlap = [f"{plan['overlap']} validation prompts are also in the training file"] if plan["overlap"] else []
    for warning in [*report["warnings"], *overlap]:
        stdout.print(escape(warning), style="yellow")


def events(page: JsonObject) -> None:
    """Print events, oldest first."""
    for event in reversed(page["data"]):
        style = {"warn": "yellow", "error": "red"}.get(event["level"], "")
        stdout.print(f"{local_time(event['created_at'])}  {escape(event['message'])}", style=style or None)


def pace(details: JsonObject) -> str:
    """Return loss, speed and remaining time in one line."""
    parts = []
    if details["loss"] is not None:
        parts.append(f"loss {details['loss']:.3f}")
    if details["validation_loss"] is not None:
        parts.append(f"validation {details['validation_loss']:.3f}")
    if details["tokens_per_second"]:
        parts.append(f"{details['tokens']:,} tokens, {details['tokens_per_second']:,.0f} per second")
    if details["seconds_left"] and not details.get("queue_position"):
        parts.append(f"{format_duration(details['seconds_left'])} left")
    return ", ".join(parts)


def queue_place(details: JsonObject) -> str:
    """Return a waiting job's place in the queue in one line; empty for other jobs."""
    position, behind, wait = (details.get(key) for key in ("queue_position", "behind", "starts_in_seconds"))
    if not position:
        return ""
    parts = [f"place {position}"]
    if behind:
        parts.append(f"behind {behind}")
        parts.append("start unknown" if wait is None else f"starts in {format_duration(wait)}")
    return ", ".join(parts)


def status(job: JsonObject) -> str:
    """Return the status of a job, and in which phase it is if it runs."""
    phase = job["loramux"].get("phase")
    return f"{job['status']}, {phase}" if phase else str(job["status"])


def _phases(phases: JsonObject) -> str:
    return ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in phases.items() if seconds)


def local_time(seconds: float) -> str:
    """Return Unix seconds as local date and time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _trained_parameters(details: JsonObject) -> str:
    if not details["trained_share"]:
        return ""
    share = f"{details['trained_share']:.2%} of the base's"
    return f"{details['trained_parameters']:,} parameters, {share}, on {details['device']}"


def _curl_command(model: str, url: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64})
    json_type = "-H 'Content-Type: application/json'"
    return f"curl -s {url.rstrip('/')}/v1/chat/completions {json_type} -d {shlex.quote(body)}"
