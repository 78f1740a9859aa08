"""The dashboard of fine-tuning: the job that runs, those that wait, and how they end."""

from deploy.grafana.panels import Dashboard, Panel, Query, Row, increase, rate, total

NOW = Row(
    "Now",
    [
        Panel(
            "Progress",
            "Of the job that runs; 0 where none does.",
            [Query(total("loramux_fine_tuning_progress_ratio"), "done")],
            "percentunit",
            width=6,
            kind="stat",
            height=5,
        ),
        Panel(
            "Time left",
            "Of the job that runs, as its last steps tell.",
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
            "Over the time that is shown.",
            [Query(total(increase("loramux_fine_tuning_jobs_total"), "outcome"), "{{outcome}}")],
            "short",
            width=6,
            kind="stat",
            height=5,
        ),
    ],
)

TRAINING = Row(
    "Training",
    [
        Panel(
            "Loss",
            "Of the last step, in nats a token of the answers.",
            [Query(total("loramux_fine_tuning_loss"), "training")],
            "short",
        ),
        Panel(
            "Tokens",
            "Trained on, a second; serving on the same CPU comes first.",
            [Query(total(rate("loramux_fine_tuning_tokens_total")), "tokens")],
            "ops",
        ),
    ],
)

TRAINING_DASHBOARD = Dashboard(
    "loramux-fine-tuning",
    "loramux: fine-tuning",
    "How the job that runs goes, how many wait, and how they end.",
    [NOW, TRAINING],
)
