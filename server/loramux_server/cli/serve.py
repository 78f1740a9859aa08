"""`loramux serve`: start the engine, and serve the base and its adapters until told to stop."""

import asyncio
import contextlib
import gc
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from loramux_server.base_model import resolve_base
from loramux_server.errors import CannotStart
from loramux_server.lifecycle import bind, interruptible_start
from loramux_server.machine import engine_defaults, engine_environment, installed_backend, obstacles, this_machine
from loramux_server.settings import Settings, export_engine_environment, load_settings

if TYPE_CHECKING:
    from loramux_server.app import Server

CANNOT_START, INTERRUPTED = 2, 130

console = Console(stderr=True, highlight=False)


def serve(
    config: Annotated[Path | None, typer.Option(help="Settings file (YAML).", show_default="loramux.yaml")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8000")] = None,
    base: Annotated[str | None, typer.Option(help="`demo`, a folder, or a Hub id.", show_default="demo")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where adapters are kept.", show_default=".loramux")] = None,
) -> None:
    """Serve one base model and its adapters behind one OpenAI-compatible endpoint.

    Settings come from --config (or loramux.yaml), over it from LORAMUX_... variables, and over both from options.
    vLLM's own arguments are passed as LORAMUX_ENGINE__NAME, for example LORAMUX_ENGINE__MAX_MODEL_LEN=4096.

    Ends with 0 when told to stop (SIGTERM, Ctrl-C: streams in flight finish first), with 1 when the engine died, and
    with 2 when it can't start.
    """
    try:
        settings = load_settings(config, {"host": host, "port": port, "base": base, "data_dir": data_dir})
        with interruptible_start(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_serve(settings))
    except CannotStart as error:
        console.print(f"[red]can't start:[/] {escape(str(error))}")
        code = CANNOT_START
    except KeyboardInterrupt:
        console.print("interrupted while starting: nothing is left running")
        code = INTERRUPTED
    finally:
        _end_descendants()
    raise typer.Exit(code)


async def _serve(settings: Settings) -> int:
    began = time.monotonic()
    machine, backend = this_machine(Path.cwd()), installed_backend()
    if problems := obstacles(machine, backend):
        raise CannotStart("\n".join(problems))
    log = export_engine_environment(settings, engine_environment(machine, backend))
    listener = bind(settings.host, settings.port)
    with console.status("") as status:
        tell = _Teller(status, log, began)
        base = resolve_base(settings.base, settings.data_dir, revision=settings.base_revision, progress=tell)
        tell("loading libraries")
        from loramux_server import app  # not before, because vLLM takes seconds to import

        def started(server: "Server") -> None:
            gc.freeze()  # what is there now stays: the collector need not look at it again
            status.stop()
            _greet(f"http://{settings.host}:{listener.getsockname()[1]}", server, settings)
            tell("serving; Ctrl-C ends it")

        suited = engine_defaults(machine, backend, demo=settings.base == "demo")
        return await app.serve(settings, base, suited, listener, tell, started)


class _Teller:
    """Says what a start is at, with the seconds since it began."""

    def __init__(self, status: Status, log: Path, began: float) -> None:
        self._status, self._log, self._began = status, log, began

    def __call__(self, words: str) -> None:
        console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {escape(words)}")
        self._status.update(f"{escape(words)} [dim](the engine's log: {escape(str(self._log))})[/]")


def _greet(url: str, server: "Server", settings: Settings) -> None:
    """Say where it serves and what to try: the base, the first adapters, the metrics."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.api_keys else ""
    if not settings.api_keys:
        console.print("[yellow]no API key is set: whoever reaches this machine's loopback address may do everything[/]")
    console.print(f"\n[bold]loramux serves {escape(server.base_name)}[/] at {url}/v1. Try, in another terminal:\n")
    for name in [server.base_name, *(adapter.name for adapter in server.library.catalogue.adapters()[:3])]:
        body = {"model": name, "messages": _question(settings.adapters.get(name)), "max_tokens": 64, "temperature": 0}
        asked = f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        print(f"curl -s {url}/v1/chat/completions{key} {asked}\n")  # noqa: T201 - not wrapped, so that it can be copied
    print(f"curl -s {url}/metrics{key}\n", flush=True)  # noqa: T201


def _question(adapter: Path | None) -> list[dict[str, str]]:
    """What to ask: the first held-out item of an adapter that comes with some."""
    if adapter and (adapter / "test.jsonl").is_file():
        with (adapter / "test.jsonl").open(encoding="utf-8") as items:
            turns: list[dict[str, str]] = json.loads(items.readline())["messages"]
        return turns[:-1]
    return [{"role": "user", "content": "What is the capital of France?"}]


def _end_descendants() -> None:
    """Leave no process behind, however the engine was left."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
