"""URLs of object stores as text: which are well-formed, and which lie inside which."""

import re

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
"""The schemes of stores elsewhere, and the package that fsspec needs for each. Whatever reads this machine (file,
memory, zip, ...) is not among them, so that no setting can open it."""

# No user, password, query, fragment, escape or chain of URLs can be written in these characters.
_HOST = r"[A-Za-z0-9][\w.-]*(?::\d{1,5})?"
_PART = r"[\w.!'()+,=@~-]+"
_URL = re.compile(rf"(?P<scheme>[a-z0-9]+)://(?:(?P<host>{_HOST})(?P<path>(?:/{_PART})*)/?)?", re.ASCII)
_MAX_CHARACTERS = 1024


def split_url(url: str) -> tuple[str, ...]:
    """Return the scheme, the bucket or host if there is one, and the parts of the path.

    A URL is inside another one if its parts begin with the other's. Raises ValueError, in words that don't repeat the
    URL, because it may hold a password.
    """
    match = _URL.fullmatch(url) if len(url) <= _MAX_CHARACTERS else None
    if match is None:
        raise ValueError(
            "it should look like s3://bucket/folder, without user, password, query, spaces and escaped characters"
        )
    scheme, host, path = match["scheme"], match["host"], (match["path"] or "").split("/")[1:]
    if scheme not in PACKAGES:
        raise ValueError(f"it should begin with one of {', '.join(f'{known}://' for known in PACKAGES)}")
    if {".", ".."} & set(path):
        raise ValueError("it holds a step upwards")
    if host is None and scheme.startswith("http"):
        raise ValueError("it names no host")  # all of the web is nothing that anyone means to allow
    return (scheme, *([host] if host else []), *path)
