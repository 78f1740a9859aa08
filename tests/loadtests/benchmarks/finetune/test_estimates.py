import pytest

from benchmarks.finetune.estimates import EstimatedJob, Sample, _metrics


def test_errors_are_relative_to_what_was_left() -> None:
    samples = [Sample(25.0, 150.0, "training"), Sample(50.0, 40.0, "training"), Sample(75.0, 25.0, "evaluating")]
    job = EstimatedJob("job 1", 120.0, 100.0, samples)
    assert [job.error_at(share) for share in (0.25, 0.5, 0.75)] == pytest.approx([1.0, -0.2, 0.0])
    found = {metric.name: metric for metric in _metrics(job, has_learned=True)}
    assert found["job 1: size of the error at half time"].spread.median == pytest.approx(0.2)
    assert found["job 1: size of the error at half time"].goal == "at most 0.25"
    assert found["job 1: error of the estimate before"].spread.median == pytest.approx(0.2)


def test_an_unknown_time_left_is_not_an_error_of_0() -> None:
    with pytest.raises(ValueError, match="was unknown after 1 s"):
        EstimatedJob("job 1", 1.0, 2.0, [Sample(1.0, None, None)]).error_at(0.5)
