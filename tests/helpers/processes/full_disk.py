"""Put adapters on a small disk that becomes full, then read-only: `python -m ... ADAPTERS DISK`. Prints the errors."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from loramux_adapters.errors import StoreError
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.store import VersionStore
from tests.helpers.adapter_files import lora_tensors, write_adapter
from tests.helpers.processes.cut_write import put


def main(roots: Path, disk: Path) -> None:
    """Fill the disk and free it, forbid writing to it and allow it again: what was accepted must stay whole."""
    first, second = (
        FolderSource(write_adapter(roots / str(seed), tensors=lora_tensors(seed=seed)), [roots]) for seed in (0, 1)
    )
    kept = put(VersionStore(disk / "store"), first)
    with suppress(OSError), (disk / "junk").open("wb", buffering=0) as junk:
        while junk.write(bytes(512)):
            pass
    check_refusal(disk, second, kept)
    (disk / "junk").unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    check_refusal(disk, second, kept)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    put(VersionStore(disk / "store"), second)


def check_refusal(disk: Path, source: FolderSource, kept: str) -> None:
    """Print why `source` can't be put; nothing of it may be left, and `kept` must be whole."""
    try:
        put(VersionStore(disk / "store"), source)
    except StoreError as error:
        print(error)  # noqa: T201
    store = VersionStore(disk / "store")
    assert store.clean_staging() == 0
    assert [path.name for path in (disk / "store" / "versions").iterdir()] == [kept]
    assert list((disk / "store" / "staging").iterdir()) == []
    store.verify(kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
