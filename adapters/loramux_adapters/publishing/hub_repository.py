"""A repository of the Hugging Face Hub that an adapter is pushed to.

huggingface_hub reads HF_TOKEN, HF_ENDPOINT and HF_HOME itself.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, XetDownloadError

from loramux_adapters.errors import SourceUnavailable
from loramux_adapters.intake.content import VERSION_FILES

CARD_FILE = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_FAILURES = (httpx2.HTTPError, XetDownloadError, OSError, RuntimeError, ValueError, LookupError, TypeError)


def parse_repository(text: str) -> str:
    """Return `org/name` for `hf:org/name`.

    Raises:
        SourceUnavailable: it is something else.
    """
    name = text.removeprefix("hf:")
    if name == text or not _REPOSITORY.fullmatch(name):
        raise SourceUnavailable(f"unknown target {text[:200]!r}; expected hf:ORG/NAME")
    return name


def push(folder: Path, repository: str, message: str, *, public: bool) -> str:
    """Upload the adapter and its card in `folder` as one commit, and return the commit's URL; no other files are sent.

    A new repository is private unless `public`; an existing one keeps its visibility.

    Raises:
        SourceUnavailable: the Hub refuses it or can't be reached, or the repository is public and `public` is False.
    """
    api = HfApi()
    with _translated_errors(repository):
        api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.repo_info(repository).private:
            raise SourceUnavailable(f"{repository} exists and is public: say --public, or choose another name")
        names = [name for name in (*VERSION_FILES, CARD_FILE) if (folder / name).exists()]
        commit = api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=names, commit_message=message)
    return str(commit.commit_url)


@contextmanager
def _translated_errors(repository: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise SourceUnavailable(_explain(error, repository)) from error


def _explain(error: Exception, repository: str) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "the Hub needs a token: set HF_TOKEN to one that may write"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403, 404):
            return f"the Hub lets this token not write to {repository}: set HF_TOKEN to one that may"
        return f"the Hub answered {status} for {repository}: try again later"
    if isinstance(error, httpx2.HTTPError):
        return f"the Hub can't be reached for {repository}: check the network or HF_ENDPOINT"
    return f"the upload to {repository} failed: {type(error).__name__}"
