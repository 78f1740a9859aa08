import csv
from pathlib import Path

from loramux_adapters.finetuning.jobs.result_files import exponential_averages, write_results


def test_each_step_is_a_line_with_its_last_metrics(tmp_path: Path) -> None:
    metrics = [
        {"step": 1, "train_loss": 2.0, "train_mean_token_accuracy": 0.5},
        {"step": 2, "train_loss": 9.0},
        {"step": 2, "train_loss": 1.0},
        {"step": 2, "valid_loss": 1.5, "valid_mean_token_accuracy": 0.75},
    ]
    table, picture = write_results(tmp_path / "results", metrics, "a job")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    empty = {"valid_loss": "", "valid_mean_token_accuracy": ""}
    assert rows[0] == {"step": "1", "train_loss": "2.0", "train_accuracy": "0.5"} | empty
    assert (rows[1]["train_loss"], rows[1]["valid_loss"]) == ("1.0", "1.5")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_job_without_metrics_has_an_empty_table(tmp_path: Path) -> None:
    table, _ = write_results(tmp_path, [], "a job")
    assert len(table.read_text().splitlines()) == 1


def test_exponential_averages_start_at_the_first_value_and_follow_the_values() -> None:
    assert exponential_averages([3.0])[0] == 3.0
    means = exponential_averages([4.0] * 5 + [0.0] * 50)
    assert abs(means[4] - 4.0) < 1e-9
    assert 0 < means[-1] < 0.1
