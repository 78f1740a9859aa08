"""Intervals and verdicts against experiments whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks.coverage import command
from benchmarks.coverage.command import MIN_COVERAGE, simulate
from benchmarks.coverage.methods import CHOSEN, bonett_price, newcombe, tango, wilson
from benchmarks.coverage.scenarios import SIZES, Scenario, scenarios
from loramux_adapters.evaluation.verdict import compare_scores

ALL = list(scenarios())


def paired(a: int, b: int, c: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """One experiment: a items right by both, b only by ours, c only by theirs, d by neither."""
    return np.array([[1.0] * (a + b) + [0.0] * (c + d)]), np.array([[1.0] * a + [0.0] * b + [1.0] * c + [0.0] * d])


@pytest.mark.parametrize("scenario", ALL[::9], ids=lambda scenario: scenario.name)
def test_intervals_contain_the_truth_in_about_95_percent_of_a_few_experiments(scenario: Scenario) -> None:
    (cell,) = simulate(scenario, 20, experiments=200, methods=[CHOSEN])
    assert cell.coverage >= MIN_COVERAGE - 0.03  # two standard errors of 200 experiments


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_intervals_contain_the_truth_in_93_to_97_percent_of_2000_experiments(scenario: Scenario) -> None:
    """At least 93 % always; at most 97 % where the scores vary enough, see ENOUGH_VARIATION."""
    for items in SIZES:
        (cell,) = simulate(scenario, items, methods=[CHOSEN])
        assert cell.is_right, cell


def test_an_interval_that_is_too_narrow_would_be_found() -> None:
    share = next(scenario for scenario in ALL if scenario.name == "share 0.02")
    cells = {cell.method: cell for cell in simulate(share, 20, methods=["bootstrap", "Wilson", CHOSEN])}
    assert not cells["bootstrap"].is_right
    assert cells[CHOSEN].is_right


def test_bonett_and_prices_and_newcombes_intervals_are_those_of_a_worked_example() -> None:
    low, high = bonett_price(*paired(36, 12, 2, 0))  # (12 + 1 - 2 - 1) / 52 +- 1.96 sqrt((16 / 52 - (10 / 52)^2) / 52)
    assert (low[0], high[0]) == pytest.approx((0.0509, 0.3337), abs=1e-3)
    low, high = newcombe(*paired(36, 12, 2, 0))  # Newcombe (1998), table II
    assert (low[0], high[0]) == pytest.approx((0.0569, 0.3404), abs=1e-3)


@pytest.mark.parametrize("table", [(43, 0, 1, 0), (20, 12, 5, 13), (0, 10, 0, 0)])
def test_the_ends_of_tangos_interval_are_those_at_which_its_score_test_just_rejects(
    table: tuple[int, int, int, int],
) -> None:
    (low,), (high,) = tango(*paired(*table))
    _, b, c, _ = table
    count = sum(table)
    for delta in (low, high):
        if abs(delta) > 0.999:
            continue
        # The likelihood's maximum where p12 - p21 = delta, by trying.
        p21 = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)[1:-1]
        likelihood = b * np.log(p21 + delta) + c * np.log(p21) + (count - b - c) * np.log(1 - 2 * p21 - delta)
        best = p21[np.argmax(likelihood)]
        score = (b - c - count * delta) / np.sqrt(count * (2 * best + delta - delta**2))
        assert abs(score) == pytest.approx(1.96, abs=0.01)


def test_wilson_is_wilson() -> None:
    low, high = wilson(np.array([[1.0] * 5 + [0.0] * 5]))
    assert (low[0], high[0]) == pytest.approx((0.23659, 0.76341), abs=1e-5)


def verdicts(ours: float, theirs: float, items: int, experiments: int, seed: int) -> dict[str, float]:
    """The share of each verdict; half of an item's difficulty is common to both arms."""
    rng = np.random.default_rng(seed)
    found: dict[str, float] = {}
    for _ in range(experiments):
        common, own, other, is_common = rng.random((4, items))
        one, two = np.where(is_common < 0.5, common, own) < ours, np.where(is_common < 0.5, common, other) < theirs
        verdict = compare_scores(one.astype(float).tolist(), two.astype(float).tolist()).verdict
        found[verdict] = found.get(verdict, 0.0) + 1 / experiments
    return found


@pytest.mark.slow
@pytest.mark.parametrize("items", [10, 50, 200, 1000])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_of_equal_arms_at_most_5_percent_are_called_better_or_worse(share: float, items: int) -> None:
    found = verdicts(share, share, items, 1000, seed=items)
    assert found.get("better", 0) + found.get("worse", 0) <= 0.065  # 5 % and two standard errors


@pytest.mark.slow
@pytest.mark.parametrize("items", [50, 400, 2000])
def test_arms_that_differ_by_the_margin_are_called_as_good_in_at_most_5_percent(items: int) -> None:
    assert verdicts(0.95, 0.9, items, 2000, seed=items).get("as good", 0) <= 0.06  # 5 % and two standard errors


def test_the_report_has_every_method_and_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "scenarios", lambda: ALL[::6])
    monkeypatch.setattr(command, "SIZES", (10,))
    with pytest.raises(typer.Exit):
        command.main(experiments=200, results=tmp_path)
    text = (tmp_path / "coverage.md").read_text(encoding="utf-8")
    assert "| differences of shares | Tango |" in text
    assert "| share 0 | 10 | 0.000 | 0.00 | 1.000, 0.26" in text
