from pathlib import Path

import pytest
import yaml

from loramux_loadtests.examples import EXAMPLES, example_adapters
from loramux_loadtests.loadtest.plan import RequestPlan
from loramux_loadtests.loadtest.scenario import load_scenario
from tests.helpers.load_rows import scenario

TRACE = {"process": "trace", "file": "trace.csv"}


def write_scenario(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(scenario(**changes).model_dump(mode="json", exclude_unset=True)))
    return path


def test_a_scenarios_files_are_found_next_to_it_from_any_folder(tmp_path: Path) -> None:
    path = write_scenario(tmp_path / "mine", arrivals=TRACE, input={"corpus": "data/corpus.jsonl"}, requests=None)
    (tmp_path / "mine" / "trace.csv").write_text("0\n1\n")
    (tmp_path / "mine" / "data").mkdir()
    (tmp_path / "mine" / "data" / "corpus.jsonl").write_text('{"prompt": "hello"}\n')
    load = list(RequestPlan(load_scenario(str(path)).with_changes(rate=2.0), 0).load())
    assert [(each.at, each.prompt.messages[0]["content"]) for each in load] == [(0.0, "hello"), (0.5, "hello")]


def test_a_file_in_the_current_folder_is_found_if_the_scenarios_folder_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_scenario(str(write_scenario(tmp_path / "mine")))
    (tmp_path / "trace.csv").write_text("0\n")
    monkeypatch.chdir(tmp_path)
    assert found.find_file(Path("trace.csv")) == Path("trace.csv")
    (tmp_path / "mine" / "trace.csv").write_text("0\n")
    assert found.find_file(Path("trace.csv")) == tmp_path / "mine" / "trace.csv"


def test_the_examples_data_is_found_away_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_scenario("fine-tuning")
    assert found.fine_tuning is not None
    assert found.find_file(found.fine_tuning.data) == EXAMPLES / "support-intent" / "train.jsonl"
    assert found.find_file(Path("support-intent/train.jsonl")) == Path("support-intent/train.jsonl")
    assert set(example_adapters()) == {"house-tone", "order-json", "support-intent"}


def test_an_absolute_path_stays_what_it_is(tmp_path: Path) -> None:
    assert scenario().find_file(tmp_path / "trace.csv") == tmp_path / "trace.csv"


def test_a_report_names_a_file_as_the_scenario_does(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("0\n")
    found = load_scenario(str(write_scenario(tmp_path, arrivals=TRACE)))
    assert found.model_dump(mode="json", exclude_unset=True)["arrivals"] == TRACE
