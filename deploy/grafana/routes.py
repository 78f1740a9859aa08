"""The dashboard of the base and the adapters: traffic, latency, tokens and cost, which are not an experiment's."""

from deploy.grafana.panels import Dashboard, Panel, PanelRow, Query, increase, quantiles, rate, ratio, top, total

REQUESTS = "loramux_requests_total"
COST = "loramux_cost_usd_total"
_ADAPTERS = 'route="adapter"'
_FAILURES = 'outcome="failed"'
# A route without failures has no series for them; its error rate is 0, not missing.
_ZERO = f"0 * {total(rate(REQUESTS), 'route')}"
_FAILED = f"({total(rate(REQUESTS, _FAILURES), 'route')} or {_ZERO})"
_FEW = "p95 takes 20 requests per interval and p99 100; of fewer, it is about the slowest request."
_PINNED_ONLY = f"{_FEW} Only pinned adapters have their own histograms; the others share `_other`."

TRAFFIC = PanelRow(
    "Traffic",
    [
        Panel(
            "Requests by outcome",
            "Per second. The route is `none` for requests refused before their model was known.",
            [Query(total(rate(REQUESTS), "route", "outcome"), "{{route}} {{outcome}}")],
            "reqps",
        ),
        Panel(
            "Error rate",
            "The share of requests that failed by a server error.",
            [Query(ratio(_FAILED, total(rate(REQUESTS), "route")), "{{route}}")],
            "percentunit",
        ),
        Panel(
            "Requests in flight",
            "Running requests, and those that wait for their adapter or in the engine's queue.",
            [Query(total("loramux_requests_in_flight", "route"), "{{route}}")],
            "short",
        ),
        Panel(
            "Busiest adapters",
            "Requests per second of the ten busiest adapters; after 200 names, the others are `_other`.",
            [Query(top(10, total(rate(REQUESTS, _ADAPTERS), "adapter")), "{{adapter}}")],
            "reqps",
            width=12,
        ),
        Panel(
            "Refused requests",
            "Per second: invalid requests, and those beyond capacity.",
            [Query(total(rate(REQUESTS, 'outcome="refused"'), "route", "operation"), "{{route}} {{operation}}")],
            "reqps",
            width=12,
        ),
    ],
)

LATENCY = PanelRow(
    "Latency",
    [
        Panel(title, f"{description} {_FEW}", quantiles(f"loramux_{name}", "route"), "s", width=12)
        for title, description, name in (
            ("Time to first token", "From the request's arrival to its first token.", "time_to_first_token_seconds"),
            ("Time per output token", "(last - first) / (tokens - 1).", "time_per_output_token_seconds"),
            ("Duration", "From the request's arrival to its response's end.", "request_duration_seconds"),
            ("Queue", "Time in the engine's queue.", "queue_seconds"),
        )
    ]
    + [
        Panel(
            "Time to first token by adapter",
            _PINNED_ONLY,
            quantiles("loramux_time_to_first_token_seconds", "adapter", matchers=_ADAPTERS, of=(0.95,)),
            "s",
            width=12,
        ),
        Panel(
            "Duration by adapter",
            _PINNED_ONLY,
            quantiles("loramux_request_duration_seconds", "adapter", matchers=_ADAPTERS, of=(0.95,)),
            "s",
            width=12,
        ),
    ],
)

TOKENS = PanelRow(
    "Tokens",
    [
        Panel(
            "Tokens by type",
            "Per second; input includes cached tokens.",
            [Query(total(rate("loramux_tokens_total"), "route", "type"), "{{route}} {{type}}")],
            "short",
            width=12,
        ),
        Panel(
            "Cached share of input",
            "The share of input tokens in the prefix cache.",
            [
                Query(
                    ratio(
                        total(rate("loramux_tokens_total", 'type="cached"'), "route"),
                        total(rate("loramux_tokens_total", 'type="input"'), "route"),
                    ),
                    "{{route}}",
                )
            ],
            "percentunit",
            width=12,
        ),
    ],
)

COSTS = PanelRow(
    "Cost",
    [
        Panel(
            "Cost per hour",
            "By token prices (`price_list`) and by GPU time (`gpu_hour`), at the current rate.",
            [Query(f"3600 * {total(rate(COST), 'route', 'mode')}", "{{route}} {{mode}}")],
            "currencyUSD",
        ),
        Panel(
            "Idle cost per hour",
            "The cost of GPU time in which the engine is idle.",
            [Query(f"3600 * {total(rate('loramux_idle_cost_usd_total'))}", "idle")],
            "currencyUSD",
        ),
        Panel(
            "Cost per request",
            "Without refused requests; too low while others are unpriced (loramux_unpriced_requests_total).",
            [
                Query(
                    ratio(
                        total(rate(COST), "route", "mode"),
                        total(rate(REQUESTS, 'outcome!="refused"'), "route"),
                        on="on (route) group_left ()",
                    ),
                    "{{route}} {{mode}}",
                )
            ],
            "currencyUSD",
        ),
        Panel(
            "Most expensive adapters",
            "Cost of the ten most expensive adapters by the price list, over the selected time range.",
            [
                Query(
                    top(10, total(increase(COST, f'{_ADAPTERS}, mode="price_list"'), "adapter")),
                    "{{adapter}}",
                )
            ],
            "currencyUSD",
            width=24,
            kind="stat",
        ),
    ],
)

ROUTES = Dashboard(
    "loramux-routes",
    "loramux: base and adapters",
    "Traffic, latency, tokens and cost of the base and the adapters. Live traffic is not an experiment: the routes get "
    "different requests. For a comparison, use `loramux compare` or `loramux experiment`.",
    [TRAFFIC, LATENCY, TOKENS, COSTS],
)
