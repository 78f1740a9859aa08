"""A trainer process without torch: `python scripted_trainer.py BEHAVIOR [ARGUMENT...] RUN.json`.

Uses the standard library only, because tests start it often. Each function without an underscore is a behavior.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 6
CHECKPOINT_STEPS = (2, 4, 6)
FAILURE = {"event": "failed", "message": "the base has no chat template"}


def train(
    run: dict[str, Any], step_seconds: str = "0", accuracy: str = "", device: str = "cpu", adapter: str = ""
) -> None:
    """Train six steps, saving each and exporting every second one; resume, and pause on SIGTERM.

    What is exported are the files of the folder `adapter`, if there is one.
    """
    state = Path(run["state"])
    state.mkdir(parents=True, exist_ok=True)
    saved = state / "step"
    step = int(saved.read_text()) if saved.exists() else 0
    lock = os.open(state / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a second trainer of the same run crashes here
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    sizes = {"examples": 12, "steps": STEPS, "trained_parameters": 1, "base_parameters": 100}
    _report("started", **sizes, resumed_step=step, device=device)
    while step < STEPS and not signals:
        time.sleep(float(step_seconds))
        step += 1
        _report_step(step, **({"accuracy": float(accuracy)} if accuracy else {}))
        if step in CHECKPOINT_STEPS:
            folder = f"checkpoints/step-{step}"
            Path(run["output"], folder).mkdir(parents=True, exist_ok=True)
            if adapter:
                shutil.copytree(adapter, Path(run["output"], folder), dirs_exist_ok=True)
            _report("checkpointed", step=step, folder=folder)
        (state / "new").write_text(str(step))
        (state / "new").rename(saved)
        _report("saved", step=step)
    if step == STEPS and adapter:
        shutil.copytree(adapter, run["output"], dirs_exist_ok=True)
    _report("finished", size=1, seconds=6) if step == STEPS else _report("paused", step=step)


def prefer(run: dict[str, Any], best_step: str = "4") -> None:
    """Train six steps by DPO, validating after every second one; the best step was not the last one."""
    _report("started", examples=12, validation_examples=10, steps=STEPS, trained_parameters=1, base_parameters=100)
    for step in range(1, STEPS + 1):
        _report("step", step=step, steps=STEPS, loss=0.5, tokens=step, seconds_left=1.0, reward_accuracy=0.75,
                reward_margin=0.5)  # fmt: skip
        if step in CHECKPOINT_STEPS:
            _report("validated", step=step, loss=0.4, reward_accuracy=step / 10 + 0.5, reward_margin=float(step))
    Path(run["output"]).mkdir(parents=True, exist_ok=True)
    _report("finished", size=1, seconds=6, best_step=int(best_step), best_loss=0.4)


def train_on_a_full_disk_first(run: dict[str, Any]) -> None:
    """Fail for want of disk space once, then train."""
    tried = Path(run["state"]) / "tried"
    if not tried.exists():
        tried.parent.mkdir(parents=True, exist_ok=True)
        tried.touch()
        _report("failed", message="no space is left on the disk", code="training_disk_full")
        sys.exit(2)
    train(run)


def crash(_run: dict[str, Any], seconds: str = "0") -> None:
    """Crash after some seconds without an event."""
    time.sleep(float(seconds))
    raise ZeroDivisionError


def crash_after_starting(_run: dict[str, Any]) -> None:
    """Report the start, then crash."""
    _report("started", examples=8, steps=1, trained_parameters=2, base_parameters=200)
    raise ZeroDivisionError


def fail(_run: dict[str, Any]) -> None:
    """Report a failure that the user can fix."""
    _report(**FAILURE)
    sys.exit(2)


def export_and_fail(run: dict[str, Any], device: str = "cpu") -> None:
    """Export two checkpoints, then report a failure that the user can fix."""
    _report("started", examples=12, steps=STEPS, trained_parameters=1, base_parameters=100, device=device)
    for step in (2, 4):
        _report_step(step)
        _report("validated", step=step, loss=0.5 / step, token_accuracy=0.25)
        folder = f"checkpoints/step-{step}"
        Path(run["output"], folder).mkdir(parents=True, exist_ok=True)
        _report("checkpointed", step=step, folder=folder)
    fail(run)


def fail_for_memory(_run: dict[str, Any]) -> None:
    """Report that the machine has too little memory."""
    _report("failed", message="8 GB are needed", code="training_memory_short")
    sys.exit(2)


def save_twice(_run: dict[str, Any]) -> None:
    """Report two saved states, with a warning of a library between them."""
    _report("saved", step=1)
    sys.stderr.write("a warning")
    _report("saved", step=2)


def save_and_wait(run: dict[str, Any]) -> None:
    """Report a saved state, then clean up and exit only on SIGTERM."""

    def clean_up(*_: object) -> None:
        time.sleep(0.2)
        Path(run["output"]).touch()
        sys.exit(0)

    signal.signal(signal.SIGTERM, clean_up)
    _report("saved", step=1)
    time.sleep(60)


def ignore_sigterm(_run: dict[str, Any]) -> None:
    """Report a saved state, then ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _report("saved", step=1)
    time.sleep(60)


def report_scheduling(_run: dict[str, Any]) -> None:
    """Report the nice value and the scheduling policy as the steps of two saved states."""
    time.sleep(0.3)  # the parent sets them after the start
    _report("saved", step=os.nice(0))
    _report("saved", step=os.sched_getscheduler(0))


def sleep(_run: dict[str, Any]) -> None:
    """Do nothing for a minute."""
    time.sleep(60)


def print_noise(_run: dict[str, Any]) -> None:
    """Print a line that is not JSON."""
    sys.stdout.write("loading...\n")


def print_long_line(_run: dict[str, Any]) -> None:
    """Print a line longer than any event."""
    sys.stdout.write("x" * 200_000 + "\n")


def print_endless_line(_run: dict[str, Any]) -> None:
    """Print as much without a line's end."""
    sys.stdout.write("x" * 200_000)


def report_invalid_event(_run: dict[str, Any]) -> None:
    """Report an event with a field of the wrong type."""
    _report("saved", step="1; drop table")


def exit_with_message(_run: dict[str, Any]) -> None:
    """Exit with a message on standard error."""
    sys.exit("out of luck")


def kill_itself(_run: dict[str, Any]) -> None:
    """Die from SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def exit_after_long_log(_run: dict[str, Any]) -> None:
    """Write a log longer than what is reported of it, and exit."""
    sys.stderr.write("x" * 9000 + "the end")
    sys.exit(3)


def _report(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event} | fields) + "\n")
    sys.stdout.flush()


def _report_step(step: int, **fields: float) -> None:
    times = {"seconds": step, "seconds_left": STEPS - step}
    _report("step", step=step, steps=STEPS, loss=1.0 / step, tokens=10 * step, **times, **fields)


if __name__ == "__main__":
    behavior, *arguments, run_file = sys.argv[1:]
    globals()[behavior](json.loads(Path(run_file).read_text()), *arguments)
