"""The dashboard of fine-tuning: the running job, waiting jobs and outcomes."""

from deploy.grafana.panels import Dashboard, Panel, PanelRow, Query, increase, rate, total

NOW = PanelRow(
    "Now",
    [
        Panel(
            "Progress",
            "Of the running job; 0 without one.",
            [Query(total("loramux_fine_tuning_progress_ratio"), "done")],
            "percentunit",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Time left",
            "Of the running job, estimated from its last steps.",
            [Query(total("loramux_fine_tuning_left_seconds"), "left")],
            "s",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Waiting jobs",
            "One job runs at a time.",
            [Query(total("loramux_fine_tuning_jobs_waiting"), "waiting")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Ended jobs",
            "By outcome, over the selected time range.",
            [Query(total(increase("loramux_fine_tuning_jobs_total"), "outcome"), "{{outcome}}")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
    ],
)

TRAINING = PanelRow(
    "Training",
    [
        Panel(
            "Loss",
            "Of the last step, in nats per answer token.",
            [Query(total("loramux_fine_tuning_loss"), "training")],
            "short",
        ),
        Panel(
            "Tokens",
            "Trained tokens per second; on a CPU, serving has priority.",
            [Query(total(rate("loramux_fine_tuning_tokens_total")), "tokens")],
            "ops",
        ),
    ],
)

TRAINING_DASHBOARD = Dashboard(
    "loramux-fine-tuning",
    "loramux: fine-tuning",
    "The running job, the number of waiting jobs, and outcomes.",
    [NOW, TRAINING],
)
