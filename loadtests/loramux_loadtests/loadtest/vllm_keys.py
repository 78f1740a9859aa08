"""The figures by the names that `vllm bench serve --save-result` gives them, so that its readers can read ours."""

from collections.abc import Sequence

import numpy as np

from loramux_loadtests.loadtest.rows import Row, measured
from loramux_loadtests.loadtest.summary import Summary

PERCENTILES = (50, 90, 95, 99)
NAMES = {"ttft": "ttft", "tpot": "tpot", "e2el": "latency"}

Figures = dict[str, float | int | None]


def vllm_result(rows: Sequence[Row], summary: Summary) -> Figures:
    """What vLLM's benchmark would report of these rows: times in milliseconds, from the sent moment.

    As there, a measure without values is 0. Its `itl` is left out: pieces are not kept one by one.
    """
    figures: Figures = {
        "duration": summary.seconds,
        "completed": summary.completed,
        "failed": summary.failed,
        "total_input_tokens": summary.input_tokens,
        "total_output_tokens": summary.output_tokens,
        "request_throughput": summary.rate,
        "request_goodput": summary.goodput,
        "output_throughput": summary.output_rate,
        "total_token_throughput": (summary.input_tokens + summary.output_tokens) / summary.seconds,
        "max_concurrent_requests": most_at_once(rows),
    }
    for name, measure in NAMES.items():
        values = np.asarray(measured(rows, measure) or [0.0]) * 1000
        figures |= {f"mean_{name}_ms": float(values.mean()), f"median_{name}_ms": float(np.median(values))}
        figures[f"std_{name}_ms"] = float(values.std())
        figures |= {f"p{q}_{name}_ms": float(np.percentile(values, q)) for q in PERCENTILES}
    return figures


def most_at_once(rows: Sequence[Row]) -> int:
    """The most requests that were under way at one moment."""
    changes = sorted([(row.last, -1) for row in rows] + [(row.sent, 1) for row in rows])
    return int(np.max(np.cumsum([change for _, change in changes]), initial=0))
