"""Parsing of object-store URLs, so that they can be compared part by part."""

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
"""The schemes of remote stores, and the package that fsspec needs for each. Local schemes (file, memory, zip, ...) are
left out, so that no setting can allow them."""

# These characters allow no user, password, query, fragment, escape or chain of URLs.
_HOST = r"[A-Za-z0-9][\w.-]*(?::\d{1,5})?"
_PART = r"[\w.!'()+,=@~-]+"
_URL = re.compile(rf"(?P<scheme>[a-z0-9]+)://(?:(?P<host>{_HOST})(?P<path>(?:/{_PART})*)/?)?", re.ASCII)
_MAX_CHARACTERS = 1024


def split_url(url: str) -> tuple[str, ...]:
    """Return the scheme, the bucket or host if there is one, and the parts of the path.

    A URL is inside another one if its parts begin with the other's.

    Raises:
        ValueError: the URL is malformed; the message does not repeat it, because it may contain a password.
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
        raise ValueError("it must not contain the parts . and ..")
    if host is None and scheme.startswith("http"):
        raise ValueError("it needs a host")  # to allow the whole web is never intended
    return (scheme, *([host] if host else []), *path)
