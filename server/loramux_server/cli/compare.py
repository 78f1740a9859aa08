"""`loramux compare`: is the fine-tune worth it?"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loramux_server.cli.api_client import DEFAULT_URL, ApiKey, Url


class Passes(StrEnum):
    """What may be found in the prefix cache."""

    WARM = "warm"
    COLD = "cold"
    BOTH = "cold,warm"


def compare(
    sources: Annotated[
        list[Path],
        typer.Argument(exists=True, help="A data file (JSONL), a plan (YAML), or a folder with compare.yaml; several."),
    ],
    *,
    arm: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MODEL[:PROMPT]", help="A way of answering; twice or more.")
    ] = None,
    scorer: Annotated[
        str, typer.Option(help="exact, label, json, chrf, FILE.py:FUNCTION, YAML: '{type: label, labels: [a, b]}'.")
    ] = "exact",
    max_tokens: Annotated[int, typer.Option(min=1, help="How long an answer may be.")] = 128,
    challenger: Annotated[str | None, typer.Option(help="The arm to be proven.", show_default="last")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The arm that it is compared with.", show_default="the one before")
    ] = None,
    passes: Annotated[
        Passes, typer.Option(help="cold: nothing is in the prefix cache (vLLM's cache_salt).")
    ] = Passes.WARM,
    prices: Annotated[
        Path | None, typer.Option(exists=True, help="YAML with default, arms, gpu_hour, training, month.")
    ] = None,
    condition: Annotated[
        list[str] | None, typer.Option("--assert", help='Such as "quality_gain > 0.05 and cost_ratio < 1"; for CI.')
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=1024, help="Requests under way at any time.")] = 4,
    seed: Annotated[int, typer.Option(help="Draws the order.")] = 0,
    base: Annotated[str | None, typer.Option(help="The base's name on the server.", show_default="asks it")] = None,
    output: Annotated[Path, typer.Option(file_okay=False, help="Reports go to OUTPUT/NAME.")] = Path("comparisons"),
    readme: Annotated[
        list[Path] | None, typer.Option(exists=True, help="Rewrite the results between its marks; may be repeated.")
    ] = None,
    judge_api_key: Annotated[
        str | None, typer.Option(envvar="LORAMUX_JUDGE_API_KEY", help="Key of the judge's server.", show_default=False)
    ] = None,
    arm_api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LORAMUX_ARM_API_KEYS",
            metavar="ARM=KEY",
            help="Key of an arm's own server, which a plan names; that of --url is for no other.",
            show_default=False,
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Put the same items to several ways of answering, in turns, and say which is worth it.

    Works on this server and on any that speaks OpenAI's protocol. Data is OpenAI's chat fine-tuning format: the last
    message of each line is the right answer. A prompt is a JSON list of messages, or a text that becomes the system's
    message.

    Writes report.html (one page with everything), report.json, report.md, and rows.jsonl, from which a comparison that
    was broken off goes on; another scorer scores the answers in it anew, without asking again. Exits with 1 if an
    --assert does not hold or an answer could not be scored, with 2 if it was broken off.

    Examples:

    - loramux compare test.jsonl --arm prompted=SmolLM2-135M-Instruct:long.txt --arm tuned=tone:short.txt --scorer json

    - loramux compare comparison.yaml --passes cold,warm --assert "quality_gain_low > 0"

    Known to --assert: quality, reference_quality, quality_gain, quality_gain_low, quality_gain_high,
    prompt_token_ratio, output_token_ratio, ttft_ratio, tpot_ratio, latency_ratio, cost_ratio, cost_ratio_high,
    break_even_requests, break_even_requests_high, unscored, items.
    """
    # Its plots and statistics take a second to import, which no other command should wait for.
    from loramux_loadtests.compare.errors import ComparisonError
    from loramux_loadtests.compare.markdown import write_tables
    from loramux_loadtests.compare.runner import Settings, passes_of
    from loramux_loadtests.compare.session import Asked, compare_all

    asked = Asked(
        url=url,
        api_key=api_key,
        arm_keys=arm_api_key or (),
        base=base,
        arms=arm or (),
        scorer=scorer,
        max_tokens=max_tokens,
        challenger=challenger,
        reference=reference,
        prices=prices,
        limit=limit,
        output=output,
        conditions=condition or (),
        judge_key=judge_api_key,
        settings=Settings(passes_of(passes), at_once, seed),
    )
    code, found = compare_all(sources, asked)
    try:
        for path in readme or () if code < 2 else ():
            write_tables(path, found)
    except ComparisonError as error:
        typer.secho(str(error), fg="red", err=True)
        code = 2
    raise typer.Exit(code)
