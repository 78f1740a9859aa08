"""A disk that is really full, and one that is really read-only: a small one of the test's own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]


def test_a_full_and_a_read_only_disk_are_reported_and_versions_stay_intact(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", disk], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a disk of its own")
    script = 'mount -t tmpfs -o size=64k none "$3" && exec "$0" -m "$@"'
    command = [
        *OWN_MOUNTS,
        "sh",
        "-c",
        script,
        sys.executable,
        "tests.helpers.processes.full_disk",
        str(tmp_path / "roots"),
        str(disk),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "The adapter store can't be written: No space left on device; free space on the disk of LORAMUX_DATA_DIR.",
        "The adapter store can't be written: Read-only file system; mount the disk of LORAMUX_DATA_DIR for writing.",
    ]
