"""Results under the names of `vllm bench serve --save-result`, for programs that read its files."""

from collections.abc import Sequence

import numpy as np

from loramux_loadtests.loadtest.rows import RequestRow, measured_seconds
from loramux_loadtests.loadtest.summary import GroupSummary

PERCENTILES = (50, 90, 95, 99)
MEASURE_OF_KEY = {"ttft": "ttft", "tpot": "tpot", "e2el": "latency"}

Figures = dict[str, float | int | None]


def vllm_result(rows: Sequence[RequestRow], summary: GroupSummary) -> Figures:
    """Return what vLLM's benchmark would report for these rows: times in milliseconds, from sending.

    As there, a measure without values is 0. `itl` is missing: rows don't store the time of each chunk.
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
        "max_concurrent_requests": max_concurrency(rows),
    }
    for name, measure in MEASURE_OF_KEY.items():
        values = np.asarray(measured_seconds(rows, measure) or [0.0]) * 1000
        figures |= {f"mean_{name}_ms": float(values.mean()), f"median_{name}_ms": float(np.median(values))}
        figures[f"std_{name}_ms"] = float(values.std())
        figures |= {f"p{q}_{name}_ms": float(np.percentile(values, q)) for q in PERCENTILES}
    return figures


def max_concurrency(rows: Sequence[RequestRow]) -> int:
    """Return the maximum number of requests in flight."""
    changes = sorted([(row.last, -1) for row in rows] + [(row.sent, 1) for row in rows])
    return int(np.max(np.cumsum([change for _, change in changes]), initial=0))
