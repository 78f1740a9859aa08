"""The committed dashboards are valid for Grafana."""

from typing import Any

import pytest
import yaml
from deploy.grafana.generate import FOLDER, files

from tests.helpers.deploy_files import DEPLOY, dashboards

UNITS = {"s", "reqps", "ops", "percentunit", "currencyUSD", "short"}


@pytest.fixture(params=sorted(dashboards()))
def dashboard(request: pytest.FixtureRequest) -> Any:
    return dashboards()[request.param]


def test_the_committed_dashboards_are_what_the_generator_writes() -> None:
    assert {path: path.read_text() for path in FOLDER.iterdir()} == files(), "run: make dashboards"


def test_a_panel_has_a_unique_id_a_unit_and_a_description(dashboard: Any) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in (panel for panel in dashboard["panels"] if panel["type"] != "row"):
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)) != []


def test_the_panels_stay_within_the_page_and_do_not_overlap(dashboard: Any) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24
        columns, lines = (range(position[at], position[at] + position[size]) for at, size in (("x", "w"), ("y", "h")))
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_uses_the_selected_data_source(dashboard: Any) -> None:
    [choice] = dashboard["templating"]["list"]
    for panel in (panel for panel in dashboard["panels"] if panel["type"] != "row"):
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": choice["query"], "uid": f"${{{choice['name']}}}"}


def test_the_uids_of_the_dashboards_differ() -> None:
    uids = [dashboard["uid"] for dashboard in dashboards().values()]
    assert len(set(uids)) == len(uids)


def test_compose_mounts_the_folders_that_the_provisioning_names() -> None:
    compose = yaml.safe_load((DEPLOY / "monitoring.yaml").read_text())
    provisioning = DEPLOY / "grafana" / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "loramux.yml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose["services"]["grafana"]["volumes"])
    assert DEPLOY / mounts[provider["options"]["path"]] == FOLDER
    assert DEPLOY / mounts["/etc/grafana/provisioning"] == provisioning
    assert (
        f"--web.listen-address={source['url'].removeprefix('http://')}" in compose["services"]["prometheus"]["command"]
    )


def test_grafana_uses_the_scrape_interval_of_prometheus() -> None:
    scraping = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert sources["datasources"][0]["jsonData"]["timeInterval"] == scraping
