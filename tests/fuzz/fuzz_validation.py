"""Fuzz the validator with atheris: `make fuzz ARGS="-max_total_time=60"`.

The options are libFuzzer's; a folder among them stores the inputs that reached new code. atheris mutates Hypothesis'
choices (`fuzz_one_input`), so that most inputs are well-formed JSON and tensors with an error somewhere.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
from hypothesis import HealthCheck, given, settings

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
with atheris.instrument_imports(include=["loramux_adapters"]):
    from tests.helpers.adapter_corruption import SMALL, Files, corrupted_adapters, write_files
    from tests.helpers.validation_oracle import accepted

FOUND = Path(tempfile.gettempdir(), "loramux-fuzz-")
OPTIONS = ["-max_len=16384", "-len_control=0", "-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=256"]


def main(folder: Path) -> None:
    """Fuzz with adapters in `folder`, until libFuzzer's options end the process."""

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(corrupted_adapters())
    def check(files: Files) -> None:
        accepted(write_files(folder, files), SMALL)

    target: Any = check  # `hypothesis` is not an attribute of a function's type
    options = [*OPTIONS, f"-artifact_prefix={FOUND}", *sys.argv[1:]]
    atheris.Setup([sys.argv[0], *options], target.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
