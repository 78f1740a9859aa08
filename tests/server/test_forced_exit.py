"""The end of a process that can't end by itself."""

import subprocess
import sys
import time

import psutil

STUCK = """
import subprocess, sys, threading, time
from loramux_server.forced_exit import exit_within
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
threading.Thread(target=time.sleep, args=(600,)).start()
print(child.pid, flush=True)
exit_within(0.05, 7)
"""


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_with_a_stuck_thread_ends_at_its_deadline_and_its_children_with_it() -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, timeout=100, check=False)
    assert ended.returncode == 7
    deadline = time.monotonic() + 60
    while is_running(int(ended.stdout)):  # a signal takes a moment
        assert time.monotonic() < deadline
        time.sleep(0.01)
