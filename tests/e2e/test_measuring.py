"""`loramux compare` and `loramux loadtest` on the real engine: their results match the server's."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.conftest import EXAMPLE_NAMES, EXAMPLES, RealServer
from tests.e2e.test_usage import usage
from tests.helpers.server_process import LORAMUX

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


async def loramux(real: RealServer, *arguments: object) -> tuple[int | None, str]:
    """Run the command against the server; returns its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        LORAMUX,
        *map(str, arguments),
        "--url",
        real.url,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_a_comparison_finds_the_fine_tune_better_and_reports_failed_conditions(
    real: RealServer, tmp_path: Path
) -> None:
    folder = EXAMPLES / "support-intent"
    few_shot = f"few-shot={real.server.base_name}:{folder / 'prompt_few_shot.json'}"
    asked = (
        *("compare", folder / "test.jsonl", "--limit", 20, "--passes", "cold,warm", "--output", tmp_path),
        *("--training", folder / "train.jsonl", "--arm", few_shot),
        *("--arm", "tuned=support-intent"),
    )
    holds = ("--assert", "is_better and quality_gain > 0.3 and prompt_token_ratio < 0.1 and ttft_ratio < 1")
    since = time.time()
    code, output = await loramux(real, *asked, *holds)
    assert code == 0, output
    assert "“tuned” is better than “few-shot”" in output
    report = json.loads((tmp_path / "test" / "report.json").read_text())
    cold, warm = ({name: arm["measured"] for name, arm in found["arms"].items()} for found in report["passes"])
    assert cold["few-shot"]["cached_tokens"][1] == 0
    assert warm["few-shot"]["cached_tokens"][1] > 0.8 * warm["few-shot"]["input_tokens"][1]
    total = (await usage(real, since, 80))["total"]
    assert total["tokens"]["input"] == pytest.approx(
        20 * sum(arm["input_tokens"][1] for arm in (*cold.values(), *warm.values()))
    )
    sent = report["samples"][0]["arms"]["tuned"]["messages"]
    assert [message["role"] for message in sent] == ["system", "user"]  # as it was trained
    assert [warning["code"] for warning in report["warnings"]] == ["replaced_system_message"]

    code, output = await loramux(real, *asked, "--assert", "quality_gain > 0.999")
    assert (code, "does not hold: quality_gain > 0.999" in output) == (1, True), output
    assert (await usage(real, since, 80))["total"]["requests"] == 80  # nothing was asked again


async def test_a_soak_reports_every_route_as_the_servers_ledger_does(real: RealServer, tmp_path: Path) -> None:
    since = time.time()
    code, output = await loramux(
        *(real, "loadtest", "run", "soak", "--rate", 3, "--duration", 12, "--window", 4),
        *("--goal", "errors<0.01,ttft_p95<30", "--output", tmp_path),
    )
    assert code == 0, output
    report = json.loads((tmp_path / "load-soak.json").read_text())["runs"][0]
    routes, whole = report["routes"], report["groups"]["all"]
    assert set(routes) == {"base", *EXAMPLE_NAMES}
    assert whole["requests"] == whole["completed"] > 20
    assert whole["output_tokens"] == 24 * whole["completed"]
    assert (len(report["windows"]), report["missed"]) == (3, [])
    # Two requests to look at the tokenizer and eight to warm up came before.
    ledger = await usage(real, since, 10 + whole["requests"])
    assert ledger["total"]["tokens"]["output"] == whole["output_tokens"] + 2 + 8 * 24
    by_name = {group["label"]["adapter"]: group for group in ledger["groups"]}
    assert all(by_name[name]["requests"] == 2 + routes[name]["requests"] for name in EXAMPLE_NAMES)


async def test_an_unknown_route_is_reported_before_the_load(real: RealServer, tmp_path: Path) -> None:
    scenario = tmp_path / "mine.yaml"
    scenario.write_text(
        "title: Mine\narrivals: {process: poisson, rate: 1}\nmix: {names: [support-intnt]}\nrequests: 5\n"
    )
    code, output = await loramux(real, "loadtest", "run", scenario, "--output", tmp_path)
    assert (code, "no model support-intnt" in output, "support-intent" in output) == (2, True, True), output
