"""A disk that is really full, and one that is really read-only: a small one of the test's own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]

SCRIPT = """
import subprocess, sys
from contextlib import suppress
from pathlib import Path
from loramux_adapters.errors import StoreError
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.store import Store
from loramux_adapters.intake.validation import largest_file, validate
from tests.helpers.adapter_files import BASE, lora_tensors, write_adapter

roots, disk = Path(sys.argv[1]), Path(sys.argv[2])
sources = [FolderSource(write_adapter(roots / str(seed), tensors=lora_tensors(seed=seed)), [roots]) for seed in (0, 1)]

def put(source):
    with Store(disk / "store").staging() as staged:
        source.fetch(staged, largest_file(BASE, 8), lambda _: None)
        manifest = validate(staged, BASE, 8)
        Store(disk / "store").put(staged, manifest)
    return manifest.digest

def refused(source):
    try:
        put(source)
    except StoreError as error:
        print(error)
    store = Store(disk / "store")
    assert store.sweep() == 0
    assert [path.name for path in (disk / "store" / "versions").iterdir()] == [first]
    assert list((disk / "store" / "staging").iterdir()) == []
    store.verify(first)

first = put(sources[0])
with suppress(OSError), (disk / "junk").open("wb", buffering=0) as junk:
    while junk.write(bytes(512)):
        pass
refused(sources[1])
(disk / "junk").unlink()
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
refused(sources[1])
subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
Store(disk / "store").verify(put(sources[1]))
"""


def test_a_full_and_a_read_only_disk_are_told_and_what_was_accepted_stays_whole(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", disk], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a disk of its own")
    script = 'mount -t tmpfs -o size=64k none "$3" && exec "$0" -c "$@"'
    command = [*OWN_MOUNTS, "sh", "-c", script, sys.executable, SCRIPT, str(tmp_path / "roots"), str(disk)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "The adapter store can't be written: No space left on device; free space on the disk of LORAMUX_DATA_DIR.",
        "The adapter store can't be written: Read-only file system; mount the disk of LORAMUX_DATA_DIR for writing.",
    ]
