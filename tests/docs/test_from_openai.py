"""The guide's script, run as it is printed, against a stand-in for OpenAI's API."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY
from tests.helpers.openai_stand_in import KEY, OpenAIStandIn, intent_lines

if TYPE_CHECKING:
    from loramux_server.base_model import ResolvedBase

GUIDE = REPOSITORY / "docs" / "guides" / "from-openai.md"


@pytest.mark.slow
async def test_the_guide_s_script_moves_the_fine_tunes_and_the_app_keeps_its_names(
    tiny_base: "ResolvedBase", tmp_path: Path
) -> None:
    from tests.helpers.importing import importing_server  # imports vLLM

    script, *_ = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    stand_in = OpenAIStandIn()
    for number in range(3):
        stand_in.add_job(f"tone-{number}", intent_lines(60, number))
    (tmp_path / "work").mkdir()
    async with stand_in.running(), importing_server(tmp_path / "server", tiny_base) as target:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": stand_in.url,
            "LORAMUX_CLI_URL": target.url,
        }
        process = await asyncio.create_subprocess_exec(
            "bash", "-e", "-c", script, cwd=tmp_path / "work", env=environment, stdout=-1, stderr=-2
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, output
        models = json.loads((tmp_path / "work" / "imported.json").read_text())["models"]
        assert [model["status"] for model in models] == ["succeeded"] * 3
        assert all(model["comparison"]["verdict"] for model in models)
        assert len((await target.client.fine_tuning.jobs.list()).data) == 3
        for model in models:
            assert (await target.chat(model["old"])).model == model["old"]
    assert "3 of 3 jobs" in output
    assert "held out to compare on" in " ".join(output.split())
    assert KEY not in output
    assert (tmp_path / "work" / "loramux-import" / "report.html").is_file()
