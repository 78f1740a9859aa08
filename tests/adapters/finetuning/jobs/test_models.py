from loramux_adapters.finetuning.jobs.models import JobProgress

FOUND = {"verdict": "better"}


def test_the_evaluation_of_a_job_of_an_earlier_release_is_read_from_its_old_name() -> None:
    assert JobProgress.model_validate({"step": 3, "trial": FOUND}).evaluation == FOUND


def test_the_evaluation_is_shown_with_its_deprecated_name_too() -> None:
    progress = JobProgress(step=3, evaluation=FOUND)
    document = progress.model_dump()
    assert (document["evaluation"], document["trial"]) == (FOUND, FOUND)
    assert JobProgress.model_validate(document) == progress


def test_the_share_of_done_steps_is_unknown_before_their_number_is() -> None:
    assert (JobProgress().share, JobProgress(step=1, steps=4).share) == (None, 0.25)
