"""Run a load test's scenario against a server: `python -m ... SCENARIO URL OUTPUT`."""

import sys
from pathlib import Path

from loramux_loadtests.loadtest import command

if __name__ == "__main__":
    scenario, url, output = sys.argv[1:]
    sys.exit(command.run(scenario, {}, None, servers=[url], seed=0, output=Path(output)))
