import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.intake.sources.urls import split_url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://", ("s3",)),
        ("s3://models", ("s3", "models")),
        ("s3://models/", ("s3", "models")),
        ("s3://models/team/tone@v1/", ("s3", "models", "team", "tone@v1")),
        ("abfss://container/a_b", ("abfss", "container", "a_b")),
        ("https://models.example.com:8443/x", ("https", "models.example.com:8443", "x")),
        ("gs://bucket/...", ("gs", "bucket", "...")),
    ],
)
def test_a_url_is_its_scheme_its_bucket_and_the_parts_of_its_path(url: str, parts: tuple[str, ...]) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3",
        "s3:",
        "s3:/models",
        "models/tone",
        "/etc",
        "S3://models",
        "s3:///tone",
        "s3://models//tone",
        "s3://models/tone//",
        "s3://models/../others",
        "s3://models/./tone",
        "s3://models/..",
        "s3://../models",
        "s3://models/a%2fb",
        "s3://models/%2e%2e/x",
        "s3://key:secret@models/tone",
        "s3://key@models/tone",
        "https://good.example@evil.example/x",
        "https://good.example\\@evil.example/x",
        "https://[::1]/x",
        "https://good.example:evil/x",
        "https://good.example:/x",
        "https://",
        "http://",
        "s3://models/tone?versionId=1",
        "s3://models/tone?X-Amz-Signature=secret",
        "s3://models/tone#part",
        "s3://models/a b",
        "s3://models/a\nb",
        "s3://models/tone\n",
        " s3://models",
        "s3://models/a\0",
        "s3://models/tone::file",
        "simplecache::s3://models/tone",
        "s3://models::file:///etc",
        "zip://x.zip::s3://models/tone",
        "filecache::file:///etc",
        "s3://mödels/tone",
        "s3://models/*",
        "s3://models/{a,b}",
        "s3://models/" + "x" * 2000,
    ],
)
def test_an_ambiguous_or_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        split_url(url)


@pytest.mark.parametrize(
    "scheme",
    [
        *("file", "local", "memory", "dir", "zip", "tar", "libarchive", "cached", "simplecache", "blockcache"),
        *("filecache", "reference", "generic", "asynclocal", "data", "github", "git", "hf", "sftp", "ssh", "ftp"),
    ],
)
def test_schemes_other_than_remote_stores_are_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match="it should begin with one of s3://"):
        split_url(f"{scheme}://models/tone")


def test_the_message_does_not_repeat_a_password() -> None:
    with pytest.raises(ValueError, match="without user") as caught:
        split_url("s3://key:hunter2@models/tone")
    assert "hunter2" not in str(caught.value)


_PARTS = st.from_regex(r"[A-Za-z0-9.~@=+-]{1,9}", fullmatch=True).filter(lambda part: part not in (".", ".."))


@given(st.lists(_PARTS, max_size=5))
def test_a_url_is_split_into_the_parts_it_was_joined_from(path: list[str]) -> None:
    assert split_url("/".join(["s3://bucket", *path])) == ("s3", "bucket", *path)


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9]{2,5}:?/?/?[ -~]{0,30}"))
def test_any_text_is_split_without_a_loss_or_refused(text: str) -> None:
    try:
        scheme, *rest = split_url(text)
    except ValueError:
        return
    assert f"{scheme}://{'/'.join(rest)}" == (re.sub("(?<=[^/])/$", "", text))
    assert not {"", ".", ".."} & set(rest)
