"""The stored results of the parts, from which the table is made and an interrupted run goes on."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import CheckResult
from benchmarks.gpu.gaps import GapCell
from benchmarks.gpu.parts import TableCell
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.report import write_json


@dataclass(frozen=True)
class StoredPart:
    """A measured part and its options."""

    about: Mapping[str, Any]
    cells: Sequence[TableCell] = ()
    gaps: Sequence[GapCell] = ()
    checks: Sequence[CheckResult] = ()

    def differences(self, options: Mapping[str, Any]) -> list[str]:
        """Return the names of the options that differ."""
        return [name for name, value in options.items() if self.about.get(name) != value]

    @property
    def failed(self) -> bool:
        """Whether any of its requests or checks failed."""
        return any(cell.failed for cell in self.cells) or any(each.passed is False for each in self.checks)


def store_part(name: str, part: StoredPart, started: float, folder: Path) -> None:
    """Write the results of a part that began at `started`, of time.monotonic."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {kind: list(map(asdict, getattr(part, kind))) for kind in ("cells", "gaps", "checks")}
    seconds = time.monotonic() - started
    write_json(folder / f"gpu-{name}.json", {"part": name, "seconds": seconds, "about": part.about, **results})


def read_parts(folder: Path) -> dict[str, StoredPart]:
    """Read all parts in the folder by name.

    Raises:
        LoadTestError: a file is not a part.
    """
    found = {}
    for path in sorted(folder.glob("gpu-*.json")):
        try:
            content = json.loads(path.read_text())
            found[path.stem.removeprefix("gpu-")] = StoredPart(
                dict(content["about"]),
                [TableCell(**each) for each in content["cells"]],
                [GapCell(**each) for each in content.get("gaps", ())],
                [CheckResult(**each) for each in content.get("checks", ())],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoadTestError(f"{path} was not written by this benchmark; remove it ({error})") from error
    return found
