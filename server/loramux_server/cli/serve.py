"""`loramux serve`: start the engine, and serve the base and its adapters until a signal or a failure."""

import asyncio
import gc
import json
import logging
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvloop
from rich.markup import escape
from rich.status import Status

from loramux_adapters.base_description import BaseDescription
from loramux_server.base_model import resolve_base
from loramux_server.cli.console import stderr
from loramux_server.configured_folders import check_configured
from loramux_server.errors import CannotStart
from loramux_server.forced_exit import kill_descendants
from loramux_server.lifecycle import EXIT_INTERRUPTED, bind, interruptible_start
from loramux_server.logs import START, configure_logging
from loramux_server.machine import (
    engine_environment,
    explain_engine,
    find_problems,
    installed_backend,
    this_machine,
)
from loramux_server.planning.engine_arguments import suited_arguments
from loramux_server.settings import Settings, export_engine_environment, load_settings

if TYPE_CHECKING:
    from loramux_server.app import Server

EXIT_CANNOT_START = 2
_EXAMPLE_MAX_TOKENS = 256
"""Enough for the longest answer of the examples: an answer that is cut off is no valid JSON."""


def serve(
    config: Annotated[Path | None, typer.Option(help="Settings file (YAML).", show_default="loramux.yaml")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.", show_default="8000")] = None,
    base: Annotated[str | None, typer.Option(help="`demo`, a folder, or a Hub id.", show_default="demo")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for adapters, files and the database.", show_default=".loramux")
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="TLS certificate with its chain (PEM).")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Key of the TLS certificate (PEM).")] = None,
) -> None:
    """Serve one base model and its adapters behind one OpenAI-compatible endpoint.

    Settings come from --config (or loramux.yaml), overridden by LORAMUX_... variables, overridden by options. vLLM's
    own arguments are passed as LORAMUX_ENGINE__NAME, for example LORAMUX_ENGINE__MAX_MODEL_LEN=4096.

    Exit code: 0 after SIGTERM or Ctrl-C (requests in flight finish first), 1 if the engine died, 2 if it can't start.
    """
    try:
        options = {"host": host, "port": port, "base": base, "data_dir": data_dir}
        settings = load_settings(config, options | {"ssl_certfile": ssl_certfile, "ssl_keyfile": ssl_keyfile})
        with interruptible_start(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_serve(settings))
    except CannotStart as error:
        stderr.print(f"[red]can't start:[/] {escape(str(error))}")
        code = EXIT_CANNOT_START
    except KeyboardInterrupt:
        stderr.print("interrupted during start; no process is left running")
        code = EXIT_INTERRUPTED
    finally:
        kill_descendants()
    raise typer.Exit(code)


async def _serve(settings: Settings) -> int:
    started_at = time.monotonic()
    machine, backend = this_machine(Path.cwd()), installed_backend()
    if problems := find_problems(machine, backend):
        raise CannotStart("\n".join(problems))
    if settings.training.sleep and backend == "cpu":
        raise CannotStart(
            "LORAMUX_TRAINING__SLEEP: only an engine on a GPU can free its memory for a training, and this one is "
            f"{explain_engine(machine, backend)}: set it to false"
        )
    configure_logging(settings.log)
    check_configured(settings)
    log = export_engine_environment(settings, engine_environment(machine, backend))
    listener = bind(settings.host, settings.port)
    with stderr.status("") as status:
        is_text = settings.log.format == "text"
        report_progress = _StartProgress(status, log, started_at) if is_text else logging.getLogger(START).info
        report_progress(f"engine: {explain_engine(machine, backend)}")
        base = resolve_base(settings.base, settings.data_dir, revision=settings.base_revision, progress=report_progress)
        report_progress("loading libraries")
        from loramux_server import app  # late, because vLLM takes seconds to import

        def on_started(server: "Server") -> None:
            gc.freeze()  # objects from the start stay: the collector can skip them
            status.stop()
            if is_text:
                _print_examples(f"{_scheme(settings)}://{settings.host}:{listener.getsockname()[1]}", server, settings)
            report_progress("serving; press Ctrl-C to stop")

        def arguments(base: BaseDescription, max_rank: int) -> dict[str, Any]:
            now, is_demo = this_machine(Path.cwd()), settings.base == "demo"
            return suited_arguments(now, backend, base, max_rank, demo=is_demo, report_progress=report_progress)

        return await app.serve(settings, base, arguments, listener, report_progress, on_started)


class _StartProgress:
    """Prints the steps of a start, with the seconds since it began."""

    def __init__(self, status: Status, log: Path, started_at: float) -> None:
        self._status, self._log, self._started_at = status, log, started_at

    def __call__(self, step: str) -> None:
        stderr.print(f"[dim]{time.monotonic() - self._started_at:6.1f} s[/]  {escape(step)}")
        self._status.update(f"{escape(step)} [dim](engine log: {escape(str(self._log))})[/]")


def _scheme(settings: Settings) -> str:
    return "http" if settings.ssl_certfile is None else "https"


def _print_examples(url: str, server: "Server", settings: Settings) -> None:
    """Print the URL and example requests: the base, the first adapters, the metrics."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.api_keys else ""
    if not settings.api_keys:
        stderr.print("[yellow]no API key is set: every process on this machine has full access[/]")
    stderr.print(f"\n[bold]loramux serves {escape(server.base_name)}[/] at {url}/v1. Try in another terminal:\n")
    for name in [server.base_name, *(adapter.name for adapter in server.adapter_service.resolver.adapters()[:3])]:
        body = {
            "model": name,
            "messages": _example_messages(settings.adapters.get(name)),
            "max_tokens": _EXAMPLE_MAX_TOKENS,
            "temperature": 0,
        }
        arguments = f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        print(f"curl -s {url}/v1/chat/completions{key} {arguments}\n")  # noqa: T201 - unwrapped, to be copied
    print(f"curl -s {url}/metrics{key}\n", flush=True)  # noqa: T201


def _example_messages(adapter: Path | None) -> list[dict[str, str]]:
    """Return the first held-out item of an adapter that has some, else a general question."""
    if adapter and (adapter / "test.jsonl").is_file():
        with (adapter / "test.jsonl").open(encoding="utf-8") as items:
            messages: list[dict[str, str]] = json.loads(items.readline())["messages"]
        return messages[:-1]
    return [{"role": "user", "content": "What is the capital of France?"}]
