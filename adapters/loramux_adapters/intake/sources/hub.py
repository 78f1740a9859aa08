"""Adapters and bases from the Hugging Face Hub: the requested files of a repository at one commit.

huggingface_hub resumes interrupted downloads, and reads HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE itself.
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
from loramux_adapters.intake.content import CONFIG_FILE, check_listing
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.intake.sources.progress import SizeCheck, progress_bar_class, size_check
from loramux_adapters.intake.sources.selection import copy_adapter

# A repository, and perhaps a folder in it. No part begins with a dot.
_ADDRESS = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(/[\w=+,-][\w.=+,-]{0,95}){0,8}", re.ASCII)
_REVISION = re.compile(r"[\w./+-]{1,250}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The last four are raised for responses that don't follow the Hub's API, from another server at HF_ENDPOINT.
_FAILURES = (httpx2.HTTPError, XetDownloadError, OSError, RuntimeError, ValueError, LookupError, TypeError)
_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class HubSnapshot:
    """The folder with a repository's files at one commit."""

    path: Path
    commit: str


def download(
    repository: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    progress: Callable[[str], None],
) -> HubSnapshot:
    """Download the files of `repository` (`org/name`) that match the glob `patterns` into the Hub cache.

    `revision` is a branch, a tag or a commit (default: the main branch); the snapshot names the commit it resolved to.
    Without a network, a complete snapshot from an earlier download is used.

    Raises:
        SourceUnavailable: the files can't be downloaded.
        OSError: the disk failed.
    """
    with _translated_errors(repository, revision):
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            tqdm_class=progress_bar_class(f"downloading {repository}", progress),
        )
    # The cache has one folder per commit, named after it.
    return HubSnapshot(path=Path(folder), commit=Path(folder).name)


@dataclass(slots=True)
class HubSource:
    """An adapter in a repository, or in a folder of it, at `revision`: a branch (the main one if None), tag or commit.

    `repo` is `org/name` or `org/name/folder`. The commit that the revision resolved to is recorded as part of the
    origin.
    """

    repo: str
    revision: str | None = None
    _commit: str = field(default="", init=False)

    @property
    def origin(self) -> dict[str, str]:
        """The origin to record in the registry."""
        revision = self.revision or constants.DEFAULT_REVISION
        name, folder = self._parts
        where = {"folder": folder} if folder else {}
        return {"type": "hub", "repo": name, **where, "revision": revision, "commit": self._commit}

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        """Download the adapter's files to `into`, all from the same commit.

        The size of each file is checked before its download, and again while bytes arrive.

        Raises:
            SourceUnavailable: the files can't be downloaded.
            InvalidAdapter: a file is missing or too large.
            OSError: the disk failed.
        """
        with _translated_errors(self._parts[0], self.revision):
            self._commit, sizes = self._repository_files()
        prefix = f"{self._parts[1]}/" if self._parts[1] else ""
        sizes = {path.removeprefix(prefix): size for path, size in sizes.items() if path.startswith(prefix)}
        check_listing(sizes, (path.rpartition("/")[0] for path in sizes if path.endswith(f"/{CONFIG_FILE}")))
        # Not the Hub cache, which would keep a second copy.
        with TemporaryDirectory(dir=into) as folder, _translated_errors(self._parts[0], self.revision):

            def copy(name: str, limit: int) -> bool:
                if name in sizes:
                    check = size_check(name, limit)
                    check(sizes[name])
                    path = self._download(prefix + name, Path(folder), report_progress, check)
                    check(path.stat().st_size)
                    path.rename(into / name)
                return name in sizes

            copy_adapter(copy, into, max_bytes)

    def _download(self, path: str, folder: Path, report_progress: ReportProgress, check: SizeCheck) -> Path:
        bar = progress_bar_class(f"downloading {self.repo}", report_progress, check)
        return Path(hf_hub_download(self._parts[0], path, revision=self._commit, local_dir=str(folder), tqdm_class=bar))

    @property
    def _parts(self) -> tuple[str, str]:
        """The repository's name, and the folder inside it or an empty text."""
        organisation, _, rest = self.repo.partition("/")
        name, _, folder = rest.partition("/")
        return f"{organisation}/{name}", folder

    def _repository_files(self) -> tuple[str, dict[str, int]]:
        """Return the commit that the revision resolves to, and the sizes of its files by path, 0 if unknown."""
        if not _ADDRESS.fullmatch(self.repo):
            raise SourceUnavailable("the repository's name is invalid: expected org/name, or org/name/folder")
        if self.revision is not None and (not _REVISION.fullmatch(self.revision) or ".." in self.revision):
            raise SourceUnavailable("the revision is invalid: expected a branch, a tag or a commit")
        info = HfApi().model_info(
            self._parts[0], revision=self.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        if not _COMMIT.fullmatch(info.sha or ""):
            raise SourceUnavailable(f"the Hub did not return the commit of {self.repo}: check HF_ENDPOINT")
        return str(info.sha), {str(file.rfilename): int(file.size or 0) for file in info.siblings or ()}


@contextmanager
def _translated_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Raise the library's exceptions as SourceUnavailable, except failures of this machine's disk."""
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno in _DISK_FAILURES:
            raise
        raise SourceUnavailable(_explain(error, repository, revision)) from error


def _explain(error: Exception, repository: str, revision: str | None) -> str:
    for kind, message in _MESSAGES:
        if isinstance(error, kind):
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            return message.format(repository=repository, revision=revision, status=status)
    # Not the error's own message: it may contain paths of this machine.
    return f"downloading {repository} failed: {getattr(error, 'strerror', None) or type(error).__name__}"


_MESSAGES: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "{repository} is gated: accept its terms on the Hub, then set HF_TOKEN to that account's token"),
    (RevisionNotFoundError, "{repository} has no revision {revision!r}"),
    (RepositoryNotFoundError, "the Hub has no repository {repository}, or it is private and HF_TOKEN may not read it"),
    (HFValidationError, "the repository's name {repository!r} is invalid: expected org/name"),
    (
        IncompleteSnapshotError,
        "{repository} is incomplete in the cache, and the Hub can't be reached: check the network",
    ),
    (OfflineModeIsEnabled, "{repository} can't be downloaded while HF_HUB_OFFLINE is set"),
    (
        LocalEntryNotFoundError,
        "{repository} is not cached, and the Hub can't be reached: check the network or HF_ENDPOINT",
    ),
    (HfHubHTTPError, "the Hub answered {status} for {repository}: try again later"),
    (httpx2.TimeoutException, "the Hub did not respond in time for {repository}: try again later"),
    (httpx2.TransportError, "the connection to the Hub failed for {repository}: check the network or HF_ENDPOINT"),
)
"""Messages for the library's exceptions, subclasses before their base classes."""
