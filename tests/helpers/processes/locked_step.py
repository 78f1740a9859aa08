"""Run a step of the set-up with a lock held: `python -m ... LOCK STARTED ENDED`.

The step makes the files STARTED and ENDED.
"""

import fcntl
import os
import sys
from pathlib import Path

from tools.steps import StepRunner

if __name__ == "__main__":
    lock_path, started, ended = sys.argv[1:]
    script = f"touch {started}; sleep 0.5; touch {ended}"
    with Path(lock_path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        StepRunner().run("sleeping", ["/bin/sh", "-c", script], os.environ, lock.fileno())
