"""The report as one HTML page: without scripts or external resources, with all text escaped."""

import json
from collections.abc import Sequence
from html import escape

from loramux_loadtests.loadtest import plots
from loramux_loadtests.loadtest.report import DEFINITIONS, RunReport, fact_lines, table_rows
from loramux_loadtests.loadtest.sweep import SweepResult
from loramux_loadtests.machine import describe_machine

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 78rem;
  margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; } th { background: #f4f4f4; }
td small { color: #666; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(32rem, 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
.warning { color: #9c3a00; font-weight: 600; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.2rem; max-width: 46rem; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; }
"""


def render_page(reports: Sequence[RunReport], sweeps: Sequence[SweepResult] = ()) -> str:
    """Render the report of one load on one or more servers, or at several rates."""
    scenario = reports[0].run.scenario
    parts = [
        f"<h1>{escape(scenario.title)}</h1><p>{escape(scenario.about)}</p>",
        _table(reports),
        _facts(reports, sweeps),
        _plots(reports),
        _definitions(),
        _arguments(reports),
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(scenario.title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table of plain text; text in brackets after a value is small."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(title: str, svg: str) -> str:
    """Render a plot under its title, which is also its label for screen readers."""
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return f"<figure><figcaption>{escape(title)}</figcaption>{named}</figure>"


def _cell(text: str) -> str:
    value, bracket, rest = text.partition(" [")
    return f"<td>{escape(value)}{f' <small>[{escape(rest)}</small>' if bracket else ''}</td>"


def _table(reports: Sequence[RunReport]) -> str:
    columns, *rows = table_rows(reports)
    return f"<h2>Results</h2>{html_table(columns, rows)}<p>In brackets: 95 % intervals.</p>"


def _facts(reports: Sequence[RunReport], sweeps: Sequence[SweepResult]) -> str:
    lines = [*(sweep.description for sweep in sweeps), *(fact for each in reports for fact in fact_lines(each))]
    items = (f"<li{' class=warning' if 'WARNING' in line else ''}>{escape(line)}</li>" for line in lines)
    return f"<ul>{''.join(items)}</ul>"


def _plots(reports: Sequence[RunReport]) -> str:
    pictures = {
        "TTFT over time": plots.over_time(reports, "ttft", "TTFT"),
        "Requests in flight": plots.in_flight(reports),
        "Distribution of TTFT": plots.distribution(reports, "ttft", "TTFT"),
        "Distribution of time per output token": plots.distribution(reports, "tpot", "time per output token"),
        "Median TTFT by route": plots.by_route(reports, "ttft", "TTFT"),
        "Median time per output token by route": plots.by_route(reports, "tpot", "time per output token"),
    }
    return f'<h2>Plots</h2><div class="plots">{"".join(figure(*each) for each in pictures.items())}</div>'


def _definitions() -> str:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in DEFINITIONS.items())
    return f"<h2>Definitions</h2><dl>{terms}</dl>"


def _arguments(reports: Sequence[RunReport]) -> str:
    run = reports[0].run
    scenario = json.dumps(run.scenario.model_dump(mode="json", exclude_unset=True), indent=1, ensure_ascii=False)
    machine = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in describe_machine().items()
    )
    seeded = f"<h2>Scenario</h2><p>Seed {run.seed}.</p><pre>{escape(scenario)}</pre>"
    return f"{seeded}<h2>Client machine</h2><dl>{machine}</dl>"
