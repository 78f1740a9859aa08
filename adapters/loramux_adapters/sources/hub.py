"""The Hugging Face Hub as a source of weights: one repository at one commit, only the files that are asked for.

The library keeps the files in its own cache (shared with every other program on the machine), resumes a download that
was cut, and reads HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE itself.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import snapshot_download
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

from loramux_adapters.errors import AdapterError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class HubError(AdapterError):
    """A repository could not be had from the Hub; the message says why and what to do."""

    code = "hub_unavailable"


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
