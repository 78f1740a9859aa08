from pathlib import Path

import pytest

from loramux_server.cli import serve as command
from loramux_server.errors import CannotStart
from loramux_server.settings import Settings


async def test_an_engine_that_can_not_sleep_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "installed_backend", lambda: "cpu")
    monkeypatch.setattr(command, "find_problems", lambda *_: [])
    settings = Settings(data_dir=tmp_path / "data", training={"sleep": True})
    with pytest.raises(CannotStart, match=r"LORAMUX_TRAINING__SLEEP: only an engine on a GPU can free its memory"):
        await command._serve(settings)
    assert not (tmp_path / "data").exists()
