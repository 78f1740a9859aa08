"""The trainer process: its command line, its signals and its exit codes.

Writes events to standard output (see events.py) and everything that libraries print to standard error. Pauses on
SIGTERM, and when its standard input ends, because then its parent has died.

Exit codes: 0 trained or paused, 2 the base, the data or the recipe can't be used, 130 interrupted.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

from loramux_adapters.finetuning.errors import DiskFull, InsufficientMemory, TrainingError
from loramux_adapters.finetuning.events import Failed, Paused
from loramux_adapters.finetuning.trainer.micro_batches import is_out_of_memory
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, ProgressReporter
from loramux_adapters.finetuning.trainer.signals import ignore_signals
from loramux_adapters.finetuning.trainer.training import train
from loramux_adapters.finetuning.training_run import TrainingRun

MIN_FREE_BYTES = 16 << 20
"""A trainer that fails with less free space on its disk is taken to have failed for that reason."""
_MEMORY_RAN_OUT = (
    "memory ran out while the base was loaded or the adapter was updated: another process took some since the start, "
    "or the estimate was too low. Free some, use shorter examples, or train on another device"
)
ORPHAN_SECONDS = 20.0
"""Time that a trainer whose parent died may take to save its state."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainer; returns its exit code."""
    run = TrainingRun.read(_parse_arguments(arguments))
    reporter = ProgressReporter(_claim_stdout())
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, lambda *_: _request_pause(reporter))
    threading.Thread(target=_watch_parent, daemon=True).start()
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        train(run, reporter)
    except PausedError as paused:
        reporter.report(Paused(step=paused.step))
    except TrainingError as error:
        reporter.report(Failed(message=str(error), code=error.code))
        return 2
    except Exception as error:
        if is_out_of_memory(error):  # outside of a step, where less memory could be used
            reporter.report(Failed(message=_MEMORY_RAN_OUT, code=InsufficientMemory.code))
            return 2
        if not isinstance(error, OSError) and _has_free_space(run.output):
            raise
        reporter.report(_failed_event(error, run.output))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parse_arguments(arguments: Sequence[str] | None) -> Path:
    parser = argparse.ArgumentParser(prog="python -m loramux_adapters.finetuning.trainer", description=__doc__)
    parser.add_argument("run", type=Path, help="JSON file with the parameters of the run, see training_run.py")
    path: Path = parser.parse_args(arguments).run
    return path


def _failed_event(error: Exception, output: Path) -> Failed:
    """Return what a client may see of an error: no path, because paths are the server's own."""
    if not _has_free_space(output):
        return Failed(message="no space is left on the disk", code=DiskFull.code)
    return Failed(message=f"a file can't be read or written: {getattr(error, 'strerror', None) or 'the disk failed'}")


def _has_free_space(output: Path) -> bool:
    """Whether the disk has free space; the libraries that write weights raise errors of their own for a full one."""
    folder = next(folder for folder in output.absolute().parents if folder.exists())
    return shutil.disk_usage(folder).free > MIN_FREE_BYTES


def _interrupt(*_: object) -> None:
    ignore_signals()  # a second Ctrl-C must not interrupt the cleanup
    raise KeyboardInterrupt


def _request_pause(reporter: ProgressReporter) -> None:
    """Stop after this step. A second SIGTERM changes nothing: a service manager signals the parent and the trainer."""
    reporter.pause_requested = True


def _watch_parent() -> None:
    """Pause when the parent has died, which closes the pipe; exit if saving the state takes too long."""
    while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin: the interpreter's exit would wait for its lock
        pass
    threading.Timer(ORPHAN_SECONDS, os._exit, (130,)).start()
    os.kill(os.getpid(), signal.SIGTERM)


def _claim_stdout() -> TextIO:
    """Return the standard output, for events alone: what libraries print goes to standard error from now on."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream
