from pathlib import Path

import pytest

from loramux_adapters.finetuning.jobs.trainer_lock import LOCK_FILE, trainer_lock
from loramux_server import fine_tuning
from loramux_server.fine_tuning import JOBS_FOLDER, wait_for_trainer


async def test_the_start_waits_for_a_trainer_that_has_outlived_its_server_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "MAX_TRAINER_WAIT_SECONDS", 0.05)
    said: list[str] = []
    await wait_for_trainer(tmp_path, said.append)
    assert said == []
    async with trainer_lock(tmp_path / JOBS_FOLDER / LOCK_FILE):
        await wait_for_trainer(tmp_path, said.append)
    assert said == ["waiting for the trainer of the last server, which saves its state"]
