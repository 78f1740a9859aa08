"""A process that is killed while it writes to a store's staging folder: `python -m ... STORE`."""

import os
import signal
import sys
from pathlib import Path

from loramux_adapters.intake.store import VersionStore

if __name__ == "__main__":
    with VersionStore(Path(sys.argv[1])).staging() as staged:
        (staged / "half").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
