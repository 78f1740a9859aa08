"""Chooses the recipe of a job for the device on which it is expected to train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor
from typing import Any

from pydantic import ValidationError

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.datasets.report import DatasetReport
from loramux_adapters.finetuning.errors import UnusableBase
from loramux_adapters.finetuning.jobs.errors import InvalidJob
from loramux_adapters.finetuning.jobs.plans import RequestedHyperparameters
from loramux_adapters.finetuning.recipes.adapter_shape import AdapterShape
from loramux_adapters.finetuning.recipes.device_choice import DeviceChoice, expect_device
from loramux_adapters.finetuning.recipes.hyperparameters import choose_recipe, default_learning_rate
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, Quantize, TrainingDevice
from loramux_adapters.finetuning.recipes.recipe import MAX_LEARNING_RATE, Method, Recipe


@dataclass(frozen=True)
class RecipePlanner:
    """Chooses recipes for jobs on `base`; see the fields of JobPlanner."""

    base: BaseDescription
    max_rank: int
    find_devices: Callable[[], Sequence[TrainingDevice]]
    quantize: Quantize
    trains_on_gpu: bool
    trains_on_unquantized: bool
    early_stopping_patience: int | None

    def choose(
        self,
        report: DatasetReport,
        validation: DatasetReport | None,
        requested: RequestedHyperparameters,
        seed: int,
        shape: AdapterShape | None,
    ) -> tuple[Recipe, DeviceChoice | None]:
        """Choose the recipe for the device on which the training fits now; None if that is not known.

        Raises:
            InvalidJob: a hyperparameter is wrong, or no device can do what the settings demand.
        """
        longest = max(report.longest, validation.longest if validation else 0, 8)
        devices = self.find_devices()
        choose = partial(
            self._recipe,
            requested,
            report.examples,
            max_length=longest,
            seed=seed % 2**32,
            shape=shape,
            early_stopping_patience=self.early_stopping_patience if validation else None,
        )
        recipe = choose(on_gpu=self.trains_on_gpu)
        choice = self._device(recipe, longest, devices)
        if choice and choice.device.is_gpu != self.trains_on_gpu:
            recipe = choose(on_gpu=choice.device.is_gpu)
            choice = self._device(recipe, longest, [choice.device])
        return recipe, choice

    def _device(self, recipe: Recipe, longest: int, devices: Sequence[TrainingDevice]) -> DeviceChoice | None:
        """Choose the device, as if answers were as long as the longest example."""
        demand = MemoryDemand.expected(self.base, recipe, longest, longest)
        demand = demand.with_unquantized_base() if self.trains_on_unquantized else demand
        try:
            return expect_device(demand, devices, self.quantize)
        except UnusableBase as error:
            raise InvalidJob(f"No job can be trained: {error}.") from error

    def _recipe(self, requested: RequestedHyperparameters, examples: int, **options: Any) -> Recipe:
        method: dict[str, Any] = {"method": requested.method, "beta": requested.beta}
        try:
            recipe = choose_recipe(requested.hyperparameters, requested.lora, examples, self.base, **method, **options)
        except ValidationError as error:
            raise _invalid_recipe(error, self.base, requested.method) from error
        except ValueError as error:
            raise InvalidJob(str(error), "lora") from error
        if recipe.rank > self.max_rank:
            raise InvalidJob(
                f"lora.rank is {recipe.rank}, but this server serves ranks up to {self.max_rank}: "
                "set LORAMUX_ENGINE__MAX_LORA_RANK higher.",
                "lora",
            )
        return recipe


def _invalid_recipe(error: ValidationError, base: BaseDescription, method: Method) -> InvalidJob:
    """Explain what is wrong with a recipe in terms of the request that it was chosen from."""
    first = error.errors(include_input=False, include_url=False)[0]
    if "learning_rate" not in first["loc"]:
        return InvalidJob(f"lora: {first['msg'].removeprefix('Value error, ')}", "lora")
    rate = default_learning_rate(base, method)
    return InvalidJob(
        f"learning_rate_multiplier: expected at most {floor(MAX_LEARNING_RATE / rate)} on this base: the learning rate "
        f"is {rate:g} times it, and must be above 0 and at most {MAX_LEARNING_RATE:g}",
        "learning_rate_multiplier",
    )
