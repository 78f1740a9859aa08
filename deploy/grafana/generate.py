"""Writes the dashboards: `python -m deploy.grafana.generate`, or `make dashboards`."""

import json
from pathlib import Path

from deploy.grafana.engine import ENGINE
from deploy.grafana.routes import ROUTES
from deploy.grafana.training import TRAINING_DASHBOARD

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = (ROUTES, ENGINE, TRAINING_DASHBOARD)


def files() -> dict[Path, str]:
    """The files of all dashboards, and what is to be in each."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.to_json(), indent=2) + "\n" for dashboard in DASHBOARDS
    }


def main() -> None:
    """Write them all."""
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
