"""The dashboards as Grafana will read them."""

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


def test_a_panel_has_an_address_of_its_own_a_unit_and_says_what_it_shows(dashboard: Any) -> None:
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
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns, lines = (range(place[at], place[at] + place[size]) for at, size in (("x", "w"), ("y", "h")))
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_asks_the_data_source_that_was_chosen(dashboard: Any) -> None:
    [choice] = dashboard["templating"]["list"]
    for panel in (panel for panel in dashboard["panels"] if panel["type"] != "row"):
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": choice["query"], "uid": f"${{{choice['name']}}}"}


def test_the_addresses_of_the_dashboards_differ() -> None:
    uids = [dashboard["uid"] for dashboard in dashboards().values()]
    assert len(set(uids)) == len(uids)


def test_compose_shows_grafana_the_folders_that_the_provisioning_names() -> None:
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


def test_grafana_reckons_with_the_interval_at_which_prometheus_scrapes() -> None:
    scraping = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert sources["datasources"][0]["jsonData"]["timeInterval"] == scraping
