"""The dashboard of the adapters in the engine: residency, loads, evictions and failures."""

from deploy.grafana.panels import Dashboard, Panel, PanelRow, Query, increase, quantiles, rate, ratio, total

_COLD = "loramux_adapter_cold_requests_total"


STATE = PanelRow(
    "State",
    [
        Panel(
            "Engine",
            "1 while the engine runs. If it dies, the server exits and the series ends.",
            [Query("loramux_engine_up", "{{instance}}")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Adapters in the engine",
            "Versions in the engine's host memory, or loading.",
            [Query(total("loramux_adapters_resident", "tier"), "{{tier}}")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Failed loads",
            "Over the selected time range.",
            [Query(total(increase("loramux_adapter_loads_total", 'result="failed"')), "failed")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Quarantines",
            "Quarantined versions, over the selected time range.",
            [Query(total(increase("loramux_adapter_quarantines_total")), "quarantined")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
    ],
)

RESIDENCY = PanelRow(
    "Residency",
    [
        Panel(
            "Residency",
            "Versions in the engine's host memory, or loading.",
            [Query(total("loramux_adapters_resident", "tier"), "{{tier}}")],
            "short",
        ),
        Panel(
            "Loads",
            "Per second, by result.",
            [Query(total(rate("loramux_adapter_loads_total"), "result", "source"), "{{result}} from {{source}}")],
            "ops",
        ),
        Panel("Load time", "Duration of successful loads.", quantiles("loramux_adapter_load_seconds"), "s"),
        Panel(
            "Evictions",
            "Per second; `capacity` if another version needed the memory.",
            [Query(total(rate("loramux_adapter_evictions_total"), "tier", "reason"), "{{tier}} {{reason}}")],
            "ops",
        ),
        Panel(
            "Cold requests",
            "Per second: requests whose adapter was not in the engine when they arrived.",
            [Query(total(rate(_COLD)), "cold")],
            "reqps",
        ),
        Panel(
            "Share of cold requests",
            "Of all requests to adapters. If it is high, raise `max_cpu_loras` or pin adapters.",
            [
                Query(
                    ratio(total(rate(_COLD)), total(rate("loramux_requests_total", 'route="adapter"'))),
                    "cold",
                )
            ],
            "percentunit",
        ),
    ],
)

LEDGER = PanelRow(
    "Ledger",
    [
        Panel(
            "Waiting usage records",
            "Records not yet in the database; it is slow or unreachable if this grows.",
            [Query(total("loramux_usage_records_waiting"), "waiting")],
            "short",
            width=12,
        ),
        Panel(
            "Dropped usage records",
            "Per second; they could not be stored, and the ledger does not include their cost.",
            [Query(total(rate("loramux_usage_records_dropped_total")), "dropped")],
            "short",
            width=12,
        ),
    ],
)

ENGINE = Dashboard(
    "loramux-adapters",
    "loramux: adapters in the engine",
    "Residency, loads, evictions and failures of adapters.",
    [STATE, RESIDENCY, LEDGER],
)
