"""A loramux server for imports, on the fake engine: its trainer takes no time and exports the same adapter always."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from loramux_server.base_model import ResolvedBase
from tests.helpers.adapter_files import lora_tensors, write_adapter
from tests.helpers.fine_tuning_jobs import scripted_launcher
from tests.helpers.tiny_server import TinyServer, tiny_server


@asynccontextmanager
async def importing_server(
    root: Path, base: ResolvedBase, step_seconds: float = 0.0, **settings: Any
) -> AsyncIterator[TinyServer]:
    """Serve until the context ends; each training has six steps of `step_seconds`."""
    adapter = write_adapter(root / "exported", None, lora_tensors(seed=1))
    training = {"evaluation_items": 0, "self_test": False}
    async with tiny_server(root, base, training=training, **settings) as tiny:
        runner: Any = tiny.server.job_supervisor.runner
        runner.launcher = scripted_launcher("train", str(step_seconds), "", "cpu", str(adapter))
        yield tiny
