"""Sends the metrics of one job to Weights & Biases: `python -m loramux_adapters.finetuning.wandb_process`.

It is a process of its own, because the library starts others, and may block. It reads JSON lines from its standard
input: the arguments of `wandb.init`, then {"step": N, "metrics": {...}} each, and {"finish": EXIT_CODE} when the job
has ended. The next process for the same job continues its run. It writes one JSON line: {"url": "..."}.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any


def main() -> None:
    """Send the metrics."""
    wandb: Any = importlib.import_module("wandb")  # it may be missing: it is not a dependency
    lines = _lines()
    run = wandb.init(**next(lines), resume="allow")
    sys.stdout.write(json.dumps({"url": run.url}) + "\n")
    sys.stdout.flush()
    for line in lines:
        if "finish" in line:
            run.finish(exit_code=line["finish"])
            return
        run.log(line["metrics"], step=line["step"])  # a lower step than the last one is ignored, with a warning
    run.finish()


def _lines() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


if __name__ == "__main__":
    main()
