"""The page in a real browser: its numbers are those of the API, and it is accessible."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.conftest import Look, Looking

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

THREE = ["house-tone", "order-json", "support-intent"]
MANY = [f"customer-{number:03d}" for number in range(500)]
PICTURES = os.environ.get("LORAMUX_TEST_PICTURES")
"""Folder for screenshots of the page; optional."""


async def picture(page: Page, name: str) -> None:
    if PICTURES:
        await page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


async def column(page: Page, name: str, within: str = "#rows") -> list[str | None]:
    """Return the exact values of a column in all shown rows."""
    cells = await page.query_selector_all(f"{within} [data-column={name}]")
    return [await cell.get_attribute("data-value") for cell in cells]


async def names(page: Page) -> list[str]:
    return await page.locator("#rows th").all_text_contents()


def numbers(values: list[str | None]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]


async def nothing_was_wrong(look: Look) -> None:
    assert look.complaints == []
    assert {urlsplit(url).netloc for url in look.asked} == {urlsplit(look.server.url).netloc}


COLUMNS = {
    "requests": "requests",
    "total": "cost.gpu_hour.usd",
    "by_time": "cost.gpu_hour.usd_per_request",
    "by_list": "cost.price_list.usd_per_request",
    "ttft50": "latency.first_token.p50",
    "ttft95": "latency.first_token.p95",
    "per_token": "latency.time_per_output_token.p50",
    "duration": "latency.duration.p95",
    "input": "tokens.input",
    "cached": "tokens.cached",
    "output": "tokens.output",
}


def value_at(group: dict[str, Any], path: str) -> Any:
    value: Any = group
    for name in path.split("."):
        value = None if value is None else value[name]
    return value


async def test_the_pages_numbers_are_those_of_the_api(looking: Looking) -> None:
    async with looking(THREE, 2000, registered=["unused"], used=["house-tone"]) as look:
        await look.settle()
        page, report = look.page, await look.usage(group_by="adapter", since=0)
        groups = {group["label"]["adapter"]: group for group in report["groups"]}
        shown = await names(page)
        assert [name for name in shown if name in groups] == [name for name in groups if name]  # most expensive first
        assert sorted(shown) == sorted([*THREE, "unused"])
        for name, path in COLUMNS.items():
            unused = 0 if name == "requests" else None
            expected = [value_at(groups[each], path) if each in groups else unused for each in shown]
            assert numbers(await column(page, name)) == pytest.approx(expected), name
            [base] = numbers(await column(page, name, "#base-row"))
            assert base == pytest.approx(value_at(groups[""], path)), name
        tiles = {"requests": report["total"]["requests"], "idle": report["engine"]["idle_usd"], "live": 0}
        tiles |= {mode: report["total"]["cost"][mode]["usd"] for mode in ("gpu_hour", "price_list")}
        for name, value in tiles.items():
            tile = page.locator(f"#tile-{name} dt + dd")
            # Idle time costs more from one moment to the next.
            assert float(await tile.get_attribute("data-value") or "nan") == pytest.approx(value, rel=1e-3), name
        requests = f"{report['total']['requests']:,}"
        await expect(page.locator("#tile-requests dt + dd")).to_have_text(requests)
        await expect(page.locator("#base-row [data-column=requests]")).to_have_text(f"{groups['']['requests']:,}")
        await expect(page.locator("[data-route=house-tone] [data-column=where]")).to_have_text(
            re.compile("memory|slot")
        )
        await expect(page.locator("#base")).to_have_text("tiny")
        await picture(page, "three-light")
        await nothing_was_wrong(look)


async def test_the_charts_show_the_hours_of_the_api(looking: Looking) -> None:
    async with looking(THREE, 1000) as look:
        await look.settle()
        for route, number in (("base", 0), ("adapter", 1)):
            hours = (await look.usage(group_by="hour", route=route, since=0))["groups"]
            bars = await look.page.evaluate(f"document.getElementById('requests-chart').data[{number}].y")
            assert bars == [hour["requests"] for hour in hours]
            costs = await look.page.evaluate(f"document.getElementById('costs-chart').data[{number}].y")
            assert costs == pytest.approx([hour["cost"]["gpu_hour"]["usd"] for hour in hours])
        await expect(look.page.locator("#requests-summary")).to_contain_text("Total: base ")
        peak = max(hour["requests"] for hour in (await look.usage(group_by="hour", since=0))["groups"])
        await expect(look.page.locator("#requests-summary")).to_contain_text(f"Peak in one hour: {peak} ")
        await nothing_was_wrong(look)


async def test_500_adapters_are_sorted_filtered_and_paginated(looking: Looking) -> None:
    async with looking(MANY, 6000, color_scheme="dark") as look:
        page = look.page
        await expect(page.locator("#page")).to_have_text("1–25 of 500")
        costs = numbers(await column(page, "total"))
        assert len(costs) == 25
        assert costs == sorted((cost for cost in costs if cost is not None), reverse=True)
        await expect(page.locator("#by-total")).to_have_attribute("aria-sort", "descending")
        await look.settle()
        await picture(page, "many-dark")

        by_requests = page.get_by_role("button", name="Requests", exact=True)
        await by_requests.click()
        most = numbers(await column(page, "requests"))
        await by_requests.click()
        least = numbers(await column(page, "requests"))
        assert most[0] is not None
        assert least[0] is not None
        assert most[0] > most[-1] >= least[-1] >= least[0]  # type: ignore[operator]
        await expect(page.locator("#by-requests")).to_have_attribute("aria-sort", "ascending")
        await expect(page.locator("#by-total")).not_to_have_attribute("aria-sort", re.compile(".*"))

        await page.get_by_role("button", name="Next").click()
        await expect(page.locator("#page")).to_have_text("26–50 of 500")
        await page.locator("#filter").fill("-42")
        await expect(page.locator("#page")).to_have_text("1–10 of 10")
        assert sorted(await names(page)) == [f"customer-{number}" for number in range(420, 430)]
        await page.locator("#filter").fill("nobody")
        await expect(page.locator("#empty")).to_have_text("No adapter matches the filter.")
        await expect(page.locator("#base-row th")).to_have_text("base")
        await nothing_was_wrong(look)


async def test_a_range_shows_the_requests_that_ended_in_it(looking: Looking) -> None:
    async with looking(THREE, 1200) as look:
        page, shown = look.page, look.page.locator("#tile-requests dt + dd")
        await expect(shown).to_have_text("1,200")
        async with page.expect_response(lambda answer: "group_by=adapter" in answer.url) as answered:
            await page.get_by_role("radio", name="last hour").check()
        report = await (await answered.value).json()
        await expect(shown).to_have_text(f"{report['total']['requests']:,}")
        assert 100 < report["total"]["requests"] < 400
        await page.get_by_role("radio", name="from … to").check()
        await page.locator("#since").fill("2020-01-01T00:00")
        await page.locator("#until").fill("2020-01-02T00:00")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#unpriced")).to_have_text("No requests in this range.")
        await expect(shown).to_have_text("0")
        await expect(page.locator("#requests-chart")).to_contain_text("no data in this range")
        await picture(page, "empty-light")
        await nothing_was_wrong(look)


async def test_costs_can_be_shown_by_price_list(looking: Looking) -> None:
    async with looking(THREE, 600) as look:
        await expect(look.page.locator("#rows tr")).to_have_count(3)
        await look.page.get_by_role("radio", name="price list").check()
        await expect(look.page.locator("#caption")).to_contain_text("costs by price list")
        groups = {group["label"]["adapter"]: group for group in (await look.usage(since=0))["groups"]}
        expected = [groups[name]["cost"]["price_list"]["usd"] for name in await names(look.page)]
        assert numbers(await column(look.page, "total")) == pytest.approx(expected)


async def test_without_prices_costs_are_unknown(looking: Looking) -> None:
    """T5: unpriced is unknown, not zero."""
    async with looking(THREE, 300, priced=False, prices={}) as look:
        page = look.page
        hint = page.locator("#unpriced")
        await expect(hint).to_contain_text("No prices are set for tokens (prices.base.input")
        await expect(hint).to_contain_text("prices.gpu_hour")
        for name in ("total", "by_time", "by_list", "verdict", "measured", "break_even"):
            assert set(await page.locator(f"#table [data-column={name}]").all_text_contents()) == {"–"}, name
        await picture(page, "unpriced-light")
        await nothing_was_wrong(look)


async def test_prices_that_are_set_are_not_said_to_be_missing(looking: Looking) -> None:
    """T13: requests from before prices were set are counted, and the prices are not called unset."""
    async with looking(THREE, 300, priced=False) as look:
        total = (await look.usage())["total"]["cost"]
        counts = [total[mode]["unpriced_requests"] for mode in ("price_list", "gpu_hour")]
        await expect(look.page.locator("#unpriced")).to_have_text(
            f"Requests unpriced: {counts[0]} by price list, {counts[1]} by engine time; "
            "their cost is unknown and in no sum."
        )


async def test_a_controlled_result_is_shown_without_colour_and_nothing_is_compared_by_live_traffic(
    looking: Looking,
) -> None:
    """T4: the last controlled result with its date, and how to get one where there is none."""
    async with looking(THREE, 600, evaluated=THREE[:1]) as look:
        await look.settle()
        page, name = look.page, THREE[0]
        cell = page.locator(f"[data-route={name}] [data-column=verdict]")
        await expect(cell).to_have_text("better")
        await expect(cell).to_have_attribute("title", re.compile("better by 0.60 .* loramux finetune show ftjob-"))
        await expect(page.locator(f"[data-route={name}] [data-column=measured]")).to_have_text("2023-11-14")
        await expect(page.locator(f"[data-route={THREE[1]}] [data-column=verdict]")).to_have_text("–")
        colour = "element => getComputedStyle(element).color"
        plain = await page.locator(f"[data-route={name}] [data-column=requests]").evaluate(colour)
        assert await cell.evaluate(colour) == plain
        await expect(page.locator("#routes")).to_contain_text("Live traffic is not an experiment")
        await expect(page.locator("#routes")).to_contain_text("loramux experiment start NAME")
        await picture(page, "controlled-light")
        await nothing_was_wrong(look)


async def test_the_last_day_has_24_hours(looking: Looking) -> None:
    """T13: a range is exactly as long as its name says, and ends now."""
    async with looking(THREE, 300) as look:
        for name, hours in (("last day", 24), ("last hour", 1), ("7 days", 7 * 24), ("30 days", 30 * 24)):
            async with look.page.expect_request(lambda request: "group_by=adapter" in request.url) as asked:
                if name == "last day":  # the choice at first
                    await look.page.reload()
                else:
                    await look.page.get_by_role("radio", name=name).check()
            query = parse_qs(urlsplit((await asked.value).url).query)
            assert "until" not in query
            assert time.time() - float(query["since"][0]) == pytest.approx(hours * 3600, abs=5), name


async def test_the_page_can_be_used_with_the_keyboard(looking: Looking) -> None:
    async with looking(MANY[:60], 600) as look:
        page = look.page
        await expect(page.locator("#page")).to_have_text("1–25 of 60")
        await page.keyboard.press("Tab")
        await expect(page.locator(":focus")).to_have_text("Skip to the table of routes")
        await page.keyboard.press("Enter")
        await expect(page.locator("#routes")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.type("customer-00")
        await expect(page.locator("#page")).to_have_text("1–10 of 10")
        await expect(page.locator("#announcement")).to_have_text("1–10 of 10 adapters match the filter")
        await page.locator("#by-output button").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#by-output")).to_have_attribute("aria-sort", "descending")
        await expect(page.locator("#announcement")).to_have_text("Sorted by Tokens Output, highest first.")
        await expect(page.locator("#by-output button")).to_be_focused()
        await page.locator("input[value=day]").focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("input[value=week]")).to_be_checked()
        await page.locator("#pause").focus()
        await page.keyboard.press("Space")
        await expect(page.locator("#announcement")).to_have_text("Updates are paused.")
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        await nothing_was_wrong(look)


async def test_an_api_key_is_requested_kept_in_the_tab_and_removed(looking: Looking) -> None:
    async with looking(THREE, 300, keys=("secret",)) as look:
        page = look.page
        await expect(page.locator("#key")).to_be_focused()
        await expect(page.locator("#content")).to_be_hidden()
        await picture(page, "key-light")
        await page.locator("#key").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#key-reason")).to_have_text("Incorrect API key provided.")
        await page.locator("#key").fill("secret")
        await page.keyboard.press("Enter")
        await expect(page.locator("#rows tr")).to_have_count(3)
        assert json.loads(
            await page.evaluate("JSON.stringify([Object.values(sessionStorage), localStorage.length])")
        ) == [
            ["secret"],
            0,
        ]
        assert not [url for url in look.asked if "secret" in url]
        await page.get_by_role("button", name="Forget the API key").click()
        await expect(page.locator("#key")).to_be_focused()
        assert await page.evaluate("sessionStorage.length") == 0


async def test_numbers_are_marked_as_outdated_while_the_server_does_not_respond(looking: Looking) -> None:
    async with looking(THREE, 300) as look:
        page = look.page
        await expect(page.locator("#rows tr")).to_have_count(3)
        await page.context.set_offline(offline=True)
        await page.get_by_role("radio", name="last hour").check()
        await expect(page.locator("#error")).to_contain_text("The server does not respond. The numbers are outdated")
        await expect(page.locator("#rows tr")).to_have_count(3)
        await picture(page, "gone-light")
        await page.context.set_offline(offline=False)
        await page.get_by_role("radio", name="last day").check()
        await expect(page.locator("#error")).to_be_hidden()
        await expect(page.locator("#announcement")).to_contain_text("Updated.")


async def test_with_reduced_motion_updates_are_paused(looking: Looking) -> None:
    async with looking(THREE, 100, reduced_motion="reduce") as look:
        await expect(look.page.locator("#rows tr")).to_have_count(3)
        await expect(look.page.locator("#pause")).to_have_attribute("aria-pressed", "true")


async def test_a_name_is_shown_as_text_and_never_as_markup(looking: Looking) -> None:
    evil = "<img src=x onerror=alert(1)>"
    async with looking([evil], 50) as look:
        await look.settle()
        await expect(look.page.locator("#rows th")).to_have_text(evil)
        assert await look.page.locator("#rows img").count() == 0
        await nothing_was_wrong(look)


async def test_the_page_passes_the_automatic_accessibility_checks(looking: Looking) -> None:
    # A script that is put in from outside needs the policy out of its way; the other tests keep it.
    async with looking(THREE, 500, bypass_csp=True) as look:
        await look.settle()
        for scheme in ("light", "dark"):
            await look.page.emulate_media(color_scheme=scheme)
            found = await Axe().run(look.page)
            assert found.violations_count == 0, found.generate_report()


async def test_the_page_fits_a_narrow_window_in_the_dark_theme(looking: Looking) -> None:
    async with looking(MANY[:30], 900, viewport={"width": 390, "height": 800}) as look:
        await look.settle()
        await look.page.get_by_label("Theme").select_option("dark")
        ground = await look.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(20, 23, 28)"
        wider = await look.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0
        await look.page.wait_for_timeout(300)
        await picture(look.page, "narrow-dark")
        await nothing_was_wrong(look)


async def test_experiments_are_listed_with_their_verdicts_and_warnings(looking: Looking) -> None:
    async with looking(THREE, 50) as look:
        await look.settle()
        await expect(look.page.locator("#no-experiments")).to_be_visible()
        interval = {"low": 0.1, "estimate": 0.2, "high": 0.3}
        sides = {
            side: {"name": name, "units": 60, "score": interval}
            for side, name in (("challenger", "adapter"), ("reference", "baseline"))
        }
        report = {
            **sides,
            "difference": interval,
            "sentence": "adapter is <b>better</b> than baseline.",
            "warnings": ["Some requests name no user."],
        }
        experiment = {
            "id": "exp_1",
            "adapter": "tone",
            "state": "stopped",
            "reason": "It was stopped.",
            "share": 0.05,
            "sampled": "baseline",
            "created_at": 1_700_000_000,
            "report": report,
        }
        said = {"route": "adapter", "adapter": "tone", "version": "abc", "requests": 12, "mean": 0.75}
        await look.page.route("**/admin/experiments*", lambda route: route.fulfill(json={"data": [experiment]}))
        await look.page.route("**/admin/feedback*", lambda route: route.fulfill(json={"since": 0, "data": [said]}))
        await look.page.reload()
        row = look.page.locator("#experiment-rows tr")
        await expect(row).to_contain_text("exp_1tonestopped: It was stopped.adapter against baseline, 5.0 % get the")
        await expect(row).to_contain_text(
            "+0.20 [+0.10, +0.30]adapter is <b>better</b> than baseline.Some requests name"
        )
        await expect(look.page.locator("#feedback")).to_contain_text("tone@abc: 0.75 from 12.")
        await nothing_was_wrong(look)


async def test_jobs_are_listed(looking: Looking) -> None:
    async with looking(THREE, 50) as look:
        await look.settle()
        await expect(look.page.locator("#no-jobs")).to_be_visible()
        job = {
            "id": "ftjob-1",
            "status": "running",
            "model": "tiny",
            "fine_tuned_model": None,
            "created_at": 1_700_000_000,
        }
        ours = {"model": "ft:x", "step": 1, "steps": 4, "loss": 0.5, "validation_loss": None, "seconds_left": 9.4}
        evaluation = {"verdict": "better", "gain": {"low": 0.4, "mean": 0.5, "high": 0.62}, "sentence": "It <b>is</b>."}
        ours |= {"cost": {"price_list": 0.25, "gpu_hour": 0}, "evaluation": evaluation}
        other = job | {"id": "ftjob-0", "progress": 0.25, "loramux": ours}
        answer = {"object": "list", "data": [job, other], "has_more": False}
        await look.page.route("**/v1/fine_tuning/jobs*", lambda route: route.fulfill(json=answer))
        await look.page.reload()
        await expect(look.page.locator("#job-rows tr")).to_have_count(2)
        await expect(look.page.locator("#job-rows tr").first).to_contain_text("ftjob-1running–––")
        await expect(look.page.get_by_role("progressbar", name="Progress of ftjob-0")).to_have_js_property(
            "value", 0.25
        )
        await expect(look.page.locator("#job-rows tr").last).to_contain_text(
            "step 1 of 4, loss 0.500, less than a minute left$0.250 tokensbetter: +0.50 [+0.40, +0.62]ft:x"
        )
        await nothing_was_wrong(look)


async def test_a_key_is_created_shown_once_rotated_and_revoked(looking: Looking) -> None:
    async with looking(keys=("first",), bypass_csp=True) as look:  # which the accessibility checks need
        page, http = look.page, look.server.http
        await page.fill("#key", "first")
        await page.keyboard.press("Enter")
        await page.fill("#new-key-name", "<b>web</b>")
        await page.fill("#new-key-project", "shop")
        await page.click("#new-key button")
        message = page.locator("#key-message")
        await expect(message).to_contain_text("sk-loramux-")
        created = (await message.text_content() or "").rpartition(" ")[2]
        headers = {"authorization": f"Bearer {created}"}
        assert (await http.get("/v1/models", headers=headers)).status_code == 200
        await expect(page.locator("#key-rows th")).to_have_text("<b>web</b>")
        page.on("dialog", lambda dialog: dialog.accept())
        await page.click("#key-rows button:has-text('Rotate')")
        await expect(message).not_to_contain_text(created)
        await page.click("#key-rows button:has-text('Revoke')")
        await expect(page.locator("#key-rows td", has_text="revoked")).to_be_visible()
        assert (await http.get("/v1/models", headers=headers)).status_code == 401
        report = await Axe().run(page)
        assert report.violations_count == 0, report.generate_report()
        assert [complaint for complaint in look.complaints if "401" not in complaint] == []
