"""The dashboard of the adapters in the engine: what is there, what comes and goes, what goes wrong."""

from deploy.grafana.panels import Dashboard, Panel, Query, Row, increase, quantiles, rate, ratio, total

_COLD = "loramux_adapter_cold_requests_total"


STATE = Row(
    "State",
    [
        Panel(
            "Engine",
            "1 while it answers; a server whose engine died ends, and then there is no number.",
            [Query("loramux_engine_up", "{{instance}}")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Adapters in the engine",
            "Versions in its host memory, or on their way there.",
            [Query(total("loramux_adapters_resident", "tier"), "{{tier}}")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Failed loads",
            "Over the time that is shown.",
            [Query(total(increase("loramux_adapter_loads_total", 'result="failed"')), "failed")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Quarantines",
            "Versions that were taken out of service, over the time that is shown.",
            [Query(total(increase("loramux_adapter_quarantines_total")), "quarantined")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
    ],
)

RESIDENCY = Row(
    "Coming and going",
    [
        Panel(
            "Residency",
            "Versions in the engine's host memory, or on their way there.",
            [Query(total("loramux_adapters_resident", "tier"), "{{tier}}")],
            "short",
        ),
        Panel(
            "Loads",
            "A second, by how they ended.",
            [Query(total(rate("loramux_adapter_loads_total"), "result", "source"), "{{result}} from {{source}}")],
            "ops",
        ),
        Panel("Load time", "Of the loads that succeeded.", quantiles("loramux_adapter_load_seconds"), "s"),
        Panel(
            "Evictions",
            "A second: `capacity` where another version needed the place.",
            [Query(total(rate("loramux_adapter_evictions_total"), "tier", "reason"), "{{tier}} {{reason}}")],
            "ops",
        ),
        Panel(
            "Cold requests",
            "A second: their adapter was not in the engine yet when they came.",
            [Query(total(rate(_COLD)), "cold")],
            "reqps",
        ),
        Panel(
            "Share of cold requests",
            "Of the adapters' requests; where it is high, more places (`max_cpu_loras`) or pins help.",
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

LEDGER = Row(
    "Ledger",
    [
        Panel(
            "Usage records that wait",
            "They are not in the database yet: it is slow or away if this grows.",
            [Query(total("loramux_usage_records_waiting"), "waiting")],
            "short",
            width=12,
        ),
        Panel(
            "Usage records that were dropped",
            "A second: no database would take them, and their cost is in no sum of the ledger's.",
            [Query(total(rate("loramux_usage_records_dropped_total")), "dropped")],
            "short",
            width=12,
        ),
    ],
)

ENGINE = Dashboard(
    "loramux-adapters",
    "loramux: adapters in the engine",
    "Which adapters are in the engine, what comes and goes, and what goes wrong.",
    [STATE, RESIDENCY, LEDGER],
)
