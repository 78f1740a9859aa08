"""The Hugging Face Hub as a source of adapters and bases: one repository at one commit, only the files asked for.

The library keeps the files in its own cache (shared with every other program on the machine), resumes a download that
was cut, and reads HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE itself.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from loramux_adapters.content import check_listing, copy_bounded, open_regular, too_large
from loramux_adapters.errors import SourceUnavailable
from loramux_adapters.sources import Tell

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


TIMEOUT = 10.0
"""Seconds that the Hub may be silent."""


class HubError(SourceUnavailable):
    """A repository could not be had from the Hub; the message says why and what to do."""


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
    """Bring the files of `repository` (`org/name`) that match the glob `patterns` onto this machine.

    `revision` is a branch, a tag or a commit (default: the main branch); the snapshot names the commit that it meant.
    `progress` gets a line of words about twice a second. Without a network, a complete snapshot from an earlier
    download is used. Raises HubError.
    """
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            tqdm_class=_bar(lambda amounts: progress(f"downloading {repository}: {amounts}")),
        )
    except (HFValidationError, httpx2.HTTPError, OSError) as error:
        raise HubError(_explain(error, repository, revision)) from error
    # The cache keeps one folder a commit, and names it by the commit.
    return Snapshot(path=Path(folder), commit=Path(folder).name)


@dataclass
class HubSource:
    """An adapter in the repository `repo` (`org/name`) at `revision`: a branch (the main one if None), tag or commit.

    What the revision meant when it was fetched is remembered, as a commit.
    """

    repo: str
    revision: str | None = None
    _commit: str | None = None

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        known = {"type": "hub", "repo": self.repo, "revision": self.revision, "commit": self._commit}
        return {key: value for key, value in known.items() if value is not None}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Download the files named in `largest`, each of at most so many bytes, to `into`.

        Sizes are asked for first. The files are fetched at one commit, whatever the branch does meanwhile, through the
        library's cache, which goes on where a cut download ended. Raises HubError, InvalidAdapter, OSError.
        """
        commit, sizes = self._ask()
        check_listing(sizes)
        for name, most in largest.items():
            if sizes[name] > most:
                raise too_large(name, most, sizes[name])
        snapshot = download(self.repo, list(largest), revision=commit, progress=tell)
        for name, most in largest.items():
            # The cache holds links to what it has of all commits.
            with open_regular((snapshot.path / name).resolve()) as file:
                copy_bounded(file, into / name, most)
        self._commit = commit

    def _ask(self) -> tuple[str, dict[str, int]]:
        """Return the commit that the revision means, and the sizes of the repository's files at the top."""
        try:
            info = HfApi().model_info(self.repo, revision=self.revision, files_metadata=True, timeout=TIMEOUT)
        except (HFValidationError, httpx2.HTTPError, OSError, ValueError) as error:
            raise HubError(_explain(error, self.repo, self.revision)) from error
        if info.sha is None:
            raise HubError(f"the Hub does not say which commit {self.repo} is at")
        return info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _explain(error: Exception, repository: str, revision: str | None) -> str:
    match error:
        case GatedRepoError():
            return f"{repository} is gated: accept its terms on the Hub, then set HF_TOKEN to a token of that account"
        case RevisionNotFoundError():
            return f"{repository} has no revision {revision!r}"
        case RepositoryNotFoundError():
            return f"the Hub has no repository {repository}, or it is private and HF_TOKEN may not read it"
        case HFValidationError():
            return f"{repository!r} is not a repository's name: it should look like org/name"
        case IncompleteSnapshotError():
            return f"the download of {repository} was cut and the Hub can't be reached to finish it"
        case LocalEntryNotFoundError():
            return f"{repository} is not on this machine and the Hub can't be reached: check the network or HF_ENDPOINT"
        case HfHubHTTPError():
            return f"the Hub answered {error.response.status_code} for {repository}: try again later"
    # Not the error's own words: they may name paths of this machine.
    return f"downloading {repository} failed: {getattr(error, 'strerror', None) or type(error).__name__}"


def _bar(report: Callable[[str], None]) -> "type[tqdm[Any]]":
    """A progress bar that tells `report` instead of drawing; the library makes several and only bytes interest us."""

    class Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
        # No thread to redraw a bar that nobody sees.
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "mininterval": 0.5})

        def display(self, *_args: Any, **_kwargs: Any) -> None:
            if self.unit == "B" and self.n and self.total:
                report(f"{tqdm.format_sizeof(self.n)}B of {tqdm.format_sizeof(self.total)}B")

    return Bar
