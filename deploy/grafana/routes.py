"""The dashboard that compares the base with the adapters: traffic, latency, tokens, money."""

from deploy.grafana.panels import Dashboard, Panel, Query, Row, increase, quantiles, rate, ratio, top, total

REQUESTS = "loramux_requests_total"
COST = "loramux_cost_usd_total"
_ADAPTERS = 'route="adapter"'
_FAILURES = 'outcome="failed"'
# A route on which nothing has failed yet has no series for failures: that is an error rate of 0, not of nothing.
_NONE_YET = f"0 * {total(rate(REQUESTS), 'route')}"
_FAILED = f"({total(rate(REQUESTS, _FAILURES), 'route')} or {_NONE_YET})"
_BY_PINS = "Only pinned adapters have histograms of their own; the others share `_other`, and the base has no name."

TRAFFIC = Row(
    "Traffic",
    [
        Panel(
            "Requests by outcome",
            "A second. The route is `none` where a request was turned away before its model was known.",
            [Query(total(rate(REQUESTS), "route", "outcome"), "{{route}} {{outcome}}")],
            "reqps",
        ),
        Panel(
            "Error rate",
            "The share of requests that failed by a fault of the server's.",
            [Query(ratio(_FAILED, total(rate(REQUESTS), "route")), "{{route}}")],
            "percentunit",
        ),
        Panel(
            "Requests in flight",
            "They run, or wait for their adapter or in the engine's queue.",
            [Query(total("loramux_requests_in_flight", "route"), "{{route}}")],
            "short",
        ),
        Panel(
            "Busiest adapters",
            "Requests a second of the ten adapters that have most; after 200 names, the others are `_other`.",
            [Query(top(10, total(rate(REQUESTS, _ADAPTERS), "adapter")), "{{adapter}}")],
            "reqps",
            width=12,
        ),
        Panel(
            "Refused requests",
            "A second: wrong requests, and those for which there was no room.",
            [Query(total(rate(REQUESTS, 'outcome="refused"'), "route", "operation"), "{{route}} {{operation}}")],
            "reqps",
            width=12,
        ),
    ],
)

LATENCY = Row(
    "Latency",
    [
        Panel(title, description, quantiles(f"loramux_{name}", "route"), "s", width=12)
        for title, description, name in (
            ("Time to first token", "From the request's arrival to its first token.", "time_to_first_token_seconds"),
            ("Time per output token", "(last - first) / (tokens - 1).", "time_per_output_token_seconds"),
            ("Duration", "From the request's arrival to its response's end.", "request_duration_seconds"),
            ("Queue", "Waiting in the engine to be scheduled.", "queue_seconds"),
        )
    ]
    + [
        Panel(
            "Time to first token by adapter",
            _BY_PINS,
            quantiles("loramux_time_to_first_token_seconds", "adapter", matchers=_ADAPTERS, of=(0.95,)),
            "s",
            width=12,
        ),
        Panel(
            "Duration by adapter",
            _BY_PINS,
            quantiles("loramux_request_duration_seconds", "adapter", matchers=_ADAPTERS, of=(0.95,)),
            "s",
            width=12,
        ),
    ],
)

TOKENS = Row(
    "Tokens",
    [
        Panel(
            "Tokens by type",
            "A second; input includes the cached ones.",
            [Query(total(rate("loramux_tokens_total"), "route", "type"), "{{route}} {{type}}")],
            "short",
            width=12,
        ),
        Panel(
            "Share of input that was cached",
            "What the prefix cache saved.",
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

MONEY = Row(
    "Cost",
    [
        Panel(
            "Cost an hour",
            "By the tokens' prices (`price_list`) and by the engine's time (`gpu_hour`), at the present rate.",
            [Query(f"3600 * {total(rate(COST), 'route', 'mode')}", "{{route}} {{mode}}")],
            "currencyUSD",
        ),
        Panel(
            "Idle cost an hour",
            "What the engine's time costs in which nobody is in it.",
            [Query(f"3600 * {total(rate('loramux_idle_cost_usd_total'))}", "idle")],
            "currencyUSD",
        ),
        Panel(
            "Cost per request",
            "Over the requests that were not refused.",
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
            "Dearest adapters",
            "What the ten that cost most cost by the price list, over the time that is shown.",
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
    "What the base and the adapters do, how fast, and for how much.",
    [TRAFFIC, LATENCY, TOKENS, MONEY],
)
