from dataclasses import replace

import pytest

from loramux_adapters.finetuning.trainer.pace import PlannedSteps, TrainingPace

PLANNED = PlannedSteps(
    steps=30, tokens=3000, checkpoint_steps=frozenset({10, 20, 30}), validation_tokens=500, forward_share=0.5
)


def paced(count: int, planned: PlannedSteps = PLANNED) -> TrainingPace:
    pace = TrainingPace(planned)
    for _ in range(count):
        pace.add_step(2.0, 100)
    return pace


def test_nothing_is_known_before_the_first_step() -> None:
    assert TrainingPace(PLANNED).seconds_left(0, 0) is None


def test_steps_validation_passes_and_saves_are_counted() -> None:
    pace = paced(5)
    assert pace.seconds_left(5, 500) == 25 * 2 + 3 * 500 * 0.02 * 0.5  # as long as a forward pass of that many tokens
    pace.add_validation(7.0)
    pace.add_save(1.0)
    assert pace.seconds_left(12, 1200) == 18 * 2 + 2 * 7 + 2 * 1
    assert pace.seconds_left(12, 1200, save_interval=9.0) == 18 * 2 + 2 * 7 + (2 + 4) * 1


def test_after_the_last_step_only_its_checkpoint_is_left() -> None:
    pace = paced(30)
    pace.add_validation(7.0)
    assert pace.seconds_left(30, 3000) == 7


def test_long_steps_are_expected_where_many_tokens_are_left() -> None:
    pace = TrainingPace(PlannedSteps(steps=4, tokens=2200, checkpoint_steps=frozenset()))
    for _ in range(2):
        pace.add_step(1.0, 100)
    assert pace.seconds_left(2, 200) == pytest.approx(20)


def test_the_first_steps_are_forgotten() -> None:
    pace = TrainingPace(PlannedSteps(steps=100, tokens=10_000, checkpoint_steps=frozenset()))
    pace.add_step(60.0, 100)
    for _ in range(5):
        pace.add_step(1.0, 100)
    assert pace.seconds_left(6, 600) == pytest.approx(94)


def test_a_pace_that_changed_long_ago_is_forgotten() -> None:
    pace = TrainingPace(PlannedSteps(steps=1000, tokens=100_000, checkpoint_steps=frozenset()))
    for number in range(500):
        pace.add_step(5.0 if number < 300 else 50.0, 100)
    assert pace.seconds_left(500, 50_000) == pytest.approx(500 * 50)


def test_a_wrong_total_of_tokens_does_not_end_the_training_early() -> None:
    pace = paced(10, PlannedSteps(steps=30, tokens=900, checkpoint_steps=frozenset()))
    assert pace.seconds_left(10, 1000) == pytest.approx(20 * 2)


def test_more_passes_over_the_validation_file_take_more_time() -> None:
    patient = replace(PLANNED, more_validation_steps=frozenset(range(3, 31, 3)))
    assert patient.validation_steps == frozenset({10, 20, *range(3, 31, 3)})
    plain, longer = (TrainingPace(planned) for planned in (PLANNED, patient))
    for pace in (plain, longer):
        pace.add_step(1.0, 100)
        pace.add_validation(2.0)
    left = [pace.seconds_left(1, 100) for pace in (plain, longer)]
    assert left[0] is not None
    assert left[1] == pytest.approx(left[0] + 9 * 2.0)
