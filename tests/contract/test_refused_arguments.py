"""Each of vLLM's arguments is read by the engine or by the handlers that loramux mounts, or is refused."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs

from loramux_server.base_model import ResolvedBase
from loramux_server.engine.refused_arguments import refusal
from loramux_server.engine.vllm_compat import init_app_state
from tests.helpers.tiny_server import small_arguments, tiny_server


class RecordingNamespace(Namespace):
    """Remembers which arguments are read."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            super().__getattribute__("__dict__")["_read"].add(name)
        return super().__getattribute__(name)


async def test_an_argument_that_nothing_reads_is_refused(
    tmp_path: Path, tiny_base: ResolvedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU-5: TLS, `allowed_origins`, `root_path` and others were taken and ignored."""
    read: set[str] = set()

    async def recording(engine: Any, state: Any, arguments: Namespace, tasks: Any) -> None:
        # Requests are logged, so that what only matters for these logs is read, too.
        values = vars(arguments) | {"_read": read, "enable_log_requests": True}
        await init_app_state(engine, state, RecordingNamespace(**values), tasks)

    monkeypatch.setattr("loramux_server.engine.startup.init_app_state", recording)
    async with tiny_server(tmp_path, tiny_base):
        pass
    assert "chat_template" in read
    ours = vars(small_arguments(tiny_base)).keys() - {field.name for field in fields(AsyncEngineArgs)}
    assert {name for name in ours - read if refusal(name) is None} == set()
    assert {name for name in ours & read if refusal(name)} <= {"lora_modules", "trust_request_chat_template"}
