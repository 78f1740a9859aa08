"""The Hugging Face Hub as a source of adapters and bases: one repository at one commit, only the files asked for.

The library goes on with a download that was cut, and reads HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE itself.
"""

import errno
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)

from loramux_adapters.errors import SourceUnavailable
from loramux_adapters.intake.content import check_listing
from loramux_adapters.intake.sources import Tell
from loramux_adapters.intake.sources.progress import at_most, progress_bar

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w./+-]{1,250}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The last four: an answer that is not what the Hub's API says, from whatever stands at HF_ENDPOINT.
_FAILURES = (httpx2.HTTPError, XetDownloadError, OSError, RuntimeError, ValueError, LookupError, TypeError)
_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Snapshot:
    """A repository's files at one commit, on this machine's disk."""

    path: Path
    commit: str


def download(
    repository: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    progress: Callable[[str], None],
) -> Snapshot:
    """Bring the files of `repository` (`org/name`) that match the glob `patterns` into the library's cache.

    `revision` is a branch, a tag or a commit (default: the main branch); the snapshot names the commit that it meant.
    `progress` gets a line of words about twice a second. Without a network, a complete snapshot from an earlier
    download is used. Raises SourceUnavailable, and OSError where the disk is at fault.
    """
    with _in_words(repository, revision):
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            tqdm_class=progress_bar(f"downloading {repository}", progress),
        )
    # The cache keeps one folder a commit, and names it by the commit.
    return Snapshot(path=Path(folder), commit=Path(folder).name)


@dataclass(slots=True)
class HubSource:
    """An adapter in the repository `repo` (`org/name`) at `revision`: a branch (the main one if None), tag or commit.

    What the revision meant when it was fetched is remembered, as a commit.
    """

    repo: str
    revision: str | None = None
    _commit: str = field(default="", init=False)

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        revision = self.revision or constants.DEFAULT_REVISION
        return {"type": "hub", "repo": self.repo, "revision": revision, "commit": self._commit}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Download the files named in `largest`, each of at most so many bytes, to `into`.

        Their sizes are asked for first, and counted again while bytes arrive. All are of one commit, whatever the
        branch does meanwhile. Raises SourceUnavailable, InvalidAdapter, and OSError where the disk is at fault.
        """
        with _in_words(self.repo, self.revision):
            self._commit, sizes = self._described()
        check_listing(sizes)
        for name, most in largest.items():
            at_most(name, most)(sizes[name])
        # Not the library's cache, which would keep a second copy for ever.
        with TemporaryDirectory(dir=into) as folder, _in_words(self.repo, self.revision):
            for name, most in largest.items():
                check = at_most(name, most)
                bar = progress_bar(f"downloading {self.repo}", tell, check)
                hf_hub_download(self.repo, name, revision=self._commit, local_dir=folder, tqdm_class=bar)
                check((Path(folder) / name).stat().st_size)
                (Path(folder) / name).rename(into / name)

    def _described(self) -> tuple[str, dict[str, int]]:
        """Return the commit that the revision means, and the sizes of the files there by their paths, 0 if unknown."""
        if not _REPOSITORY.fullmatch(self.repo):
            raise SourceUnavailable("that is not a repository's name: it should look like org/name")
        if self.revision is not None and (not _REVISION.fullmatch(self.revision) or ".." in self.revision):
            raise SourceUnavailable("that is not a revision's name: it should be a branch, a tag or a commit")
        info = HfApi().model_info(
            self.repo, revision=self.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        if not _COMMIT.fullmatch(info.sha or ""):
            raise SourceUnavailable(f"the Hub does not say which commit of {self.repo} is meant")
        return str(info.sha), {str(file.rfilename): int(file.size or 0) for file in info.siblings or ()}


@contextmanager
def _in_words(repository: str, revision: str | None) -> Iterator[None]:
    """Turn the library's exceptions into words, unless it is this machine's disk that has failed."""
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno in _DISK_FAILURES:
            raise
        raise SourceUnavailable(_explain(error, repository, revision)) from error


def _explain(error: Exception, repository: str, revision: str | None) -> str:
    for kind, words in _WORDS:
        if isinstance(error, kind):
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            return words.format(repository=repository, revision=revision, status=status)
    # Not the error's own words: they may name paths of this machine.
    return f"downloading {repository} failed: {getattr(error, 'strerror', None) or type(error).__name__}"


_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "{repository} is gated: accept its terms on the Hub, then set HF_TOKEN to that account's token"),
    (RevisionNotFoundError, "{repository} has no revision {revision!r}"),
    (RepositoryNotFoundError, "the Hub has no repository {repository}, or it is private and HF_TOKEN may not read it"),
    (HFValidationError, "{repository!r} is not a repository's name: it should look like org/name"),
    (IncompleteSnapshotError, "the download of {repository} was cut and the Hub can't be reached to finish it"),
    (OfflineModeIsEnabled, "{repository} can't be asked for: HF_HUB_OFFLINE is set"),
    (LocalEntryNotFoundError, "{repository} is not here, the Hub can't be reached: check the network or HF_ENDPOINT"),
    (HfHubHTTPError, "the Hub answered {status} for {repository}: try again later"),
    (httpx2.TimeoutException, "the Hub fell silent while {repository} was asked for: try again later"),
    (httpx2.TransportError, "the connection to the Hub failed for {repository}: check the network or HF_ENDPOINT"),
)
"""What the library's exceptions mean; the first that fits, because some are kinds of later ones."""
