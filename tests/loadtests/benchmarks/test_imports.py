import asyncio
from pathlib import Path

import pytest

from benchmarks.progress import StepProgress


@pytest.mark.slow
def test_an_import_that_is_killed_at_random_moments_loses_nothing_and_trains_nothing_twice(tmp_path: Path) -> None:
    from benchmarks.imports import KilledImport  # imports vLLM

    # The trainings alone take 18 s, so that an import of any speed is still under way after four lives of 4 s.
    killed = KilledImport(tmp_path, sizes=(60, 200, 400), kills=4, seed=1, step_seconds=1.0, longest_life=4.0)
    with StepProgress() as progress:
        findings = asyncio.run(killed.measure(progress))
    assert findings["kills"] == 4
    assert {name: found for name, found in findings.items() if found and not name.startswith("share")} == {"kills": 4}
