"""Let atheris look for adapters that the validator judges wrongly: `make fuzz ARGS="-max_total_time=60"`.

The options are libFuzzer's; a folder among them keeps the inputs that led somewhere new. Its mutations are Hypothesis'
choices (`fuzz_one_input`), so most inputs are JSON and tensors with something wrong in them, and not just broken.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
from hypothesis import HealthCheck, given, settings

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
with atheris.instrument_imports(include=["loramux_adapters"]):
    from tests.helpers.adapter_corruption import SMALL, Files, spoilt_adapters, write_files
    from tests.helpers.validation_oracle import accepted

FOUND = Path(tempfile.gettempdir(), "loramux-fuzz-")
OPTIONS = ["-max_len=16384", "-len_control=0", "-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=256"]


def main(folder: Path) -> None:
    """Fuzz until libFuzzer's options say so, with the adapters in `folder`; never returns."""

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(spoilt_adapters())
    def judge(files: Files) -> None:
        accepted(write_files(folder, files), SMALL)

    played: Any = judge  # its `hypothesis` is no part of a function's type
    options = [*OPTIONS, f"-artifact_prefix={FOUND}", *sys.argv[1:]]
    atheris.Setup([sys.argv[0], *options], played.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
