"""API keys: authentication, and that no key is stored."""

import pytest
from starlette.datastructures import Headers

from loramux_server.auth import ANONYMOUS, Authenticator, Principal
from loramux_server.errors import InvalidApiKey


def ask(authenticator: Authenticator, **headers: str) -> Principal:
    return authenticator.principal(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer whatever"}])
def test_without_keys_everyone_is_the_anonymous_administrator(headers: dict[str, str]) -> None:
    assert ask(Authenticator([]), **headers) is ANONYMOUS


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer second"},
        {"authorization": "bearer  second "},
        {"x_api_key": "second"},
        {"authorization": "Basic eA==", "x_api_key": "second"},
    ],
)
def test_each_configured_key_gets_in(headers: dict[str, str]) -> None:
    principal = ask(Authenticator(["first", "second"]), **headers)
    assert principal.admin
    assert principal == ask(Authenticator(["second"]), authorization="Bearer second")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
        {"authorization": "second"},
        {"authorization": "Basic second"},
        {"authorization": "Bearer first,second"},
        {"authorization": "Bearer Second"},
        {"authorization": "Bearer secon"},
        {"authorization": "Bearer secondd"},
        {"authorization": "Bearer \xff\xfe"},
        {"x_api_key": ""},
        {"authorization": "Bearer wrong", "x_api_key": "second"},
    ],
)
def test_anything_else_is_refused_without_repeating_it(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        ask(Authenticator(["first", "second"]), **headers)
    assert "secon" not in caught.value.message


def test_different_keys_have_different_ids_that_do_not_contain_the_key() -> None:
    authenticator = Authenticator(["first", "second"])
    first, second = (ask(authenticator, authorization=f"Bearer {key}") for key in ("first", "second"))
    assert first.key_id != second.key_id
    assert "first" not in first.key_id
    assert "first" not in repr(vars(authenticator))
