"""Web pages: local hosts and origins, CORS, and the headers of responses."""

import json

import pytest

from loramux_server.dashboard.page import POLICY
from tests.helpers.asgi import MiddlewareHarness, SentResponse, answering

OK = answering(200, b"{}")
PAGE = "https://chat.example.com"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-lang",
}


def error(answer: SentResponse) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "10.0.0.1"])
async def test_an_open_server_does_not_answer_to_names_that_a_web_page_made_up_for_this_machine(host: str) -> None:
    assert error(await MiddlewareHarness(OK).ask(headers={"host": host})) == (403, "not_permitted")
    assert (
        await MiddlewareHarness(OK, keys=["key"]).ask(headers={"host": host, "authorization": "Bearer key"})
    ).status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000"])
async def test_a_server_without_keys_accepts_local_hosts_only(host: str) -> None:
    assert (await MiddlewareHarness(OK).ask(headers={"host": host})).status == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost.evil.example", "http://localhost@evil.example", "null", "", "localhost"],
)
@pytest.mark.parametrize("path", ["/v1/files", "/v1/chat/completions"])
async def test_an_open_server_takes_no_form_that_a_web_page_from_elsewhere_sends(path: str, origin: str) -> None:
    headers = {"host": "127.0.0.1:8000", "origin": origin}
    assert error(await MiddlewareHarness(OK).ask(path, headers=headers)) == (403, "not_permitted")
    assert (
        await MiddlewareHarness(OK, keys=["key"]).ask(path, headers=headers | {"authorization": "Bearer key"})
    ).status == 200


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "http://localhost:3000", "https://[::1]"])
async def test_an_open_server_answers_to_the_pages_of_this_machine_such_as_its_dashboard(origin: str) -> None:
    assert (await MiddlewareHarness(OK).ask(headers={"host": "127.0.0.1:8000", "origin": origin})).status == 200


@pytest.mark.parametrize("keys", [(), ("key",)])
async def test_two_host_headers_are_refused_in_either_order(keys: tuple[str, ...]) -> None:
    for hosts in (["localhost", "evil.example"], ["evil.example", "localhost"], ["localhost", "localhost"]):
        headers = [("authorization", "Bearer key"), *(("host", host) for host in hosts)]
        assert (await MiddlewareHarness(OK, keys).ask(headers=headers)).status == 400


async def test_an_open_server_checks_each_of_several_origins() -> None:
    for origins in (["http://localhost", "https://evil.example"], ["https://evil.example", "http://localhost"]):
        headers = [("host", "localhost"), *(("origin", origin) for origin in origins)]
        assert error(await MiddlewareHarness(OK).ask(headers=headers)) == (403, "not_permitted")


async def test_pages_of_an_allowed_origin_may_use_the_api_also_without_keys() -> None:
    for keys in ((), ("key",)):
        server = MiddlewareHarness(OK, keys, origins=[PAGE])
        preflight = await server.ask(method="OPTIONS", headers=PREFLIGHT | {"host": "localhost"})
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert preflight.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
        answer = await server.ask(headers={"origin": PAGE, "host": "localhost", "authorization": "Bearer key"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["access-control-expose-headers"] == "*"


async def test_pages_of_an_allowed_origin_can_read_errors() -> None:
    answer = await MiddlewareHarness(OK, ["key"], origins=[PAGE]).ask(headers={"origin": PAGE})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, PAGE)


async def test_pages_of_other_origins_may_not_use_the_api() -> None:
    other = {"origin": "https://evil.example", "host": "localhost", "authorization": "Bearer key"}
    for origins in ((), (PAGE,)):
        server = MiddlewareHarness(OK, ["key"], origins=origins)
        preflight = await server.ask(method="OPTIONS", headers=PREFLIGHT | other)
        answer = await server.ask(headers=other)
        assert "access-control-allow-origin" not in {*preflight.headers, *answer.headers}
    assert error(await MiddlewareHarness(OK, origins=[PAGE]).ask(headers=other)) == (403, "not_permitted")


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_responses_can_not_be_framed_kept_or_taken_for_another_type(status: int) -> None:
    headers = (await MiddlewareHarness(answering(status, b"{}")).ask()).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_a_response_keeps_the_headers_that_it_sets_itself() -> None:
    page = answering(200, b"", **{"content-security-policy": POLICY, "cache-control": "no-cache"})
    headers = (await MiddlewareHarness(page).ask()).headers
    assert headers.getlist("content-security-policy") == [POLICY]
    assert headers.getlist("cache-control") == ["no-cache"]
