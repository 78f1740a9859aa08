"""Describes one base; see the package."""

import json
import sys
from pathlib import Path

from loramux_server.engine.arguments import EngineArgumentError
from loramux_server.engine.describing import ARGUMENT_REFUSED
from loramux_server.engine.describing.description import describe


def main(folder: str, name: str, versions: str, output: str) -> None:
    """Write the description of the base in `folder` to `output`; `versions` and vLLM's options on stdin are JSON."""
    description = describe(Path(folder), name, json.load(sys.stdin), json.loads(versions))
    Path(output).write_text(description.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except EngineArgumentError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the parent
        sys.exit(ARGUMENT_REFUSED)
    except Exception as error:  # noqa: BLE001 - the parent reports the last line, whatever failed
        reason = str(error).strip().splitlines() or [type(error).__name__]
        sys.exit(" ".join(line.strip() for line in reason)[:2000])
