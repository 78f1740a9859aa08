"""The trainer's command line, its signals and its exit codes.

Events go to standard output (see events.py), everything that the libraries say to standard error. Exit codes: 0 trained
or paused, 2 the base, the data or the recipe can't be used, 130 interrupted.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TextIO

import torch

from loramux_adapters.finetuning.errors import NoRoomLeft, TrainingError
from loramux_adapters.finetuning.events import Failed, Paused
from loramux_adapters.finetuning.recipes.recipe import load_recipe
from loramux_adapters.finetuning.trainer.prepared_data import Job
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, Reporter
from loramux_adapters.finetuning.trainer.training import ignore_interrupts, train

ROOM_BYTES = 16 << 20
"""With less than this left on its disk, a trainer that failed was in want of room."""
ORPHAN_SECONDS = 20.0
"""How long a trainer whose parent died may take to save."""


def main() -> int:
    """Run the trainer; returns its exit code."""
    arguments = _parser().parse_args()
    reporter = Reporter(_own_stdout())
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, lambda *_: _pause(reporter, ends_at_once=not arguments.with_parent))
    if arguments.with_parent:
        threading.Thread(target=_watch_parent, daemon=True).start()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        train(_job(arguments), reporter)
    except PausedError as paused:
        reporter.tell(Paused(step=paused.step))
    except TrainingError as error:
        reporter.tell(Failed(message=str(error), code=error.code))
        return 2
    except Exception as error:
        if not isinstance(error, OSError) and _has_room(arguments.output):
            raise
        reporter.tell(_failed(error, arguments.output))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _job(arguments: argparse.Namespace) -> Job:
    return Job(
        base=arguments.base,
        base_name=arguments.base_name or arguments.base.resolve().name,
        data=arguments.data,
        validation=arguments.validation,
        recipe=load_recipe(arguments.recipe) if arguments.recipe else None,
        output=arguments.output,
        state=arguments.state,
        save_seconds=arguments.save_seconds,
        device=arguments.device,
    )


def _failed(error: Exception, output: Path) -> Failed:
    """What a client may know of it: no path, which is the server's own."""
    if not _has_room(output):
        return Failed(message="no space is left on the disk", code=NoRoomLeft.code)
    return Failed(message=f"a file can't be read or written: {getattr(error, 'strerror', None) or 'the disk failed'}")


def _has_room(output: Path) -> bool:
    """Whether the disk has room. The libraries that write weights have errors of their own for a full one."""
    place = next(folder for folder in output.absolute().parents if folder.exists())
    return shutil.disk_usage(place).free > ROOM_BYTES


def _interrupt(*_: object) -> None:
    ignore_interrupts()  # a second Ctrl-C must not stop the cleaning up
    raise KeyboardInterrupt


def _pause(reporter: Reporter, *, ends_at_once: bool) -> None:
    """End after this step; told twice, end at once, but not with a parent: a service manager tells both of us."""
    if reporter.is_pausing and ends_at_once:
        _interrupt()
    reporter.is_pausing = True


def _watch_parent() -> None:
    """Pause when the parent has died, which closes the pipe; a trainer that then takes too long ends as it is."""
    while os.read(sys.stdin.fileno(), 1024):  # sys.stdin itself has a lock, on which the interpreter's end would wait
        pass
    threading.Timer(ORPHAN_SECONDS, os._exit, (130,)).start()
    os.kill(os.getpid(), signal.SIGTERM)


def _own_stdout() -> TextIO:
    """The real standard output, for events alone: whatever a library prints goes to standard error from here on."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loramux_adapters.finetuning.trainer", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--base-name", help="name to record in the adapter (the folder's name)")
    parser.add_argument("--data", type=Path, required=True, help="chat fine-tuning file (JSONL)")
    parser.add_argument("--validation", type=Path, help="file of the same format that is not learned from")
    parser.add_argument("--recipe", type=Path, help="recipe (YAML); chosen by the size of data and base")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the adapter to")
    parser.add_argument("--state", type=Path, help="folder of what to go on from; nothing is kept if it is not given")
    parser.add_argument("--save-seconds", type=float, default=30.0, help="how much training a kill may cost")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads; as many as torch likes")
    parser.add_argument("--with-parent", action="store_true", help="pause when standard input ends")
    return parser
