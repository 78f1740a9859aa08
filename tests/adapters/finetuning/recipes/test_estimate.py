import pytest

from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.jobs.timings import learn_speeds
from loramux_adapters.finetuning.recipes.estimate import CPU_SPEEDS, JobWork, estimate_job, job_work
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.adapter_files import BASE
from tests.helpers.llama_bases import SMOL
from tests.helpers.simulated_job import MACHINE, JobScript, play_job


def report(examples: int, tokens: int) -> DatasetReport:
    return DatasetReport(
        conversations=examples, examples=examples, tokens=tokens, trained_tokens=tokens // 2, shortest=1, median=2,
        p95=3, longest=4, duplicates=0, contradictions=0, distinct_answers=None, commonest_answer_share=None,
        warnings=(),
    )  # fmt: skip


def test_the_work_of_a_job_follows_its_files_and_its_recipe() -> None:
    recipe = Recipe(epochs=3, batch_size=8)
    work = job_work(report(20, 1000), report(50, 400), recipe, BASE, max_questions=30)
    assert (work.steps, work.tokens, work.questions) == (9, 3000, 30)
    assert work.flops == BASE.parameters * (3000 * 4 + 3 * 400 * 2)  # a validation pass has no backward pass
    half = recipe.model_copy(update={"last_layers": 1})
    shallow = job_work(report(20, 1000), None, half, BASE, max_questions=30)
    assert shallow.flops == pytest.approx(BASE.parameters * 3000 * (2 + 2 / BASE.spec.num_hidden_layers))
    assert shallow.questions == 0


def test_gradient_checkpointing_adds_a_forward_pass_of_the_layers_with_an_adapter() -> None:
    """GPU-10."""
    recipe = Recipe(last_layers=1)
    plain = job_work(report(20, 1000), None, recipe, BASE, 0)
    recomputed = job_work(report(20, 1000), None, recipe, BASE, 0, recomputes=True)
    assert plain.total_flops == plain.flops == recomputed.flops
    second_pass = BASE.parameters * 1000 * 2 / BASE.spec.num_hidden_layers
    assert recomputed.total_flops == pytest.approx(plain.flops + second_pass)
    slower = estimate_job(recomputed, CPU_SPEEDS).seconds / estimate_job(plain, CPU_SPEEDS).seconds
    assert slower == pytest.approx(recomputed.total_flops / plain.flops)


def test_the_work_of_an_older_release_is_without_checkpointing() -> None:
    work = JobWork.model_validate({"steps": 1, "tokens": 2, "flops": 3.0, "questions": 4})
    assert work.total_flops == 3.0


async def test_a_speed_is_learned_from_what_the_trainer_did_not_from_what_was_expected() -> None:
    """GPU-10: a job that was planned without gradient checkpointing, and trained with it."""
    planned = JobScript([(2.0, 100)] * 20)
    played = await play_job(planned, CPU_SPEEDS, gradient_checkpointing=True)
    work = played.record.timings.work
    assert work is not None
    assert work.total_flops == planned.work.flops + planned.work.recomputed_flops > planned.work.total_flops
    learned = learn_speeds([played.record], MACHINE, CPU_SPEEDS)
    assert learned.flops_per_second == pytest.approx(work.total_flops / 40, rel=0.02)


def test_without_an_earlier_job_an_estimate_says_that_it_is_assumed() -> None:
    found = estimate_job(job_work(report(20, 1000), None, Recipe(), BASE, 0), CPU_SPEEDS)
    assert "assumed, may be wrong by several times" in found.assumption
    assert found.total_seconds == pytest.approx(sum(found.phases.values()))
    assert found.seconds == found.phases["training"]


async def test_the_estimate_before_a_job_is_right_once_another_was_trained() -> None:
    """T12: it covers loading, publishing and evaluation, and learns from what happened."""
    earlier = JobScript([(2.0, 100)] * 20, loading=30, evaluating=40, questions=20, validation=5, validation_tokens=500)
    later = JobScript([(2.0, 100)] * 90, loading=30, evaluating=60, questions=30, validation=5, validation_tokens=500)
    learned = learn_speeds([(await play_job(earlier, CPU_SPEEDS)).record], MACHINE, CPU_SPEEDS)
    played = await play_job(later, learned)
    estimate = estimate_job(later.work, learned)
    assert "as fast as the last jobs" in estimate.assumption
    assert estimate.total_seconds == pytest.approx((played.record.finished_at or 0) - played.began, rel=0.15)


@pytest.mark.parametrize(
    ("examples", "tokens", "batch", "trained", "served"),
    [(1287, 49_943, 8, 81.9, 95.2), (4000, 263_912, 8, 571.4, 589.5)],
)
def test_assumed_speeds_are_near_what_a_cpu_of_two_cores_did(
    examples: int, tokens: int, batch: int, trained: float, served: float
) -> None:
    """Two jobs of `make bench-finetune` on the demo's base, alone on their machine; seconds of training and in all."""
    recipe = Recipe(last_layers=12, batch_size=batch)
    estimate = estimate_job(job_work(report(examples, tokens), None, recipe, SMOL, 0), CPU_SPEEDS)
    assert 1 / 1.3 < estimate.seconds / trained < 1.3
    assert 1 / 1.3 < estimate.total_seconds / served < 1.3


def test_dpo_adds_the_passes_of_the_reference() -> None:
    recipe = Recipe(method="dpo", epochs=2, batch_size=8)
    work = job_work(report(20, 1000), report(50, 400), recipe, BASE, max_questions=30)
    assert work.flops == BASE.parameters * (2000 * 6 + 3 * 400 * 4)
    assert work.questions == 5


def test_early_stopping_validates_ten_times() -> None:
    patient = Recipe(early_stopping_patience=2)
    work = job_work(report(20, 1000), report(50, 400), patient, BASE, max_questions=0)
    assert work.flops == BASE.parameters * (1000 * 4 + 10 * 400 * 2)
