"""`loramux compare`: compare prompts and adapters by quality, tokens, latency and cost."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loramux_server.cli.api_client import DEFAULT_URL, ApiKey, Url
from loramux_server.cli.console import fail, stderr


class Passes(StrEnum):
    """State of the prefix cache during a pass."""

    WARM = "warm"
    COLD = "cold"
    BOTH = "cold,warm"


def compare(
    sources: Annotated[
        list[Path],
        typer.Argument(
            exists=True, help="Data file (JSONL), plan (YAML), or folder with compare.yaml; may be repeated."
        ),
    ],
    *,
    arm: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MODEL[:PROMPT]", help="Variant to compare; repeat at least twice.")
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="auto (chosen by the expected answers), exact, label, json, chrf, FILE.py:FUNCTION, YAML: "
            "'{type: label, labels: [a, b]}'."
        ),
    ] = "auto",
    measure: Annotated[
        str | None, typer.Option(help="Name of the score that decides.", show_default="the scorer's first")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(min=0.0001, max=1, help="Difference in quality that does not matter.", show_default="0.05"),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Training file of the variant under test: its items are left out."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per answer.")] = 128,
    challenger: Annotated[str | None, typer.Option(help="Variant under test.", show_default="last")] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Variant to compare it with; best: chosen from the others by some of the items.", show_default="best"
        ),
    ] = None,
    passes: Annotated[
        Passes, typer.Option(help="State of the prefix cache; cold: empty for each request (vLLM's cache_salt).")
    ] = Passes.WARM,
    prices: Annotated[
        Path | None,
        typer.Option(exists=True, help="YAML: prices as in loramux.yaml; also default, arms, training, month."),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--assert", help='Condition that must hold, such as "quality_gain > 0.05 and cost_ratio < 1"; for CI.'
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Limit to N items.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Maximum concurrent requests.")] = 4,
    at_once: Annotated[
        int | None, typer.Option(min=1, max=1024, hidden=True, help="Deprecated name of --concurrency.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for request order.")] = 0,
    base: Annotated[
        str | None, typer.Option(help="Name of the base model on the server.", show_default="from /v1/models")
    ] = None,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for reports; each goes to OUTPUT/NAME.")] = Path(
        "comparisons"
    ),
    readme: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="Markdown file whose results are updated between its markers; may be repeated."),
    ] = None,
    judge_api_key: Annotated[
        str | None,
        typer.Option(envvar="LORAMUX_JUDGE_API_KEY", help="API key of the judge's server.", show_default=False),
    ] = None,
    arm_api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LORAMUX_ARM_API_KEYS",
            metavar="ARM=KEY",
            help="API key of a variant's own server, as named in the plan; --api-key is only sent to --url.",
            show_default=False,
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Send the same items to several variants (prompts, adapters), interleaved, and report which one is better.

    Works with this server and any OpenAI-compatible one. Data is in OpenAI's chat fine-tuning format: the last message
    of each line is the expected answer, the others are sent. A prompt is a JSON list of messages, or a text that
    becomes the system message. If it has a system message, this replaces the one of the items; the rest of the prompt
    comes before their other messages.

    The verdict is: better, as good (the difference is within --margin), worse, neither works, scorer in doubt, or not
    enough items.
    Without --reference, the best of several other variants is the reference, chosen by a quarter of the items (at most
    20), which are not used for the verdict. If there are several variants, intervals are wider so that all are right.
    Warnings name what makes a verdict doubtful: items of the training file, expected answers that may be wrong, a
    scorer that gives everyone the same, answers that are empty or cut off, replaced system messages.

    Writes report.html (one page with everything), report.json, report.md and rows.jsonl. An interrupted comparison
    continues from rows.jsonl; with another scorer, its answers are scored again without new requests. Exit code 1 if an
    --assert does not hold or an answer could not be scored, 2 if the comparison was interrupted.

    Examples:

    - loramux compare test.jsonl --arm prompted=SmolLM2-135M-Instruct:long.txt --arm tuned=tone:short.txt

    - loramux compare comparison.yaml --passes cold,warm --assert "is_better or is_as_good and cost_ratio_high < 1"

    Names for --assert: is_better, is_as_good, is_worse, neither_works, scorer_in_doubt, is_decided, is_not_worse (worse
    by less than the margin, if at all), quality, reference_quality, quality_gain, quality_gain_low, quality_gain_high,
    prompt_token_ratio, output_token_ratio, ttft_ratio, tpot_ratio, latency_ratio, cost_ratio, cost_ratio_high,
    break_even_requests, break_even_requests_high, items, items_needed, unscored, warnings.
    """
    # Its plots and statistics take a second to import, which no other command should wait for.
    from loramux_loadtests.compare.errors import ComparisonError
    from loramux_loadtests.compare.markdown import write_tables
    from loramux_loadtests.compare.reading import CompareOptions
    from loramux_loadtests.compare.runner import RunSettings, parse_passes
    from loramux_loadtests.compare.session import compare_all

    if at_once is not None:
        stderr.print("--at-once is deprecated: use --concurrency instead", style="yellow")
    options = CompareOptions(
        url=url,
        api_key=api_key,
        arm_keys=arm_api_key or (),
        base=base,
        arms=arm or (),
        scorer=scorer,
        measure=measure,
        margin=margin,
        training=training,
        max_tokens=max_tokens,
        challenger=challenger,
        reference=reference,
        prices=prices,
        limit=limit,
        output=output,
        conditions=condition or (),
        judge_key=judge_api_key,
        settings=RunSettings(parse_passes(passes), at_once or concurrency, seed),
    )
    code, reports = compare_all(sources, options)
    try:
        for path in readme or () if code < 2 else ():
            write_tables(path, reports)
    except ComparisonError as error:
        fail(error, 2)
    raise typer.Exit(code)
