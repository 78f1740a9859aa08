"""Jobs are planned for the device on which they will be trained; GPU-10."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.base_memory import BaseMemory
from loramux_adapters.finetuning.jobs.errors import InvalidJob
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.plans import JobPlan, RequestedHyperparameters
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.recipes.memory import leanest_strategy
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, TrainingDevice
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.adapter_files import BASE
from tests.helpers.fine_tuning_jobs import JobTestBed, has_ended, job_test_bed, until

ROOMY_GPU = TrainingDevice("cuda:0", 1 << 40, 2)
FULL_GPU = TrainingDevice("cuda:0", 1000, 2)
CPU = TrainingDevice("cpu", 1 << 40, 4)


@pytest.fixture
def bed(tmp_path: Path, engine: sa.Engine) -> JobTestBed:
    return job_test_bed(tmp_path, engine)


def planner(bed: JobTestBed, devices: Sequence[TrainingDevice]) -> JobPlanner:
    changes = {"machine": "a GPU", "cpu_machine": "a CPU", "trains_on_gpu": True}
    return replace(bed.runner.planner, find_devices=lambda: devices, **changes)  # type: ignore[arg-type]


def plan(bed: JobTestBed, *devices: TrainingDevice) -> JobPlan:
    return planner(bed, devices).plan(bed.training_file, None, RequestedHyperparameters(), 1)


def test_a_job_that_fits_on_the_gpu_is_planned_for_it(bed: JobTestBed) -> None:
    found = plan(bed, ROOMY_GPU, CPU)
    assert (found.on_gpu, found.recipe.last_layers, found.work.recomputes) == (True, None, False)
    assert planner(bed, [ROOMY_GPU]).timings(found).machine == "a GPU"


def test_a_job_that_does_not_fit_there_is_planned_for_the_cpu(bed: JobTestBed) -> None:
    found = plan(bed, FULL_GPU, CPU)
    assert not found.on_gpu
    assert found.recipe.last_layers == -(-BASE.spec.num_hidden_layers * 2 // 5)
    assert planner(bed, [FULL_GPU, CPU]).timings(found).machine == "a CPU"
    assert found.estimate.phases["loading"] == 20  # as assumed for a CPU


async def test_a_job_that_falls_back_to_the_cpu_teaches_the_speed_of_the_cpu(bed: JobTestBed) -> None:
    """It was planned for the GPU, whose free memory went before the trainer measured it."""
    bed.runner.planner = planner(bed, [ROOMY_GPU, CPU])
    job = bed.job()
    async with bed.supervisor.running():
        job = await until(bed, job, has_ended)
    assert (job.state, job.timings.machine) == (JobState.SUCCEEDED, "a CPU")
    assert bed.runner.planner.speeds(on_gpu=False).measured
    assert not bed.runner.planner.speeds(on_gpu=True).measured


def test_an_estimate_counts_the_second_forward_pass_of_checkpointing(bed: JobTestBed) -> None:
    demand = MemoryDemand(BASE, Recipe(batch_size=1), 30, 30)
    tight = replace(ROOMY_GPU, free_bytes=demand.required_bytes(ROOMY_GPU, leanest_strategy()))
    found, roomy = plan(bed, tight, CPU), plan(bed, ROOMY_GPU, CPU)
    assert found.work.recomputes
    assert found.work.total_flops == pytest.approx(1.5 * roomy.work.total_flops)


@pytest.mark.parametrize(
    ("memory", "unquantized", "on_gpu"),
    [
        ({}, None, True),
        ({"can_dequantize": True}, None, False),
        ({"is_quantized_on_load": True}, None, False),  # the files have 16 bits
        ({"quantization": None}, None, False),
        ({}, Path("full"), False),
    ],
)
def test_a_job_is_planned_with_the_weights_that_it_will_be_trained_on(
    bed: JobTestBed, memory: dict[str, object], unquantized: Path | None, on_gpu: bool
) -> None:
    """0.3 GB as they are served, 2 GB in 16 bits; 1.2 GB are free on the GPU."""
    base = BASE.model_copy(update={"parameters": 10**9, "memory": QUANTIZED.model_copy(update=memory)})
    gpu = replace(ROOMY_GPU, free_bytes=1_200_000_000)
    planned = replace(planner(bed, [gpu, CPU]), base=base, unquantized_base=unquantized, quantize="never")
    assert planned.plan(bed.training_file, None, RequestedHyperparameters(), 1).on_gpu is on_gpu


QUANTIZED = BaseMemory(
    weight_bytes=300_000_000,
    quantization="awq",
    dtype="bfloat16",
    values_per_token=1,
    max_context=64,
    request_samples=((1, 1), (64, 64)),
)


def test_a_job_that_would_have_to_quantize_quantized_weights_is_refused(bed: JobTestBed) -> None:
    base = BASE.model_copy(update={"memory": QUANTIZED})
    gpu = replace(ROOMY_GPU, can_load_in_4bit=True)
    planned = replace(planner(bed, [gpu, CPU]), base=base, quantize="always")
    with pytest.raises(InvalidJob, match=r"training.quantize is always, but .* set training.base to the unquantized"):
        planned.plan(bed.training_file, None, RequestedHyperparameters(), 1)
    unquantized = replace(planned, unquantized_base=Path("full"))
    assert unquantized.plan(bed.training_file, None, RequestedHyperparameters(), 1).on_gpu
    unknown = replace(planned, find_devices=tuple)
    assert unknown.plan(bed.training_file, None, RequestedHyperparameters(), 1).on_gpu


def test_an_architecture_without_gradient_checkpointing_is_planned_without_it(bed: JobTestBed) -> None:
    """A batch of one example that fits with checkpointing alone."""
    demand = MemoryDemand(BASE, Recipe(batch_size=1), 30, 30)
    tight = replace(ROOMY_GPU, free_bytes=demand.required_bytes(ROOMY_GPU, leanest_strategy()))
    planned = replace(planner(bed, [tight, CPU]), base=BASE.model_copy(update={"can_checkpoint": False}))
    assert not planned.plan(bed.training_file, None, RequestedHyperparameters(), 1).on_gpu


@pytest.mark.parametrize("devices", [(), (FULL_GPU,)])
def test_without_a_device_that_is_known_to_fit_the_configured_one_is_expected(
    bed: JobTestBed, devices: tuple[TrainingDevice, ...]
) -> None:
    found = plan(bed, *devices)
    assert (found.on_gpu, found.recipe.last_layers, found.work.recomputes) == (True, None, False)


def test_a_run_has_the_settings_of_memory(bed: JobTestBed) -> None:
    job = bed.job()
    settings = {"quantize": "never", "unquantized_base": Path("full"), "served_dtype": "float16"}
    run = replace(bed.runner.planner, **settings).training_run(job)  # type: ignore[arg-type]
    assert {name: getattr(run, name) for name in settings} == settings
