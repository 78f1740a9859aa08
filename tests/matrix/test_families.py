"""Every architecture that vLLM generates text with and transformers has: its description is what PEFT writes."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.matrix.results import Results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIN_DESCRIBED = 60
"""With vLLM 0.32 and transformers 5.19, without torchvision, 67 are described; a fault of ours would lose many."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Describe a tiny base of each architecture."""
    command = [sys.executable, "-m", "tests.helpers.tiny_bases.families", str(tmp_path_factory.mktemp("families"))]
    child = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True, text=True)
    return {line["architecture"]: line for line in map(json.loads, child.stdout.splitlines())}


def test_descriptions_have_the_modules_and_shapes_that_peft_writes(outcomes: dict[str, Any], results: Results) -> None:
    described = {name: outcome for name, outcome in outcomes.items() if "differences" in outcome}
    assert {name: outcome["differences"] for name, outcome in described.items() if outcome["differences"]} == {}
    assert len(described) >= MIN_DESCRIBED
    results.shapes = sorted(described)
    results.unserved = {name: outcome["unserved"] for name, outcome in described.items()}
    results.refused = {name: outcome["refusal"] for name, outcome in outcomes.items() if "refusal" in outcome}
    results.not_shown = {name: outcome["error"] for name, outcome in outcomes.items() if "error" in outcome}
