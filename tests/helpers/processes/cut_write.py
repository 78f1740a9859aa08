"""Put an adapter while the system limits the size of a file, then without: `python -m ... FOLDER`.

Prints the error, then the digest.
"""

import resource
import signal
import sys
from pathlib import Path

from loramux_adapters.errors import StoreError
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.intake.validation import max_file_sizes, validate
from tests.helpers.adapter_files import BASE, write_adapter


def main(root: Path) -> None:
    """Let the first put fail for its size, the second succeed."""
    store, source = VersionStore(root / "store"), FolderSource(write_adapter(root / "tone"), [root])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        put(store, source)
    except StoreError as error:
        print(error)  # noqa: T201
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(put(store, source))  # noqa: T201


def put(store: VersionStore, source: FolderSource) -> str:
    """Take the adapter of `source` into `store`, and return its digest."""
    with store.staging() as staged:
        source.fetch(staged, max_file_sizes(BASE, 8), lambda _: None)
        manifest = validate(staged, BASE, 8)
        store.put(staged, manifest)
    return store.verify(manifest.digest).digest


if __name__ == "__main__":
    main(Path(sys.argv[1]))
