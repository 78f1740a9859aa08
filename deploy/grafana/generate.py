"""Generates the dashboards: `python -m deploy.grafana.generate`, or `make dashboards`."""

import json
from pathlib import Path

from deploy.grafana.engine import ENGINE
from deploy.grafana.routes import ROUTES
from deploy.grafana.training import TRAINING_DASHBOARD

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = (ROUTES, ENGINE, TRAINING_DASHBOARD)


def files() -> dict[Path, str]:
    """Return the content of each dashboard file."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.to_json(), indent=2) + "\n" for dashboard in DASHBOARDS
    }


def main() -> None:
    """Write all dashboard files."""
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
