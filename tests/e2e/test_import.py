"""`loramux import` on the real engine: a fine-tune of another provider is trained, takes its name, and is judged."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import RealServer
from tests.helpers.openai_stand_in import KEY, OpenAIStandIn, intent_lines

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

TRAINED, HELD_OUT = 160, 40


async def test_an_imported_fine_tune_answers_to_its_old_name_and_is_compared_with_the_old_model(
    real: RealServer, tmp_path: Path
) -> None:
    stand_in, folder = OpenAIStandIn(accuracy=0.5), tmp_path / "import"
    stand_in.add_job("intent", intent_lines(TRAINED, 1), intent_lines(HELD_OUT, 2))
    [old_name] = stand_in.models[1:]
    async with stand_in.running():
        command = ("import", "openai", "--yes", "--base-url", stand_in.url, "--url", real.url, "--folder", str(folder))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loramux_server",
            *command,
            env=os.environ | {"OPENAI_API_KEY": KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    [model] = json.loads((folder / "report.json").read_text())["models"]
    assert model["comparison"]["items"] == HELD_OUT
    # A model that is right in half of the cases is beaten by an adapter that has learned five phrases.
    assert model["comparison"]["verdict"] == "better"
    answer = await real.client.chat.completions.create(
        model=old_name, messages=[{"role": "user", "content": "I lost my card 9-9"}], max_tokens=8, temperature=0
    )
    assert answer.choices[0].message.content == "card_lost"
