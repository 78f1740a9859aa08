"""The check of a vLLM version: `python -m tools.check_vllm [VERSION]`, which `make check-vllm` runs."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.check_vllm.check import all_uses, breaks, environment_breaks
from tools.check_vllm.declared import DECLARED
from tools.check_vllm.sources import Sources
from tools.check_vllm.wheel import locate, unpack
from tools.setup import ROOT
from tools.steps import SetupError, StepRunner
from tools.uv import find_uv, uv_environment

TOOLS = ROOT / ".tools"
CANNOT_CHECK = 2
"""Exit code where the sources could not be had."""


def main(arguments: list[str] | None = None) -> int:
    """Print what breaks with a version; returns 1 if anything does, and 2 if that could not be found out."""
    parser = argparse.ArgumentParser(prog="make check-vllm", description=__doc__)
    parser.add_argument("version", nargs="?", default="", help="such as 0.33.0; default: the newest")
    parser.add_argument("--sources", type=Path, help="folder with the package `vllm`, instead of a wheel")
    options = parser.parse_args(arguments)
    try:
        folder = options.sources or _fetch(options.version)
    except SetupError as error:
        print(error, file=sys.stderr)
        return CANNOT_CHECK
    if not (folder / "vllm" / "__init__.py").is_file():
        print(f"{folder} has no package `vllm`", file=sys.stderr)
        return CANNOT_CHECK
    return report(folder)


def _fetch(version: str) -> Path:
    """Return the folder of a version's sources, which are fetched if they are not there yet."""
    environment = uv_environment(TOOLS / "uv")
    uv = find_uv(TOOLS / "uv", ROOT / "requirements" / "uv.txt", StepRunner(), lock=0)
    found, location = locate(f"vllm=={version}" if version else "vllm", uv, environment)
    folder = TOOLS / "vllm" / found
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unpack(location, folder, environment)
    return folder


def report(folder: Path, root: Path = ROOT, declared: Mapping[str, str] = DECLARED) -> int:
    """Check the project in `root` against the sources in `folder`, and print the result."""
    sources, uses = Sources(folder), all_uses(root, declared)
    found = [*breaks(sources, uses), *environment_breaks(sources, root)]
    for each in found:
        print(each)
    verdict = f"{len(found)} of {len(uses)} uses break" if found else f"all {len(uses)} uses are there"
    print(f"{folder.name}: {verdict}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
